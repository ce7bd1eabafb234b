"""The curves of a run: what is drawn against time, as points. Draws nothing itself."""

from __future__ import annotations

from dataclasses import dataclass

from vmferry.precopy.sample import ENDED, Sample
from vmferry.report.recording import Recording
from vmferry.report.thin import Point, extremes, highest, mean, thin

# Work is counted over at least this long: shorter windows show the clock's noise, not the guest's.
WORK_SECONDS = 0.25


def dirty_left(recording: Recording) -> list[Point]:
    """Bytes still dirty."""
    points = [(s.t, float(s.remaining)) for s in recording.samples if s.remaining > 0]
    return thin(points, extremes)


def threshold(recording: Recording) -> list[Point]:
    """Bytes that QEMU could send within `downtime-limit` at the speed of its last 100 ms."""
    points = []
    for sample in _moving(recording):
        limit = recording.limit_at(sample.t)
        if limit is not None and sample.mbps > 0:
            points.append((sample.t, sample.mbps * 1e6 / 8 * limit))
    return thin(points, extremes)


def speed(recording: Recording) -> list[Point]:
    """Bytes per second over QEMU's last 100 ms."""
    return thin([(s.t, s.mbps * 1e6 / 8) for s in _moving(recording)], extremes)


def dirty_rate(recording: Recording) -> list[Point]:
    """Bytes per second that the guest dirtied anew, by the last sync."""
    return thin(
        [(s.t, float(s.dirty_pages_rate * s.page_size)) for s in _moving(recording)], extremes
    )


def cap(recording: Recording) -> list[Point]:
    """`max-bandwidth` in bytes per second, where there is one."""
    points = [(s.t, recording.cap_at(s.t)) for s in recording.samples]
    return [(t, value) for t, value in points if value is not None]


def throttle(recording: Recording) -> list[Point]:
    """Per cent of the guest's time that is taken away; empty where it never was."""
    points = [(s.t, float(s.throttle)) for s in _moving(recording)]
    return thin(points, extremes) if any(value for _, value in points) else []


def beat_gaps(recording: Recording, side: str) -> list[Point]:
    """The longest interval between heartbeats around each moment, in seconds, seen at one side."""
    points = [(b.t, b.max_gap_ms / 1000) for b in recording.beats if b.side == side]
    return thin(points, highest)


def work_rate(recording: Recording) -> list[Point]:
    """Page writes per second of the guest's page writer."""
    points: list[Point] = []
    beats = sorted(recording.beats, key=lambda b: b.t)
    start = beats[0] if beats else None
    for beat in beats:
        if start is None or beat.t - start.t < WORK_SECONDS:
            continue
        if beat.work >= start.work:
            points.append((beat.t, (beat.work - start.work) / (beat.t - start.t)))
        start = beat
    return thin(points, mean)


@dataclass(frozen=True, slots=True)
class Running:
    """An interval in which one side's vCPUs ran."""

    side: str
    start: float
    end: float


def running(recording: Recording) -> list[Running]:
    """When each side's vCPUs ran, by STOP and RESUME; empty where neither was seen."""
    told = [e for e in recording.events if e.name in ("STOP", "RESUME")]
    if not told:
        return []
    end = recording.span[1]
    since: dict[str, float | None] = {"source": recording.span[0], "destination": None}
    intervals = []
    for event in sorted(told, key=lambda e: e.t):
        began = since.get(event.side)
        if event.name == "RESUME" and began is None:
            since[event.side] = event.t
        elif event.name == "STOP" and began is not None:
            intervals.append(Running(event.side, began, event.t))
            since[event.side] = None
    intervals += [Running(side, began, end) for side, began in since.items() if began is not None]
    return intervals


def _moving(recording: Recording) -> list[Sample]:
    # What QEMU reports after the end is an average over the whole move.
    return [s for s in recording.samples if s.status not in ENDED]
