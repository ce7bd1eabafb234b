"""The profile of a guest from the passes of a migration: of a run, a rehearsal or a recording.

The sync that begins a pass finds what the guest dirtied during the pass before: a point of the
dirty curve. Passes of about the same length are one point; how far they lie apart, and how many
there are, make its doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, hypot, log
from statistics import fmean
from typing import TypeVar

from vmferry.precopy.case import Standing
from vmferry.precopy.draws import Z90
from vmferry.precopy.forecast_rows import OVERLAP
from vmferry.precopy.outcome import PassRecord
from vmferry.precopy.phases import Phases, Window
from vmferry.precopy.phases_of import phases_of
from vmferry.precopy.profile import CurvePoint, DirtyProfile, Source, extended
from vmferry.precopy.sample import Sample

# Windows that differ by less than this factor are one point.
_ALIKE = 1.4
# One pass tells the curve to about 12 % (the median over recorded loads), many to 3 % at best.
_ONE_PASS, _LEAST_DOUBT = 0.12, 0.03
# Where passes were shorter than the polling, their figures are guesses.
_GUESSED = 0.5
# How far a window by the guest's own clock may be off, and how much of it has to be busy to count.
_CLOCK_DOUBT, _MOSTLY_BUSY = 0.15, 0.3
# The least part of a window that is not among what was left over.
_LEAST_NEW = 0.05
# A load changes: among passes of the same length the late ones count more.
_HALF_LIFE = 6.0
# Without MIGRATION_PASS events the time of a sync is known to that part of the polling period.
_OF_POLLING = 0.25
_T = TypeVar("_T")

# In search of the window that finds what was dirty: its precision, and when to give up.
_FINER, _OLDEST = 1.1, 1000.0
# Two syncs between two samples may seem to be one moment.
_SHORTEST_MS = 0.1
_ROUNDS = 8

# Ten thousands of passes ago still counts, or nothing would be left to divide by.
_LEAST_WEIGHT = 1e-9


@dataclass(frozen=True, slots=True)
class _Found:
    """What one pass, which began at `start`, tells: W(`seconds`) of the guest's own time.

    `low` and `high` are by how much was dirtied again unseen; the `doubt` beside is in logarithms.
    """

    start: float
    seconds: float
    low: float
    bytes: float
    high: float
    doubt: float
    weight: float


def profile_of_passes(
    passes: Sequence[PassRecord],
    current: PassRecord | None,
    last: Sample,
    *,
    throttles: Mapping[int, float] | None = None,
    zero_end: int = 0,
    zero_share: float = 0.0,
    polling: float = 0.0,
    source: Source = "run",
    at: float = 0.0,
    latest: int | None = None,
    threshold: float | None = None,
    phased: bool = False,
    ended_below: Sequence[Window] = (),
    ended_leaving: float = 0.0,
) -> DirtyProfile | None:
    """The profile that finished passes, and the begin of the `current` one, tell.

    `last` is the last sample with figures, `throttles` the per cent that held the guest in each
    pass, `zero_end` the zero pages that pass 1 ended with, in bytes, `zero_share` the share of zero
    pages in later passes, `polling` the seconds between samples, `at` the unix time. Only pass 1
    and the `latest` ones are looked at. None where pass 1 is not over: then nothing is known of
    the curve. `threshold` is what QEMU leaves over at the most, in bytes, where that is known: it
    makes a guess of it better. With `phased` it is looked for phases of the load; `ended_below` are
    the last passes before QEMU began to switch over, and `ended_leaving` what they left over at
    the least, in bytes.
    """
    if not passes or (current is None and len(passes) < 2):
        return None
    throttle = min((throttles or {}).get(last.sync_count, 0.0), 99.0)
    working_set = _working_set(passes, current)
    pairs = _pairs(passes, current)
    if latest is not None:
        pairs = [*pairs[:1], *pairs[1:][-latest:]]
    if threshold is not None:
        pairs = [(_leaving(record, threshold), later) for record, later in pairs]
    found = _found(passes, pairs, throttles or {}, throttle, polling)
    phases = None
    guessed = all(one.doubt == _GUESSED for one in found)
    would_show = not guessed and not any((throttles or {}).values())
    if phased and would_show:
        new = max(1 - ended_leaving / max(working_set, 1.0), _LEAST_NEW)
        whole = [replace(one, bytes=one.bytes / new) for one in ended_below]
        phases, found = _with_phases(found, whole)
    first = passes[0]
    zero_pages = first.zero_pages + _left_over_zero_pages(passes, current, zero_share, last)
    return DirtyProfile(
        points=tuple(_point(group, at) for group in _alike(found, lambda one: one.seconds)),
        ram_bytes=last.total,
        zero_pages=zero_pages,
        non_zero_bytes=max(first.dirty_bytes - zero_pages * last.page_size, 0),
        page_size=last.page_size,
        throttle=round(throttle),
        working_set=working_set,
        source=source,
        zero_share=zero_share,
        zero_end=zero_end,
        phases=phases,
        watched=_watched(passes, current) if would_show else 0.0,
    )


def standing_of(current: PassRecord, last: Sample) -> Standing:
    """Where a running migration is, by its last sample."""
    return Standing(
        t=last.t,
        number=last.sync_count,
        remaining=float(last.remaining),
        sent=float(last.transferred),
        pass_elapsed=max(last.t - current.start_ms / 1000, 0.0),
    )


def zero_pages_per_second(passes: Sequence[PassRecord], speed: float) -> float | None:
    """The rate at which zero pages held up pass 1, beyond what it sent at `speed`.

    A rate limit spares time in which a sender scans zero pages that lie among others: then it comes
    out as high as if they cost nothing. None where pass 1 is not over or had none.
    """
    if not passes or passes[0].zero_pages == 0 or speed <= 0:
        return None
    first = passes[0]
    seconds = first.duration_ms / 1000 - first.sent_bytes / speed
    return first.zero_pages / max(seconds, first.duration_ms / 1e6, 1e-6)


def _leaving(record: PassRecord, most: float) -> PassRecord:
    """The pass with no more left over than `most`: zero pages go by too fast to be seen, so that
    those which a pass ends with are taken for left over."""
    if "left_bytes" not in record.estimated or record.left_bytes <= most:
        return record
    return replace(record, left_bytes=round(most))


def _left_over_zero_pages(
    passes: Sequence[PassRecord], current: PassRecord | None, zero_share: float, last: Sample
) -> int:
    """Zero pages that pass 1 left over: what pass 2 sent of them beyond their usual share."""
    second = passes[1] if len(passes) > 1 else current
    if second is None:
        return 0
    beyond = second.zero_pages - zero_share * second.sent_pages
    return round(min(max(beyond, 0.0), passes[0].left_bytes / last.page_size))


def _found(
    passes: Sequence[PassRecord],
    pairs: Sequence[tuple[PassRecord, PassRecord]],
    throttles: Mapping[int, float],
    throttle: float,
    polling: float,
) -> list[_Found]:
    """What each pass tells, as windows of a guest that is held by `throttle`."""
    certain = [pair for pair in pairs if "new_bytes" not in pair[1].estimated]
    low, middle, high = (_whole(passes, certain or pairs, times) for times in OVERLAP)
    result = []
    for i, (record, _) in enumerate(certain or pairs):
        seconds = record.duration_ms / 1000
        blur = _OF_POLLING * polling / seconds if "duration_ms" in record.estimated else 0.0
        clock = (1 - throttles.get(record.n, 0.0) / 100) / (1 - throttle / 100)
        result.append(
            _Found(
                start=record.start_ms / 1000,
                seconds=seconds * clock,
                low=low[i],
                bytes=middle[i],
                high=high[i],
                doubt=hypot(_ONE_PASS, min(blur, 1.0)) if certain else _GUESSED,
                weight=max(0.5 ** ((len(certain or pairs) - 1 - i) / _HALF_LIFE), _LEAST_WEIGHT),
            )
        )
    return result


def _with_phases(
    found: list[_Found], ended_below: Sequence[Window]
) -> tuple[Phases | None, list[_Found]]:
    """The phases of the load, if it has any, and the windows by the guest's own clock then."""
    windows = [Window(one.start, one.start + one.seconds, one.bytes) for one in found]
    told = phases_of([*windows, *ended_below])
    if told is None:
        return None, found
    turned = [
        (own / one.seconds, replace(one, seconds=own, doubt=hypot(one.doubt, _CLOCK_DOUBT)))
        for own, one in ((own, found[i]) for i, own in told.own.items() if i < len(found))
    ]
    most = min(_MOSTLY_BUSY, max(share for share, _ in turned))
    return told.phases, [one for share, one in turned if share >= most]


