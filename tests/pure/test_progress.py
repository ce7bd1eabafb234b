"""What the display is given: stages and a bar that only go forward, and honest estimates."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.precopy.case import Setting
from vmferry.precopy.foresight import Foresight
from vmferry.precopy.progress import Progress, Remedy, Snapshot
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import read_trace
from vmferry.units import MIB

DATA = Path(__file__).parents[1] / "data"
ORDER = ["setup", "passes", "switchover", "handover", "done"]


def snapshots(items: list[Sample | Event]) -> list[Snapshot]:
    """As a command shows them that is told forecasts by its guardian."""
    progress, foresight = Progress(), Foresight(Setting())
    result = []
    for item in items:
        progress.receive(item)
        foresight.receive(item)
        found = foresight.due()
        if found is not None:
            progress.foresee(found.to_json())
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


def forecast_of(verdict: str, p10: float, p90: float, p: float = 0.1) -> dict[str, Any]:
    """As the guardian writes it, as far as it is looked at here."""
    ends = verdict != "does-not-converge"
    quantiles = {"p10": p10, "p50": (p10 + p90) / 2, "p90": p90}
    remedies = [
        {"change": "bandwidth", "from": 100, "to": 180},
        {"change": "downtime", "from": 300, "to": 1500},
        {"change": "post-copy", "from": False, "to": True},
    ]
    return {
        "verdict": verdict,
        "p_converge": 0.5 if ends else p,
        "total_ms": quantiles if ends else None,
        "bytes": quantiles if ends else None,
        "why": "because",
        "remedies": [] if ends else remedies,
    }


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
        | st.builds(
            forecast_of,
            st.sampled_from(["converges", "does-not-converge", "uncertain"]),
            st.floats(0.0, 1e6),
            st.floats(1e6, 1e12),
        )
    )
)
def test_nothing_runs_back_whatever_comes(items: list[Sample | Event | dict[str, Any]]) -> None:
    progress, shown = Progress(), []
    for item in items:
        if isinstance(item, dict):
            progress.foresee(item)
        else:
            progress.receive(item)
        shown.append(progress.snapshot())
    assert goes_forward(shown)
    assert all(0 <= snapshot.fraction < 1 for snapshot in shown)


def test_a_migration_that_converges_is_followed_to_its_end() -> None:
    items = recorded("pg-4t-converges-1.jsonl")
    at: dict[int, Snapshot] = {}
    for snapshot in snapshots(items):
        at.setdefault(snapshot.pass_number, snapshot)
        assert not snapshot.will_not_converge
    assert at[1].stage == "passes"
    assert at[1].eta is None and at[1].pass_eta is not None
    assert at[2].eta is not None and at[2].pass_eta is None
    assert at[2].speed == pytest.approx(128 * MIB, rel=0.05)
    assert at[3].dirty_rate == pytest.approx(19060 * 4096 / 1.908, rel=0.01)
    last = snapshot
    assert last.stage == "handover"
    assert last.eta is None
    assert (last.pass_number, last.dirty_left, last.sent) == (8, 0, 2428414189)


def test_a_stage_that_is_over_does_not_come_again() -> None:
    progress = Progress()
    progress.enter("done")
    assert progress.snapshot().fraction == 1.0
    progress.enter("passes")
    assert progress.snapshot().stage == "done"


def test_while_passes_still_fall_it_is_not_told_that_they_never_end() -> None:
    """The recording ends in pass 4: the forecast says never, the passes have not stalled yet."""
    last = snapshots(recorded("pg-16t-never-converges-1-first-38s.jsonl"))[-1]
    assert last.estimate is not None
    assert last.estimate.verdict == "uncertain" and last.estimate.p_converge < 0.2
    assert not last.will_not_converge and last.eta is None


def test_a_migration_that_does_not_converge_holds_the_bar_and_says_so() -> None:
    progress = Progress()
    shown = []
    for n in range(1, 12):
        progress.receive(
            Sample(
                t=float(n),
                status="active",
                total=1 << 30,
                transferred=n << 20,
                remaining=50 << 20,
                normal_pages=n << 8,
                sync_count=n,
            )
        )
        if n == 4:
            progress.foresee(forecast_of("does-not-converge", 0, 0, p=0.25))
            assert not progress.snapshot().will_not_converge
        if n == 6:
            progress.foresee(forecast_of("does-not-converge", 0, 0))
        shown.append(progress.snapshot())
    hopeless = [snapshot for snapshot in shown if snapshot.will_not_converge]
    assert len(hopeless) >= 5
    assert all(snapshot.eta is None for snapshot in hopeless)
    assert len({snapshot.fraction for snapshot in hopeless}) == 1
    assert hopeless[0].estimate is not None
    assert hopeless[0].estimate.remedies == (Remedy("bandwidth", 180), Remedy("downtime", 1500))
    progress.foresee(forecast_of("converges", 15_000, 20_000))
    assert progress.snapshot().eta == (4.0, 9.0)
    assert progress.snapshot().estimate.remedies == ()  # type: ignore[union-attr]


def test_the_eta_counts_down_and_is_not_told_once_it_is_over() -> None:
    progress = Progress()
    progress.foresee(forecast_of("converges", 4000, 6000))
    etas = []
    for t in (1.0, 5.0, 6.5):
        progress.receive(Sample(t=t, status="active", total=1 << 30, sync_count=1))
        etas.append(progress.snapshot().eta)
    assert etas == [(3.0, 5.0), (0.0, 1.0), None]
    progress.foresee(forecast_of("uncertain", 8000, 9000))
    assert progress.snapshot().eta == (1.5, None)


def test_events_alone_show_the_pass_and_the_stage() -> None:
    progress = Progress()
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
