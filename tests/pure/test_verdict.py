"""The words at the end of a run, on real recordings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vmferry.precopy.outcome import CostRecord, GuestRecord, Outcome, PassRecord
from vmferry.precopy.passes import resent_bytes
from vmferry.precopy.progress import Progress
from vmferry.precopy.trace import read_trace
from vmferry.precopy.verdict import describe, describe_passes

DATA = Path(__file__).parents[1] / "data"
GUEST = GuestRecord(
    gap_ms=41.2,
    gap_at_ms=17650.0,
    guest_clock_gap_ms=14.0,
    beats=8940,
    missing_beats=0,
    verified=True,
    verified_pages=65536,
    lost_pages=0,
)
COST = CostRecord(
    work_before=1e6,
    work_during=9e5,
    work_after=1e6,
    work_loss_percent=10.4,
    vcpu_run_delay_percent={"CPU 0": 1.0, "CPU 1": 3.2},
    migration_cpu_seconds=1.23,
    vmferry_cpu_seconds=0.1,
)


def ended(name: str, **changes: object) -> Outcome:
    """A recording as the end of a run that moved."""
    progress = Progress()
    for item in read_trace((DATA / name).read_text(encoding="utf-8").splitlines()).inputs:
        progress.receive(item)
    snapshot = progress.snapshot()
    outcome = Outcome(
        run="r1",
        vm="web",
        status="completed",
        vm_runs_at="destination",
        policy="fixed",
        total_ms=17715,
        downtime_ms=14,
        bytes=snapshot.sent,
        resent_bytes=resent_bytes(progress.tracker.passes),
        passes=progress.tracker.passes,
        guest=None,
        cost=None,
        why="",
    )
    return dataclasses.replace(outcome, **changes)  # type: ignore[arg-type]


def test_a_move_that_converged() -> None:
    outcome = ended("pg-4t-converges-1.jsonl", guest=GUEST, cost=COST)
    assert describe(outcome) == [
        "web moved in 17.7 s. The VM runs at the destination.",
        "Pass 1: 8.02 GiB dirty, 1.86 GiB sent in 14.8 s with 1,608,864 zero pages, about"
        " 32.5 MiB left.",
        "Pass 2: about 307 MiB dirty, about 245 MiB sent in 1.9 s, 37.8 MiB left.",
        "Pass 3: 112 MiB dirty, 77.4 MiB sent in 602 ms, 29.9 MiB left.",
        "Pass 4: 60.8 MiB dirty, about 34.4 MiB sent in 268 ms, about 26.2 MiB left.",
        "Pass 5: about 44.4 MiB dirty, about 8.60 MiB sent in 67 ms, about 35.6 MiB left.",
        "Pass 6: about 40.2 MiB dirty, about 8.60 MiB sent in 93 ms, about 30.8 MiB left.",
        "Pass 7: about 32.8 MiB dirty, about 0 B sent in 0 ms, about 32.8 MiB left.",
        "Switchover: about 32.8 MiB dirty, about 32.7 MiB sent in 13 ms, while the VM stood still.",
        "Sent 2.26 GiB at 131 MiB/s on average; 374 MiB of it was memory sent again.",
        "QEMU reports a downtime of 14 ms.",
        "The longest gap between heartbeats was 41 ms by the host's clock and 14 ms by "
        "the guest's, 17.6 s after the begin (8,940 beats, none missing).",
        "Memory verified: 65,536 pages, none lost.",
        "Cost: the guest did 10.4 % less work meanwhile than before; its vCPUs "
        "waited for a core up to 3.2 % of the time; the migration threads took 1.2 s of a"
        " core; vmferry took 0.1 s of a core.",
    ]


def test_a_move_that_did_not_converge() -> None:
    outcome = ended(
        "pg-16t-never-converges-1-first-38s.jsonl",
        status="abandoned",
        vm_runs_at="source",
        total_ms=38162,
        downtime_ms=None,
        why="the deadline of 38.0 s passed",
    )
    assert describe(outcome) == [
        "web did not move: the migration was abandoned after 38.2 s. The VM runs at the source.",
        "Why: the deadline of 38.0 s passed.",
        "Pass 1: 8.02 GiB dirty, 3.09 GiB sent in 24.5 s with 1,289,272 zero pages, 29.4 MiB left.",
        "Pass 2: 1.09 GiB dirty, 1.03 GiB sent in 8.2 s, 27.3 MiB left.",
        "Pass 3: 487 MiB dirty, 439 MiB sent in 3.4 s, 37.2 MiB left.",
        "Sent 4.81 GiB at 129 MiB/s on average; 1.43 GiB of it was memory sent again.",
    ]


def test_many_passes_are_told_in_groups() -> None:
    outcome = ended("pg-16t-auto-converge-1.jsonl")
    assert describe_passes(outcome.passes) == [
        "Pass 1: 8.02 GiB dirty, 3.02 GiB sent in 23.9 s with 1,304,960 zero pages, 32.7 MiB left.",
        "Pass 2: 1.04 GiB dirty, 774 MiB sent in 6.0 s, 269 MiB left.",
        "Pass 3: 655 MiB dirty, 606 MiB sent in 4.7 s, 32.0 MiB left.",
        "Pass 4: 325 MiB dirty, 284 MiB sent in 2.2 s, 34.0 MiB left.",
        "Passes 5 to 18: 60.1 MiB to 232 MiB dirty, 985 MiB sent in 7.7 s.",
        "Pass 19: about 62.3 MiB dirty, about 25.2 MiB sent in 168 ms, about 36.3 MiB left.",
        "Pass 20: about 53.6 MiB dirty, about 22.1 MiB sent in 200 ms, about 31.1 MiB left.",
        "Pass 21: about 37.1 MiB dirty, about 0 B sent in 0 ms, about 37.1 MiB left.",
        "Switchover: 37.1 MiB dirty, 37.4 MiB sent in 13 ms, while the VM stood still.",
    ]


def test_reasons_of_several_lines_become_sentences_but_for_headings() -> None:
    outcome = ended("pg-4t-converges-1.jsonl", why="it is over\nChanges that help:\n- one")
    assert describe(outcome)[1:4] == ["Why: it is over.", "Changes that help:", "- one."]


def test_damaged_memory_and_missing_beats_are_said() -> None:
    guest = dataclasses.replace(GUEST, verified=False, lost_pages=1234, missing_beats=2)
    text = " ".join(describe(ended("pg-4t-converges-1.jsonl", guest=guest)))
    assert "Memory is damaged: 1,234 pages lost, stale or torn." in text
    assert "(8,940 beats, 2 missing)" in text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"work_loss_percent": -2.0}, "the guest did 2.0 % more work"),
        ({"vcpu_run_delay_percent": {}}, "less work meanwhile than before; the migration"),
    ],
)
def test_what_the_move_cost(changes: dict[str, object], text: str) -> None:
    cost = dataclasses.replace(COST, **changes)  # type: ignore[arg-type]
    assert text in " ".join(describe(ended("pg-4t-converges-1.jsonl", cost=cost)))


def test_a_cost_that_cannot_be_told() -> None:
    cost = CostRecord(None, None, None, None, {}, None, None)
    lines = describe(ended("pg-4t-converges-1.jsonl", cost=cost))
    assert lines[-1] == "What the move cost the guest cannot be told."


@pytest.mark.parametrize(
    ("status", "place", "headline"),
    [
        ("cancelled", "source", "web did not move: the migration was cancelled. The VM runs at"),
        ("failed", "source", "web did not move: the migration failed. The VM runs at the source."),
        ("refused", "source", "web did not move: the migration was refused. The VM runs at the"),
        ("needs-recovery", "unknown", "web was left in the middle of a move. The VM is at an"),
        ("failed", "nowhere", "web did not move: the migration failed. The VM runs nowhere."),
    ],
)
def test_the_headline_says_where_the_vm_is(status: str, place: str, headline: str) -> None:
    none: tuple[PassRecord, ...] = ()
    outcome = ended(
        "pg-4t-converges-1.jsonl",
        status=status,
        vm_runs_at=place,
        total_ms=0,
        bytes=0,
        passes=none,
        downtime_ms=None,
    )
    lines = describe(outcome)
    assert len(lines) == 1
    assert lines[0].startswith(headline)
