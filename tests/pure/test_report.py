"""The report: what it says of a run, what it draws, and that it is safe to open."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vmferry.report import pictures, series
from vmferry.report.facts import facts, headline
from vmferry.report.page import render
from vmferry.report.recording import Recording
from vmferry.report.thin import MOST_POINTS, extremes, highest, thin
from vmferry.report.timeline import timeline

MIB = 1024**2
PAGE = 4096


def sample(t: float, *, left: int, sent: int, sync: int, status: str = "active") -> dict[str, Any]:
    """A query-migrate line; `left` and `sent` in pages."""
    reply: dict[str, Any] = {
        "status": status,
        "total-time": round(t * 1000),
        "ram": {
            "total": 64 * MIB,
            "transferred": sent * (PAGE + 8),
            "remaining": left * PAGE,
            "normal": sent,
            "duplicate": 0,
            "page-size": PAGE,
            "dirty-sync-count": sync,
            "dirty-pages-rate": 0 if sync < 2 else 500,
            "mbps": 80.0,
        },
    }
    if status == "completed":
        reply["downtime"] = 12
    return {"t": t, "query-migrate": reply}


def event(t: float, name: str, side: str = "source", /, **data: Any) -> dict[str, Any]:
    return {"t": t, "event": {"event": name, "data": data}, "side": side}


def guest(t: float, gap_ms: float, work: int, side: str = "source") -> dict[str, Any]:
    return {"t": t, "guest": {"beats": 50, "max_gap_ms": gap_ms, "work": work, "side": side}}


HEADER: dict[str, Any] = {
    "vmferry": {
        "format": 1,
        "run": "17",
        "vm": "web",
        "limits": {"max_downtime_ms": 300, "downtime_limit_ms": 200, "bandwidth": 10_000_000},
        "policy": "fixed",
        "versions": {"vmferry": "0.1.0"},
    }
}
POLLED: list[dict[str, Any]] = [
    sample(0.2, left=12000, sent=4384, sync=1),
    sample(0.4, left=8000, sent=8384, sync=1),
    sample(0.6, left=700, sent=16000, sync=2),
    sample(0.8, left=0, sent=16800, sync=3, status="completed"),
]
FULL: list[dict[str, Any]] = [
    HEADER,
    {"t": -0.01, "parameters": {"downtime-limit": 200, "max-bandwidth": 10_000_000}},
    {"t": 0.0, "stage": "passes"},
    event(0.001, "MIGRATION_PASS", "source", **{"pass": 1}),
    *POLLED[:2],
    event(0.55, "MIGRATION_PASS", "source", **{"pass": 2}),
    POLLED[2],
    {"t": 0.7, "action": {"kind": "bandwidth", "bytes_per_second": MIB}, "result": "no"},
    event(0.75, "STOP"),
    event(0.751, "MIGRATION", status="pre-switchover"),
    event(0.755, "MIGRATION_PASS", "source", **{"pass": 3}),
    event(0.759, "MIGRATION", "destination", status="completed"),
    event(0.77, "RESUME", "destination"),
    POLLED[3],
    *(guest(i / 10 - 1, 2.5, i * 1000) for i in range(18)),
    *(guest(0.8 + i / 10, 30.0, 18000 + i * 1000, "destination") for i in range(10)),
]
OUTCOME: dict[str, Any] = {
    "event": "outcome",
    "run": "17",
    "vm": "web",
    "status": "completed",
    "vm_runs_at": "destination",
    "policy": "fixed",
    "total_ms": 771.0,
    "downtime_ms": 12,
    "bytes": 68947200,
    "resent_bytes": 1000000,
    "passes": [
        {
            "n": 1,
            "start_ms": 1.0,
            "duration_ms": 549.0,
            "sent_bytes": 60000000,
            "sent_pages": 14648,
            "zero_pages": 0,
            "dirty_bytes": 67108864,
            "new_bytes": 67108864,
            "left_bytes": 4096,
            "estimated": ["sent_bytes"],
        }
    ],
    "guest": {"gap_ms": 340.0, "beats": 900, "missing_beats": 0, "verified": True},
    "cost": {"work_loss_percent": 14.25, "vcpu_run_delay_percent": {"CPU 0/TCG": 3.0}},
    "why": "what was left could be sent within the limit",
}


def text_of(page: str) -> str:
    """What a reader reads: no scripts, no tags."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_page_tells_the_whole_story() -> None:
    text = text_of(render(FULL, OUTCOME))
    assert "VM web moved in 771 ms." in text
    assert "Downtime promised ≤ 300 ms" in text
    assert "Downtime by QEMU 12 ms within the promise" in text
    assert "Guest gap 340 ms by the host’s clock, over the promise" in text
    assert "977 KiB of it again" in text
    assert "Work lost to the move 14.2 %" in text
    assert "all intact" in text
    assert "≈ 57.2 MiB" in text
    for title in ("Dirty memory left", "Speed", "Handover", "Heartbeat gaps", "Guest’s work"):
        assert title in text
    assert "Throttle" not in text


def test_page_of_a_trace_that_holds_samples_only() -> None:
    text = text_of(render(POLLED, None))
    assert "The VM moved in 800 ms." in text
    assert "Downtime by QEMU 12 ms" in text
    assert "Dirty memory left" in text
    assert "threshold: speed" not in text
    assert "Heartbeat gaps" not in text
    assert "Passes" in text


