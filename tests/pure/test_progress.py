"""What the display is given: stages and a bar that only go forward, and honest estimates."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.precopy.progress import Progress, Snapshot
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import read_trace
from vmferry.units import MIB

DATA = Path(__file__).parents[1] / "data"
ORDER = ["setup", "passes", "switchover", "handover", "done"]


def snapshots(items: list[Sample | Event]) -> list[Snapshot]:
    progress = Progress(downtime_limit_ms=300)
    result = []
    for item in items:
        progress.receive(item)
        result.append(progress.snapshot())
    return result


def recorded(name: str) -> list[Sample | Event]:
    return list(read_trace((DATA / name).read_text(encoding="utf-8").splitlines()).inputs)


def goes_forward(shown: list[Snapshot]) -> bool:
    return all(
        a.fraction <= b.fraction
        and a.pass_number <= b.pass_number
        and ORDER.index(a.stage) <= ORDER.index(b.stage)
        for a, b in pairwise(shown)
    )


@pytest.mark.parametrize("trace", sorted(DATA.glob("*.jsonl")), ids=lambda path: path.stem)
def test_nothing_runs_back_in_a_recording(trace: Path) -> None:
    shown = snapshots(recorded(trace.name))
    assert goes_forward(shown)
    assert max(snapshot.fraction for snapshot in shown) < 1


statuses = st.sampled_from(
    ["none", "setup", "active", "pre-switchover", "device", "completed", "cancelling", "failed"]
)


@given(
    st.lists(
        st.builds(
            Sample,
            t=st.floats(0.0, 100.0),
            status=statuses,
            total=st.sampled_from([0, 1 << 30]),
            transferred=st.integers(0, 1 << 30),
            remaining=st.integers(0, 1 << 30),
            normal_pages=st.integers(0, 1 << 20),
            zero_pages=st.integers(0, 1 << 20),
            sync_count=st.integers(0, 6),
            mbps=st.floats(0.0, 1e5),
            dirty_pages_rate=st.integers(0, 10_000),
            expected_downtime_ms=st.none() | st.integers(0, 10_000),
            total_time_ms=st.integers(0, 1000),
            downtime_bytes=st.integers(0, 1 << 20),
        )
        | st.builds(
            Event,
            t=st.floats(0.0, 100.0),
            name=st.just("MIGRATION_PASS"),
            data=st.builds(lambda n: {"pass": n}, st.integers(1, 8)),
        )
    )
)
def test_nothing_runs_back_whatever_comes(items: list[Sample | Event]) -> None:
    shown = snapshots(items)
    assert goes_forward(shown)
    assert all(0 <= snapshot.fraction < 1 for snapshot in shown)


def test_a_migration_that_converges_is_followed_to_its_end() -> None:
    items = recorded("pg-4t-converges-1.jsonl")
    progress = Progress(downtime_limit_ms=300)
    at: dict[int, Snapshot] = {}
    for item in items:
        progress.receive(item)
        snapshot = progress.snapshot()
        at.setdefault(snapshot.pass_number, snapshot)
        assert not snapshot.will_not_converge
    assert at[1].stage == "passes"
    assert at[1].eta is None and at[1].pass_eta is not None
    assert at[2].eta is not None and at[2].pass_eta is None
    assert at[2].speed == pytest.approx(128 * MIB, rel=0.05)
    assert at[3].dirty_rate == pytest.approx(19060 * 4096 / 1.908, rel=0.01)
    last = progress.snapshot()
    assert last.stage == "handover"
    assert last.eta is None
    assert (last.pass_number, last.dirty_left, last.sent) == (8, 0, 2428414189)
    progress.enter("done")
    assert progress.snapshot().fraction == 1.0
    progress.enter("passes")
    assert progress.snapshot().stage == "done"


def test_a_migration_that_does_not_converge_holds_the_bar_and_says_so() -> None:
    shown = snapshots(recorded("pg-16t-never-converges-1-first-38s.jsonl"))
    hopeless = [snapshot for snapshot in shown if snapshot.will_not_converge]
    assert len(hopeless) >= 8
    assert all(snapshot.eta is None for snapshot in hopeless)
    assert len({snapshot.fraction for snapshot in hopeless}) == 1
    assert hopeless[0].estimate is not None
    assert hopeless[0].estimate.hovers_at > hopeless[0].estimate.threshold


def test_events_alone_show_the_pass_and_the_stage() -> None:
    progress = Progress(downtime_limit_ms=300)
    assert progress.snapshot().stage == "setup"
    progress.receive(Event(0.1, "MIGRATION_PASS", {"pass": 1}))
    assert progress.snapshot().stage == "passes"
    progress.receive(Event(0.2, "MIGRATION_PASS", {"pass": 2}))
    assert progress.snapshot().pass_number == 2
    progress.receive(Event(0.3, "MIGRATION", {"status": "pre-switchover"}))
    assert progress.snapshot().stage == "switchover"
    progress.receive(Event(0.4, "MIGRATION", {"status": "completed"}, "destination"))
    assert progress.snapshot().stage == "switchover"


def test_without_passes_qemus_own_dirty_rate_is_shown() -> None:
    sample = Sample(
        t=1.0, status="active", total=1 << 30, sync_count=1, remaining=1 << 29, dirty_pages_rate=100
    )
    assert snapshots([sample])[0].dirty_rate == 100 * 4096
