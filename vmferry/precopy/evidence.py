"""What a recorded migration shows of itself, for its explanation: passes, speeds, dips, hovering.

Facts only, of the recording and nothing else; causes.py and explain.py draw the conclusions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import fmean, median
from typing import Any

from vmferry.errors import UsageError
from vmferry.precopy.case import Case
from vmferry.precopy.case_of import case_of
from vmferry.precopy.outcome import PassRecord
from vmferry.precopy.passes import PassTracker
from vmferry.precopy.sample import ENDED, Event, Sample
from vmferry.precopy.trace import Item, Note, Trace
from vmferry.precopy.trend import TREND_PASSES, falls
from vmferry.units import MIB

_STANDING = ENDED | {"cancelling", "pre-switchover", "device"}
# QEMU sends ten bursts a second under a cap: a window of the speed holds a few of them.
_WINDOW_SECONDS = 0.5
# Pages of zeros cost time and no bytes: such windows tell nothing of the speed.
_MOST_ZEROS = 0.02
# A dip goes below this share of the usual speed, for two windows or more.
_DIP, _DIP_WINDOWS = 0.6, 2
# The latest passes go on as those before if they are not below this share of them on average.
_AS_BEFORE = 0.85
# MAX_THROTTLE of QEMU's default parameters (migration/options.c).
_DEFAULT_MAX_THROTTLE = 99


@dataclass(frozen=True, slots=True)
class Speed:
    """What went over the wire from `start` to `end`, in bytes per second."""

    start: float
    end: float
    rate: float


@dataclass(frozen=True, slots=True)
class Dip:
    """A time in which the speed was far below the usual one. Seconds, bytes per second.

    `lost` is how much longer the migration took for it. `lasts` where it was not over at the end.
    """

    start: float
    end: float
    least: float
    lost: float
    lasts: bool


@dataclass(frozen=True, slots=True)
class Hover:
    """Passes in a row that found no new low, all above the threshold. Bytes, seconds.

    `first` to `last` are their numbers; `dirty` is what their syncs left to send, in the middle,
    at the least and at the most; `new` and `pass_seconds` are medians.
    """

    first: int
    last: int
    start: float
    end: float
    dirty: float
    least: float
    most: float
    new: float
    pass_seconds: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """One recording, looked through. Seconds since migrate was issued.

    `samples` are those with figures, `passes` include the one that was cut short. `case` is None,
    and `why_no_case` a sentence, where too little was recorded. `hovers` are all stretches.
    """

    trace: Trace
    samples: tuple[Sample, ...]
    passes: tuple[PassRecord, ...]
    status: str
    error: str
    case: Case | None
    why_no_case: str
    speeds: tuple[Speed, ...]
    hovers: tuple[Hover, ...]
    max_throttle: int

    @property
    def last(self) -> Sample:
        return self.samples[-1]

    @property
    def seconds(self) -> float:
        """From migrate to the end, or as far as it was recorded."""
        return self.last.total_time_ms / 1000 or self.last.t

    @property
    def hover(self) -> Hover | None:
        """The hovering that went on until the end of the recording, or of the passes."""
        if not self.hovers or self.status == "completed":
            return None
        latest = self.hovers[-1]
        return latest if latest.last >= self.last.sync_count - 1 else None

    @property
    def cap_told(self) -> bool:
        """Whether the recording says what QEMU's max-bandwidth was."""
        limits = self.trace.header.get("limits")
        if isinstance(limits, dict) and "bandwidth" in limits:
            return True
        return any("max-bandwidth" in value for value in _parameters(self.trace.items))

    @property
    def post_copy_at(self) -> float | None:
        """When post-copy was first seen to have ended the passes, in seconds; None: it did not."""
        return next((one.t for one in self.samples if one.post_copy), None)

    @property
    def most_throttle(self) -> int:
        """The most that the guest was throttled by, in per cent."""
        return max(one.throttle for one in self.samples)

    @property
    def switchover_speed(self) -> float | None:
        """At least this fast went the switchover, which no cap holds; None where it shows not."""
        last = self.last
        if last.status != "completed" or not last.downtime_ms or last.downtime_bytes < MIB:
            return None
        return last.downtime_bytes / (last.downtime_ms / 1000)

    @property
    def usual_speed(self) -> float:
        """What three of four windows do not exceed; 0 where there are none."""
        rates = sorted(one.rate for one in self.speeds)
        return rates[(3 * len(rates)) // 4] if rates else 0.0

    def dips(self) -> list[Dip]:
        """Where the speed fell far below the usual one for a while."""
        usual = self.usual_speed
        found = []
        for low, group in groupby(self.speeds, key=lambda one: one.rate < _DIP * usual):
            windows = list(group)
            if low and len(windows) >= _DIP_WINDOWS:
                lost = sum((usual - one.rate) * (one.end - one.start) for one in windows) / usual
                found.append(
                    Dip(
                        start=windows[0].start,
                        end=windows[-1].end,
                        least=min(one.rate for one in windows),
                        lost=lost,
                        lasts=windows[-1] is self.speeds[-1] and self.status != "completed",
                    )
                )
        return found

    def until(self, seconds: float) -> Evidence:
        """The same recording, had it ended then."""
        items = tuple(item for item in self.trace.items if item.t <= seconds)
        return evidence_of(Trace(self.trace.header, items))


def evidence_of(trace: Trace) -> Evidence:
    """Look a recording through. Raises UsageError where no sample of it has any figures."""
    tracker = PassTracker()
    samples: list[Sample] = []
    status, error = "", ""
    for item in trace.items:
        if isinstance(item, Note):
            continue
        if not tracker.ended:
            tracker.receive(item)
        if isinstance(item, Event):
            continue
        if status not in ENDED:
            status, error = item.status, item.error or error
            if item.total > 0:
                samples.append(item)
    if not samples:
        raise UsageError(
            "the recording has no sample with figures: the migration ended before it began to send",
            hint=f"its status was '{status or 'none'}'" + (f": {error}" if error else ""),
        )
    current = tracker.current
    passes = (*tracker.passes, *([current] if current is not None else []))
    case, why_no_case = None, ""
    try:
        case = case_of(_passes_of(trace))
    except UsageError as problem:
        why_no_case = problem.message
    threshold = case.threshold if case is not None else 0.0
    return Evidence(
        trace=trace,
        samples=tuple(samples),
        passes=passes,
        status=status,
        error=error,
        case=case,
        why_no_case=why_no_case,
        speeds=tuple(_speeds(samples)),
        hovers=tuple(_hovers(passes, threshold)),
        max_throttle=_max_throttle(trace.items),
    )


def _passes_of(trace: Trace) -> Trace:
    """The recording without what followed the passes: it tells nothing of how they would go on."""
    items: list[Item] = []
    for item in trace.items:
        if isinstance(item, Sample) and (item.status in _STANDING or item.post_copy):
            break
        items.append(item)
    return replace(trace, items=tuple(items))


def _speeds(samples: Sequence[Sample]) -> list[Speed]:
    """The speed in windows of about half a second, without those that are mostly zero pages."""
    found = []
    start: Sample | None = None
    for sample in samples:
        if sample.status != "active":
            break
        if start is None:
            start = sample
        elif sample.t - start.t >= _WINDOW_SECONDS:
            pages = sample.sent_pages - start.sent_pages
            zeros = sample.zero_pages - start.zero_pages
            if zeros <= _MOST_ZEROS * pages:
                rate = (sample.transferred - start.transferred) / (sample.t - start.t)
                found.append(Speed(start.t, sample.t, rate))
            start = sample
    return found


def _hovers(passes: Sequence[PassRecord], threshold: float) -> list[Hover]:
    """The stretches of passes that show no falling trend (trend.py), the whole window of it."""
    records = [one for one in passes if one.n > 1 and not one.switchover]
    if passes and not passes[-1].switchover and records:
        records = records[:-1]  # it may have been cut short
    dirty = [one.dirty_bytes for one in records]
    flat = [False] * len(dirty)
    least = float("inf")
    for end in range(TREND_PASSES + 1, len(dirty) + 1):
        least = min(least, dirty[end - TREND_PASSES - 1])
        latest = dirty[end - TREND_PASSES : end]
        if min(latest) > threshold and not falls([least, *latest]):
            flat[end - TREND_PASSES : end] = [True] * TREND_PASSES
    # A single new low does not end it where the passes go on as before.
    flat = _without_short_breaks(flat, dirty)
    groups = groupby(zip(records, flat, strict=True), key=lambda pair: pair[1])
    return [_hover([record for record, _ in group]) for is_flat, group in groups if is_flat]


def _without_short_breaks(flat: Sequence[bool], dirty: Sequence[int]) -> list[bool]:
    result: list[bool] = []
    for is_flat, group in groupby(flat):
        length, begun = len(list(group)), len(result)
        short = begun > 0 and length < TREND_PASSES
        if short and begun + length == len(flat):
            short = fmean(dirty[begun:]) > _AS_BEFORE * fmean(dirty[begun - TREND_PASSES : begun])
        result += [is_flat or short] * length
    return result


def _hover(records: Sequence[PassRecord]) -> Hover:
    first, last = records[0], records[-1]
    dirty = [one.dirty_bytes for one in records]
    return Hover(
        first=first.n,
        last=last.n,
        start=first.start_ms / 1000,
        end=(last.start_ms + last.duration_ms) / 1000,
        dirty=fmean(dirty),
        least=min(dirty),
        most=max(dirty),
        new=median(one.new_bytes for one in records),
        pass_seconds=median(one.duration_ms for one in records) / 1000,
    )


def _parameters(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [
        item.value
        for item in items
        if isinstance(item, Note) and item.kind == "parameters" and isinstance(item.value, dict)
    ]


def _max_throttle(items: Sequence[Item]) -> int:
    told = [value.get("max-cpu-throttle") for value in _parameters(items)]
    return next((one for one in reversed(told) if isinstance(one, int)), _DEFAULT_MAX_THROTTLE)