def test_page_of_a_run_that_never_began() -> None:
    refused = {"status": "refused", "vm": "web", "vm_runs_at": "source", "why": "it is locked"}
    text = text_of(render([HEADER], refused))
    assert "The move of VM web was refused. It runs on at the source." in text
    assert "It is locked" in text


def test_page_fetches_nothing_and_runs_nothing_of_the_trace() -> None:
    bad = "</script><script>alert(1)</script><img src=x>"
    outcome = {**OUTCOME, "why": bad, "vm": bad, "policy": bad}
    lines: list[dict[str, Any]] = [
        {"vmferry": {"vm": bad, "versions": {bad: bad}, "limits": {bad: bad}}},
        {"t": 0, "parameters": {bad: bad}},
        {"t": 0, "stage": bad},
        {"t": 0, "action": {"kind": bad, bad: bad}, "result": {"error": bad}},
        event(0.1, bad, bad),
        *FULL[1:],
    ]
    page = render(lines, outcome)
    assert "alert(1)</script>" not in page
    assert "<img src=x" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", text_of_markup(page))


def text_of_markup(page: str) -> str:
    """The page without what is inside its scripts and styles."""
    return re.sub(r"(<(script|style)\b[^>]*>).*?(</\2>)", r"\1\3", page, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("status", "place", "words"),
    [
        ("abandoned", "source", "was abandoned after 1.0 s. It runs on at the source."),
        ("cancelled", "source", "was cancelled after 1.0 s. It runs on at the source."),
        ("failed", "source", "failed after 1.0 s. It runs on at the source."),
        ("failed", "nowhere", "It runs nowhere."),
        ("needs-recovery", "unknown", "`vmferry recover`. Where it runs is not known."),
    ],
)
def test_headline(status: str, place: str, words: str) -> None:
    outcome = {"vm": "web", "status": status, "vm_runs_at": place, "total_ms": 1000}
    assert words in headline(facts(Recording(), outcome))


def test_headline_without_an_outcome() -> None:
    assert "no outcome is recorded" in headline(facts(Recording.read([HEADER]), None))


def test_threshold_is_speed_times_limit_and_follows_its_changes() -> None:
    recording = Recording.read([*FULL, {"t": 0.5, "parameters": {"downtime-limit": 400}}])
    points = dict(series.threshold(recording))
    assert points[0.2] == pytest.approx(10_000_000 * 0.2)
    assert points[0.6] == pytest.approx(10_000_000 * 0.4)


def test_cap_zero_is_unlimited() -> None:
    lines = [{"t": 0, "parameters": {"max-bandwidth": 0}}, *POLLED]
    assert series.cap(Recording.read(lines)) == []


def test_polls_after_the_end_do_not_stretch_the_picture() -> None:
    late = {"t": 500.0, "query-migrate": {"status": "completed"}}
    assert Recording.read([*POLLED, late]).span == (0.0, 0.8)


def test_pass_marks_stand_at_the_events() -> None:
    assert Recording.read(FULL).pass_starts == pytest.approx([0.001, 0.55, 0.755])


def test_running_intervals_show_the_gap() -> None:
    intervals = series.running(Recording.read(FULL))
    assert [(i.side, i.end if i.side == "source" else i.start) for i in intervals] == [
        ("source", 0.75),
        ("destination", 0.77),
    ]


def test_source_that_runs_on_has_two_intervals() -> None:
    lines = [
        *POLLED[:3],
        event(0.61, "STOP"),
        event(0.62, "RESUME"),
        sample(0.9, left=9, sent=16999, sync=2),
    ]
    intervals = series.running(Recording.read(lines))
    assert [(i.start, i.end) for i in intervals] == [(0.0, 0.61), (0.62, 0.9)]


def test_work_rate_is_writes_per_second_over_both_sides() -> None:
    rates = [rate for _, rate in series.work_rate(Recording.read(FULL))]
    assert rates == pytest.approx([10_000] * len(rates), rel=0.01)


def test_a_throttled_run_shows_the_throttle() -> None:
    lines = [sample(0.2, left=9, sent=9, sync=1), sample(0.4, left=9, sent=99, sync=1)]
    lines[1]["query-migrate"]["cpu-throttle-percentage"] = 40
    assert pictures.throttle(Recording.read(lines)) is not None
    assert pictures.throttle(Recording.read(FULL)) is None


def test_dirty_axis_spans_all_points() -> None:
    figure = pictures.dirty(Recording.read(FULL))
    assert figure is not None
    low, high = (10**end for end in figure.layout.yaxis.range)
    assert low < min(700 * PAGE, 2_000_000) and high > 12000 * PAGE


def test_thinning_keeps_what_decides() -> None:
    points = [(float(i), float(i % 7)) for i in range(20 * MOST_POINTS)]
    points[12345] = (12345.0, 99.0)
    points[23456] = (23456.0, -99.0)
    kept = thin(points, extremes)
    assert len(kept) <= 2 * MOST_POINTS
    assert points[12345] in kept and points[23456] in kept
    assert kept == sorted(kept)
    assert points[12345] in thin(points, highest)


def test_timeline_is_in_order_and_in_words() -> None:
    texts = [step.text for step in timeline(Recording.read(FULL))]
    assert texts == [
        "vmferry: passes",
        "vmferry: the bandwidth becomes 1.00 MiB/s, refused: no",
        "source: the vCPUs stopped",
        "source: stopped and ready to switch over",
        "destination: everything loaded",
        "destination: the vCPUs run",
    ]