def _watched(passes: Sequence[PassRecord], current: PassRecord | None) -> float:
    """How long there were passes that show a quiet phase: pass 1 is too long to."""
    last = current or passes[-1]
    # Less than nothing where the wall clock, which QEMU's events go by, was set back.
    watched = last.start_ms + last.duration_ms - passes[0].duration_ms
    return round(max(watched, 0.0) / 1000, 3)


def _whole(
    passes: Sequence[PassRecord],
    pairs: Sequence[tuple[PassRecord, PassRecord]],
    times: float,
) -> list[float]:
    """What each pass dirtied, with what was still waiting to be sent and dirtied again.

    How much that is follows from the curve that it makes, so it is looked for until the two agree;
    left-over pages are dirtied again `times` as often as the curve says of all.
    """
    sizes = [float(later.new_bytes) for _, later in pairs]
    for _ in range(_ROUNDS):
        windows = [
            (record.duration_ms, size) for (record, _), size in zip(pairs, sizes, strict=True)
        ]
        curve = extended([_mean(group) for group in _alike(windows, lambda one: one[0])])
        sizes = [
            later.new_bytes + _again(curve, passes, record, times) * record.left_bytes
            for record, later in pairs
        ]
    return sizes


def _alike(items: Sequence[_T], length: Callable[[_T], float]) -> list[list[_T]]:
    """Items of about the same length together, in the order of their lengths."""
    groups: list[list[_T]] = []
    for one in sorted(items, key=length):
        if groups and length(one) < length(groups[-1][0]) * _ALIKE:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _mean(group: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return fmean(window for window, _ in group), fmean(size for _, size in group)


def _again(
    curve: Callable[[float], float],
    passes: Sequence[PassRecord],
    record: PassRecord,
    times: float,
) -> float:
    """The share of what was left over that was dirtied again meanwhile (see forecast_map.py)."""
    window = record.duration_ms
    if record.n == 1:
        # Addresses of its own among all of the memory, unless the rewritten ones are just these.
        by_chance = min(curve(window) / max(record.dirty_bytes, 1), 1.0)
        return 1.0 if times == OVERLAP[-1] else by_chance
    since = max(passes[record.n - 2].duration_ms, _SHORTEST_MS)
    while curve(since) < record.dirty_bytes and since < _OLDEST * window:
        since *= _FINER
    before = curve(since)
    both = before + curve(window) - curve(since + window)
    return min(max(times * both / before, 0.0), 1.0) if before > 0 else 0.0


def windows_of(passes: Sequence[PassRecord], current: PassRecord | None) -> list[Window]:
    """What each pass found to be dirtied during it, in order of time; guesses are left out."""
    return [
        Window(one.start_ms / 1000, (one.start_ms + one.duration_ms) / 1000, later.new_bytes)
        for one, later in _pairs(passes, current)
        if "new_bytes" not in later.estimated
    ]


def _pairs(
    passes: Sequence[PassRecord], current: PassRecord | None
) -> list[tuple[PassRecord, PassRecord]]:
    """Each pass with the one whose sync found what was dirtied during it.

    The switchover's tells nothing, as the vCPUs stood still before it.
    """
    following = [*passes[1:], *([current] if current is not None else [])]
    return [
        (record, later)
        for record, later in zip(passes, following, strict=False)
        if not later.switchover and record.duration_ms > 0
    ]


def _point(group: Sequence[_Found], at: float) -> CurvePoint:
    total = sum(one.weight for one in group)
    sizes = [log(max(one.bytes, 1.0)) for one in group]
    middle = sum(s * one.weight for s, one in zip(sizes, group, strict=True)) / total
    seconds = sum(log(one.seconds) * one.weight for one in group) / total
    spread = sum((s - middle) ** 2 * one.weight for s, one in zip(sizes, group, strict=True))
    # So many passes of the same weight would tell as much.
    count = total**2 / sum(one.weight**2 for one in group)
    single = max(sum(one.doubt * one.weight for one in group) / total, (spread / total) ** 0.5)
    doubt = max(single / count**0.5, _LEAST_DOUBT)
    down, up = (
        hypot(Z90 * doubt, fmean(log(max(a, 1.0) / max(b, 1.0)) for a, b in pairs))
        for pairs in (
            [(one.bytes, one.low) for one in group],
            [(one.high, one.bytes) for one in group],
        )
    )
    return CurvePoint(
        seconds=exp(seconds),
        bytes=exp(middle),
        low=exp(middle - down),
        high=exp(middle + up),
        n=len(group),
        at=at,
    )


def _working_set(passes: Sequence[PassRecord], current: PassRecord | None) -> float:
    """The least that the guest's rewritten memory can be: the largest set seen dirty at once."""
    seen = [one for one in (*passes, *([current] if current else [])) if one.n > 1]
    found = [one.new_bytes for one in seen if "new_bytes" not in one.estimated]
    # What pass 1 left over is no rewritten memory.
    waiting = [one.dirty_bytes for one in seen if one.n > 2]
    return float(max([*found, *waiting], default=0))
