"""Whether a rehearsal's passes would converge, judged at each of them: by these passes alone.

The dirty curve comes from the finished passes, the recent ones counting most, and the speed from
QEMU's own measurement; their spread gives the interval. The map that both are put into is
passmap.py's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from statistics import fmean
from typing import Literal

from vmferry.precopy.curve import DirtyCurve
from vmferry.precopy.outcome import PassRecord
from vmferry.precopy.passes import PassTracker
from vmferry.precopy.passmap import PassMap
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trend import settled_at

Verdict = Literal["converges", "does-not-converge", "uncertain", "unknown"]

# A load changes: older passes tell less, and ones before the last dozen nothing.
_PASSES = 12
_HALF_LIFE = 3.0
_SPEEDS = 50
# Real loads grow as T^0.7 to T^1 over the windows of passes; one point alone does not tell.
_EXPONENT_LEAST, _EXPONENT_ASSUMED, _EXPONENT_BAND = 0.7, 0.8, 0.1
_NEAR, _SPREAD_LEAST = 10.0, 0.1
_LOW, _MIDDLE, _HIGH = 0.25, 0.5, 0.75


@dataclass(frozen=True, slots=True)
class Estimate:
    """How the passes go on as things are. Bytes, bytes per second.

    The verdict is "unknown" in pass 1. `hovers_at` is what passes settle at, were there no
    switchover.
    """

    verdict: Verdict
    speed: float
    threshold: float
    working_set: float = 0.0
    hovers_at: float = 0.0


class Convergence:
    """Judges one migration by what `tracker` was fed with; feed it the same items after that."""

    def __init__(self, tracker: PassTracker, downtime_limit_ms: int) -> None:
        self.downtime_limit_ms = downtime_limit_ms
        self._tracker = tracker
        self._speeds: deque[float] = deque(maxlen=_SPEEDS)
        self._last: Sample | None = None

    def receive(self, item: Sample | Event) -> None:
        """Take the next input, in the order of time."""
        if not isinstance(item, Sample) or item.total == 0 or item.sync_count == 0:
            return
        if self._last is not None and self._last.sync_count == 1 and item.sync_count > 1:
            self._speeds.clear()  # the zero pages of pass 1 make a speed of their own
        if item.mbps > 0:
            self._speeds.append(item.mbps * 1e6 / 8)
        self._last = item

    def estimate(self) -> Estimate | None:
        """How it goes on. None before any speed was measured."""
        last, current = self._last, self._tracker.current
        if last is None or current is None or not self._speeds:
            return None
        speeds = [quantile(self._speeds, share) for share in (_LOW, _MIDDLE, _HIGH)]
        limit = self.downtime_limit_ms / 1000
        passes = self._tracker.passes
        points = dirty_points(passes, current)
        if not points:
            return Estimate("unknown", speeds[1], speeds[1] * limit)
        working_set = _working_set(passes, current)
        curves = _curves(points, working_set)
        share = _wire_share(passes)
        best, middle, worst = (
            PassMap(curve, working_set, speed, limit, share)
            for curve, speed in zip(curves, reversed(speeds), strict=True)
        )
        dirty = [record.dirty_bytes for record in passes if record.n > 1]
        stays_at = settled_at(dirty, middle.threshold)
        if stays_at is not None:
            # The passes themselves are the proof; the model has to agree with them.
            best, middle, worst = (_agreeing(m, stays_at) for m in (best, middle, worst))
        return Estimate(
            verdict=_verdict([m.converges for m in (best, middle, worst)]),
            speed=middle.speed,
            threshold=middle.threshold,
            working_set=working_set,
            hovers_at=middle.hovers_at,
        )


@dataclass(frozen=True, slots=True)
class DirtyPoint:
    """What one pass tells of the dirty curve: `new` bytes found dirty after `seconds`.

    `left` bytes were waiting unsent then, and `weight` is less for older passes.
    """

    seconds: float
    new: float
    left: float
    weight: float


def dirty_points(passes: Sequence[PassRecord], current: PassRecord | None) -> list[DirtyPoint]:
    """The points that the passes tell, oldest first.

    A sync finds what was dirtied during the pass before. The switchover's tells nothing, as the
    vCPUs stood still before it; nor does a guess.
    """
    following = [*passes[1:], *([current] if current is not None else [])]
    pairs = [
        (record, later)
        for record, later in zip(passes, following, strict=False)
        if not later.switchover and record.duration_ms > 0 and "new_bytes" not in later.estimated
    ][-_PASSES:]
    return [
        DirtyPoint(
            seconds=record.duration_ms / 1000,
            new=later.new_bytes,
            # What pass 1 left over are addresses of its own, not pages that the guest rewrites.
            left=record.left_bytes if record.n > 1 else 0,
            weight=0.5 ** ((len(pairs) - 1 - i) / _HALF_LIFE),
        )
        for i, (record, later) in enumerate(pairs)
    ]


def _working_set(passes: Sequence[PassRecord], current: PassRecord) -> float:
    """The least that the guest's rewritten memory can be: the largest set seen dirty at once."""
    seen = [record for record in (*passes, current) if record.n > 1]
    found = [record.new_bytes for record in seen]
    waiting = [record.dirty_bytes for record in seen if record.n > 2]
    return float(max([*found, *waiting], default=0))


