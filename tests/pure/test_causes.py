"""The causes of non-convergence, each brought about in the simulator or written into a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.pure.simulated_trace import record, writer
from vmferry.precopy.causes import Cause
from vmferry.precopy.evidence import evidence_of
from vmferry.precopy.explain import Explanation, explain
from vmferry.precopy.sample import Sample
from vmferry.precopy.trace import Item, Note, Trace
from vmferry.units import MIB

BUSY = writer(32, 40)
SECONDS = 15.0


def cause(found: Explanation, name: str) -> Cause:
    (one,) = [one for one in found.causes if one.name == name]
    return one


def names(found: Explanation) -> list[str]:
    return [one.name for one in found.causes]


def text(one: Cause) -> str:
    return " ".join(one.evidence)


def with_samples(trace: Trace, **changes: Any) -> Trace:
    """The recording with its samples changed."""
    items: list[Item] = [
        replace(item, **changes) if isinstance(item, Sample) else item for item in trace.items
    ]
    return Trace(trace.header, tuple(items))


def test_a_cap_that_the_trace_tells() -> None:
    found = explain(record(BUSY, SECONDS, cap=25))
    assert found.verdict == "does-not-converge"
    assert names(found) == ["bandwidth-cap", "working-set"]
    told = cause(found, "bandwidth-cap")
    assert "max-bandwidth, which is 25.0 MiB/s, held them there" in text(told)
    # Nobody saw what the link does without it.
    assert told.share is None
    assert cause(found, "working-set").share is None


def test_the_cap_that_libvirt_sets_for_none_is_none() -> None:
    slow = record(BUSY, SECONDS, cap=0, uncapped=25)
    unlimited = Note(0.0, "parameters", {"max-bandwidth": (2**43 - 1) * MIB})
    found = explain(Trace({}, (unlimited, *slow.items[1:])))
    assert "with no cap in the way" in text(cause(found, "slow-path"))
    assert found == explain(slow)


def test_a_cap_that_only_shows_as_a_flat_speed() -> None:
    found = explain(record(BUSY, SECONDS, cap=25, told=False))
    told = text(cause(found, "bandwidth-cap"))
    assert "hardly moved from 25.0 MiB/s" in told
    assert "does not say whether there was one" in told


@pytest.mark.parametrize(
    ("cap", "hint"),
    [
        (128, "max-bandwidth is 128 MiB/s unless changed"),
        (113, "what a full link of 1 Gbit/s carries"),
    ],
)
def test_a_flat_speed_that_is_known(cap: float, hint: str) -> None:
    found = explain(record(writer(96, 400), SECONDS, cap=cap, told=False))
    assert hint in text(cause(found, "bandwidth-cap"))


@pytest.mark.parametrize(
    ("cpu_seconds", "name", "hint"),
    [
        (0.98 * SECONDS, "sender-cpu", "a faster link would not help"),
        (0.30 * SECONDS, "slow-destination", "So the sender waited"),
        (0.78 * SECONDS, "slow-path", "cannot be told from this recording"),
        (None, "slow-path", "top -H"),
    ],
)
@pytest.mark.parametrize("cap", [0.0, 100.0])
def test_what_holds_a_speed_below_the_cap(
    cpu_seconds: float | None, name: str, hint: str, cap: float
) -> None:
    found = explain(record(BUSY, SECONDS, cap=cap, uncapped=25), cpu_seconds)
    assert names(found) == [name, "working-set"]
    told = text(cause(found, name))
    assert hint in told
    assert ("below the cap of 100 MiB/s" if cap else "with no cap in the way") in told


def test_the_working_set_is_told_by_the_passes() -> None:
    found = explain(record(BUSY, SECONDS, cap=25))
    told = text(cause(found, "working-set"))
    assert "A downtime limit of 300 ms at 25.0 MiB/s allows 7.50 MiB to be left" in told
    evidence = evidence_of(record(BUSY, SECONDS, cap=25))
    assert evidence.hover is not None
    assert evidence.hover.least > 7.5 * MIB
    assert f"{evidence.hover.dirty / (7.5 * MIB):.1f} times as much" in told


def test_a_throttle_at_its_end_and_one_that_is_not() -> None:
    trace = record(BUSY, SECONDS, cap=25)
    at_end = explain(with_samples(trace, throttle=99))
    assert "99 % of the guest's time" in text(cause(at_end, "throttle-at-end"))
    assert "throttle" not in {remedy.change for remedy in at_end.remedies}
    assert "throttle-at-end" not in names(explain(with_samples(trace, throttle=40)))
    limit = Note(0.0, "parameters", {"max-cpu-throttle": 40})
    limited = with_samples(Trace({}, (limit, *trace.items)), throttle=40)
    assert "throttle-at-end" in names(explain(limited))


def test_a_dip_at_the_end_is_a_cause_with_a_share() -> None:
    trace = record(BUSY, 13.0, cap=30, dip=(9.0, 99.0, 10.0))
    found = explain(trace)
    assert found.verdict == "does-not-converge"
    told = cause(found, "network-dip")
    assert told.share is not None
    assert 0 < told.share <= 1
    assert "had not recovered at the end" in text(told)


def test_a_dip_that_was_over_costs_time_only() -> None:
    found = explain(record(BUSY, SECONDS, cap=30, limit_ms=100, dip=(4.0, 6.0, 10.0)))
    told = cause(found, "network-dip")
    assert told.share == 0
    assert "fell from 30.0 MiB/s to 10.0 MiB/s" in text(told)
    assert "not what keeps the passes from ending" in text(told)


def test_one_slow_window_is_no_dip() -> None:
    assert evidence_of(record(BUSY, SECONDS, cap=30, dip=(4.0, 4.4, 10.0))).dips() == []


def test_the_switchover_shows_what_the_cap_withheld() -> None:
    """It hovered until the load ended: then the speed without a cap shows."""
    busy = record(writer(24, 200), SECONDS, cap=25)
    ended = record(writer(24, 0), SECONDS, cap=25)
    last = [item for item in busy.items if isinstance(item, Sample)][-1]
    final = [item for item in ended.items if isinstance(item, Sample)][-1]
    assert final.status == "completed"
    completed = replace(
        last,
        t=last.t + 0.2,
        status="completed",
        sync_count=last.sync_count + 1,
        total_time_ms=round((last.t + 0.2) * 1000),
        downtime_ms=20,
        downtime_bytes=6 * MIB,
        precopy_bytes=last.transferred,
        transferred=last.transferred + 6 * MIB,
    )
    found = explain(Trace({}, (*busy.items, completed)))
    assert found.verdict == "converged"
    told = cause(found, "bandwidth-cap")
    assert told.share == 1
    assert "carried at least 300 MiB/s in the switchover" in text(told)
    assert cause(found, "working-set").share == 0


def test_a_fixed_downtime_above_the_limit() -> None:
    trace = record(writer(16, 4), SECONDS, cap=20)
    last = trace.items[-1]
    assert isinstance(last, Sample)
    assert last.status == "completed"
    slow = replace(last, downtime_ms=608, downtime_bytes=6 * MIB)
    found = explain(Trace(trace.header, (*trace.items[:-1], slow)))
    told = text(cause(found, "fixed-downtime"))
    assert "at least 308 ms, is stopping, device state and starting" in told
    assert "fixed-downtime" not in names(explain(trace))


def test_a_limit_shorter_than_any_switchover() -> None:
    found = explain(record(writer(32, 20), SECONDS, cap=25, limit_ms=5))
    assert "shorter than what a switchover takes besides memory" in text(
        cause(found, "fixed-downtime")
    )
