"""The passes of a migration: exact where QEMU's counters tell, marked where they do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.precopy.outcome import PassRecord
from vmferry.precopy.passes import PassTracker, resent_bytes
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import read_trace

DATA = Path(__file__).parents[1] / "data"
TRACES = sorted(DATA.glob("*.jsonl"))
PAGE = 4096


def tracked(items: Sequence[Sample | Event]) -> PassTracker:
    tracker = PassTracker()
    for item in items:
        tracker.receive(item)
    return tracker


def recorded(name: str) -> tuple[Sample | Event, ...]:
    return read_trace((DATA / name).read_text(encoding="utf-8").splitlines()).inputs


def sample(t: float, n: int, sent: int, left: int, status: str = "active", **more: float) -> Sample:
    known = Sample(
        t=t,
        status=status,
        sync_count=n,
        total=1000 * PAGE,
        transferred=sent * PAGE,
        remaining=left * PAGE,
        normal_pages=sent,
    )
    return dataclasses.replace(known, **more)  # type: ignore[arg-type]


def mark(t: float, n: int) -> Event:
    return Event(t, "MIGRATION_PASS", {"pass": n})


# A migration of 1000 pages: three passes, then the switchover (pass 5) after a pass too short
# for any sample (pass 4).
RUN: tuple[Sample | Event, ...] = (
    mark(0.0, 1),
    sample(0.5, 1, 400, 600),
    sample(1.0, 1, 900, 100),
    mark(1.0, 2),
    sample(1.0, 2, 900, 300),
    sample(1.2, 2, 1100, 100),
    mark(1.2, 3),
    sample(1.2, 3, 1100, 130),
    mark(1.3, 4),
    mark(1.31, 5),
    Event(1.35, "MIGRATION", {"status": "completed"}),
    sample(
        1.4,
        5,
        1250,
        0,
        "completed",
        total_time_ms=1340,
        downtime_ms=40,
        downtime_bytes=50 * (PAGE + 8),
        precopy_bytes=1200 * PAGE,
    ),
)


def test_a_run_with_samples_at_its_syncs_is_exact() -> None:
    one, two, three, four, five = tracked(RUN).passes
    assert (one.sent_pages, one.dirty_bytes, one.left_bytes) == (900, 1000 * PAGE, 100 * PAGE)
    assert one.start_ms == 0.0
    assert one.duration_ms == 1000.0
    assert (two.sent_pages, two.new_bytes, two.dirty_bytes) == (200, 200 * PAGE, 300 * PAGE)
    assert (three.new_bytes, three.dirty_bytes) == (30 * PAGE, 130 * PAGE)
    assert one.estimated == two.estimated == ()
    assert four.start_ms == 1300.0
    assert four.duration_ms == pytest.approx(10.0)
    assert not four.switchover and five.switchover
    assert (five.sent_pages, five.sent_bytes) == (50, 50 * PAGE)
    assert five.duration_ms == pytest.approx(40.0)


def test_what_pass_1_left_over_is_not_sent_again() -> None:
    assert resent_bytes(()) == 0
    passes = tracked(RUN).passes
    assert resent_bytes(passes[:1]) == 0
    assert resent_bytes(passes) == (1250 - 900 - 100) * PAGE


def test_a_pass_without_a_sample_is_there_and_marked() -> None:
    four = tracked(RUN).passes[3]
    assert {"sent_pages", "new_bytes", "dirty_bytes", "left_bytes"} <= set(four.estimated)
    assert not {"start_ms", "duration_ms"} & set(four.estimated)


def test_a_sample_before_the_switchover_tells_both_syncs_around_it_exactly() -> None:
    standing = sample(1.305, 4, 1200, 45, "pre-switchover")
    four, five = tracked((*RUN[:9], standing, *RUN[9:])).passes[3:]
    assert RUN[8] == mark(1.3, 4)
    assert (four.new_bytes, four.dirty_bytes, four.left_bytes) == (15 * PAGE, 45 * PAGE, 45 * PAGE)
    assert (five.new_bytes, five.dirty_bytes, five.sent_pages) == (5 * PAGE, 50 * PAGE, 50)
    assert four.sent_pages == 0
    assert four.estimated == five.estimated == ()


def test_without_events_jumps_of_the_sync_count_show_the_passes() -> None:
    samples = [item for item in RUN if isinstance(item, Sample)]
    passes = tracked(samples).passes
    assert [record.n for record in passes] == [1, 2, 3, 4, 5]
    assert all("start_ms" in record.estimated for record in passes[1:])
    assert passes[-1].duration_ms == pytest.approx(40.0)


def test_what_is_finished_grows_and_the_current_pass_is_apart() -> None:
    tracker = PassTracker()
    seen: list[tuple[int, ...]] = []
    for item in RUN:
        tracker.receive(item)
        seen.append(tuple(record.n for record in tracker.passes))
        if tracker.current is not None:
            assert tracker.current.n == len(tracker.passes) + 1
    assert seen == sorted(seen)
    assert tracker.ended and tracker.current is None and tracker.number == 5


@pytest.mark.parametrize("status", ["cancelled", "failed"])
def test_after_a_cancel_the_last_figures_stand(status: str) -> None:
    tracker = tracked([*RUN[:8], mark(1.3, 4), Sample(t=1.5, status=status)])
    assert tracker.ended
    passes = tracker.passes
    assert [record.n for record in passes] == [1, 2, 3, 4]
    assert sum(record.sent_pages for record in passes) == 1100
    assert not any(record.switchover for record in passes)
    assert passes[-1].start_ms + passes[-1].duration_ms == pytest.approx(1500.0)


def test_completed_without_figures_is_waited_for() -> None:
    early = sample(1.36, 5, 1250, 0, "completed")
    tracker = tracked([*RUN[:-1], early])
    assert not tracker.ended
    tracker.receive(RUN[-1])
    assert tracker.passes == tracked(RUN).passes


def test_a_late_reply_changes_nothing() -> None:
    late = sample(1.21, 2, 1050, 150)
    assert tracked([*RUN[:8], late, *RUN[8:]]).passes == tracked(RUN).passes


def test_a_torn_sample_is_outvoted() -> None:
    torn = sample(0.7, 1, 600, 393)
    assert tracked([*RUN[:2], torn, *RUN[2:]]).passes == tracked(RUN).passes


def test_the_expected_downtime_tells_what_a_sync_left() -> None:
    """Bursts between two samples: interpolation alone would be off by 100 pages."""
    items: list[Sample | Event] = [
        mark(0.0, 1),
        sample(0.9, 1, 900, 100, mbps=30.0),
        mark(1.0, 2),
        sample(1.01, 2, 1000, 200, mbps=30.0, dirty_pages_rate=1, expected_downtime_ms=260),
        sample(
            1.15, 2, 1010, 190, mbps=PAGE * 8 / 1000, dirty_pages_rate=1, expected_downtime_ms=300
        ),
        mark(1.2, 3),
        sample(1.3, 3, 1100, 200),
    ]
    two = tracked(items).passes[1]
    assert two.dirty_bytes == pytest.approx(300 * PAGE, rel=0.01)
    assert "dirty_bytes" not in two.estimated


def test_a_burst_after_the_sync_is_not_counted_before_it() -> None:
    """The sample that the event called for has seen 80 pages of the next pass already."""
    speed = 100 * PAGE * 8 / 1e6
    items: list[Sample | Event] = [
        mark(0.0, 1),
        sample(0.9, 1, 900, 100, mbps=speed),
        mark(1.0, 2),
        sample(1.001, 2, 990, 200, mbps=speed),
        mark(1.2, 3),
        sample(1.3, 3, 1100, 200),
    ]
    assert tracked(items).passes[0].sent_pages == 910


def test_the_same_speed_again_tells_as_much() -> None:
    """A steady speed does not change; the time that went by shows that QEMU looked again."""
    speed = PAGE * 8 / 1000
    items: list[Sample | Event] = [
        mark(0.0, 1),
        sample(0.9, 1, 900, 100, mbps=speed),
        mark(1.0, 2),
        sample(1.01, 2, 1000, 200, mbps=speed, dirty_pages_rate=1, expected_downtime_ms=300),
        sample(1.18, 2, 1010, 190, mbps=speed, dirty_pages_rate=1, expected_downtime_ms=300),
        mark(1.2, 3),
        sample(1.3, 3, 1100, 200),
    ]
    assert tracked(items).passes[1].dirty_bytes == pytest.approx(300 * PAGE, rel=0.01)


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.stem)
def test_recorded_passes_add_up_to_the_totals(trace: Path) -> None:
    items = recorded(trace.name)
    tracker = tracked(items)
    last = [item for item in items if isinstance(item, Sample) and item.total][-1]
    records = [*tracker.passes, *([tracker.current] if tracker.current else [])]
    assert [record.n for record in records] == list(range(1, last.sync_count + 1))
    assert sum(record.sent_pages for record in records) == last.sent_pages
    assert sum(record.zero_pages for record in records) == last.zero_pages
    assert sum(record.sent_bytes for record in records) == last.transferred
    assert all(is_sound(record) for record in records)


def test_what_a_recorded_migration_did() -> None:
    passes = tracked(recorded("pg-4t-converges-1.jsonl")).passes
    assert [record.new_bytes // PAGE for record in passes[1:4]] == [70186, 19060, 7904]
    assert passes[1].dirty_bytes // PAGE == pytest.approx(78507, rel=0.001)
    assert passes[-1].switchover
    assert passes[-1].sent_bytes == pytest.approx(33844457, rel=0.02)


def is_sound(record: PassRecord) -> bool:
    return (
        0 <= record.zero_pages <= record.sent_pages
        and record.sent_bytes >= 0
        and record.duration_ms >= 0
        and 0 <= record.left_bytes <= record.dirty_bytes
        and record.dirty_bytes - record.left_bytes == record.sent_pages * PAGE
    )


@dataclasses.dataclass(frozen=True)
class Truth:
    """A migration as it really went: per pass when it began, what it found dirty, what it sent."""

    items: tuple[Sample | Event, ...]
    new: tuple[int, ...]
    sent: tuple[int, ...]


@st.composite
def migrations(draw: st.DrawFn) -> Truth:
    """Passes of any size with 0 to 4 samples each, sent at an uneven pace, cancelled at the end."""
    items: list[Sample | Event] = []
    new, sent_by_pass = [], []
    t, known, sent, zero = 0.0, 0, 0, 0
    for n in range(1, draw(st.integers(1, 8)) + 1):
        dirtied = 1000 if n == 1 else draw(st.integers(0, 500))
        known += dirtied
        items.append(mark(t, n))
        to_send = draw(st.integers(0, known - sent))
        begin = sent
        for pages in sorted(draw(st.lists(st.integers(0, to_send), max_size=4))):
            t += draw(st.floats(0.0, 0.2))
            sent = begin + pages
            zero = max(zero, sent // 3)
            items.append(
                Sample(
                    t=t,
                    status="active",
                    total=1000 * PAGE,
                    transferred=(sent - zero) * PAGE + zero * 9,
                    remaining=(known - sent) * PAGE,
                    normal_pages=sent - zero,
                    zero_pages=zero,
                    sync_count=n,
                )
            )
        sent = begin + to_send
        t += draw(st.floats(0.001, 0.2))
        new.append(dirtied)
        sent_by_pass.append(to_send)
    return Truth(tuple(items), tuple(new), tuple(sent_by_pass))


@given(migrations())
def test_what_is_not_marked_is_true_to_one_per_cent(truth: Truth) -> None:
    tracker = tracked(truth.items)
    for record in tracker.passes:
        checks = {
            "new_bytes": (record.new_bytes, truth.new[record.n - 1] * PAGE),
            "sent_pages": (record.sent_pages * PAGE, truth.sent[record.n - 1] * PAGE),
        }
        assert is_sound(record)
        for name, (told, real) in checks.items():
            if name not in record.estimated:
                assert abs(told - real) <= max(PAGE, 0.01 * told)


@given(migrations())
def test_every_pass_is_there_and_they_add_up(truth: Truth) -> None:
    tracker = tracked(truth.items)
    samples = [item for item in truth.items if isinstance(item, Sample)]
    tracker.receive(Sample(t=1000.0, status="cancelled"))
    if samples:
        assert len(tracker.passes) == len(truth.new)
        assert sum(record.sent_pages for record in tracker.passes) == samples[-1].sent_pages
        assert sum(record.sent_bytes for record in tracker.passes) == samples[-1].transferred


@given(migrations())
def test_a_pass_and_its_next_with_samples_have_exact_new_bytes(truth: Truth) -> None:
    numbers = {item.sync_count for item in truth.items if isinstance(item, Sample)}
    for record in tracked(truth.items).passes:
        if {record.n, record.n - 1} <= numbers:
            assert record.new_bytes == truth.new[record.n - 1] * PAGE