def _curves(
    points: Sequence[DirtyPoint], working_set: float
) -> tuple[DirtyCurve, DirtyCurve, DirtyCurve]:
    """The curve at the lower end, in the middle and at the upper end of the points."""
    whole = []
    for point in points:
        waiting = min(point.left / working_set, 0.99) if working_set > 0 else 0.0
        whole.append((point.seconds, min(point.new / (1 - waiting), working_set)))
    upper = DirtyCurve.through(whole)
    if upper.plateau == 0:
        return upper, upper, upper
    # The shape from all of them; its height from how far below it each one lies.
    factors = [size / upper(seconds) for seconds, size in whole]
    weights = [point.weight for point in points]
    exponent = _exponent(whole)
    low, middle, high = (
        upper.bent(bend).scaled(quantile(factors, share, weights))
        for bend, share in (
            (exponent + _EXPONENT_BAND, _LOW),
            (exponent, _MIDDLE),
            (max(exponent - _EXPONENT_BAND, _EXPONENT_LEAST), _HIGH),
        )
    )
    return low, middle, high


def _exponent(points: Sequence[tuple[float, float]]) -> float:
    """How W grows with T in the shorter windows: W ~ T^exponent, 1 being in proportion."""
    shortest = min(seconds for seconds, _ in points)
    logs = [(log(t), log(size)) for t, size in points if size > 0 and t < shortest * _NEAR]
    if len(logs) < 2:
        return _EXPONENT_ASSUMED
    mean_t, mean_size = fmean(t for t, _ in logs), fmean(size for _, size in logs)
    spread = sum((t - mean_t) ** 2 for t, _ in logs)
    if spread < _SPREAD_LEAST:
        return _EXPONENT_ASSUMED
    slope = sum((t - mean_t) * (size - mean_size) for t, size in logs) / spread
    return min(max(slope, _EXPONENT_LEAST), 1.0)


def _wire_share(passes: Sequence[PassRecord]) -> float:
    """Bytes on the wire for a byte of memory, in the latest passes."""
    recent = [record for record in passes if record.n > 1][-_PASSES:]
    pages = sum(record.dirty_bytes - record.left_bytes for record in recent)
    return sum(record.sent_bytes for record in recent) / pages if pages else 1.0


def quantile(
    values: Sequence[float] | deque[float], share: float, weights: Sequence[float] | None = None
) -> float:
    """The value below which `share` of the weight lies, without interpolation."""
    pairs = sorted(zip(values, weights or [1.0] * len(values), strict=True))
    total, below = sum(weight for _, weight in pairs), 0.0
    for value, weight in pairs:
        below += weight
        if below >= share * total:
            return value
    return pairs[-1][0]


def _verdict(converging: Sequence[bool]) -> Verdict:
    if all(converging):
        return "converges"
    return "uncertain" if any(converging) else "does-not-converge"


def _agreeing(model: PassMap, hovers_at: float) -> PassMap:
    """The model with its curve raised until it hovers there, where it hovers lower."""
    predicted = model.next_dirty(hovers_at) - model.left_over
    seen = hovers_at - model.left_over
    if 0 < predicted < seen:
        return replace(model, curve=model.curve.scaled(seen / predicted))
    return model
