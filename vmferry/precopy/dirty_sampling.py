"""From what calc-dirty-rate tells to points of the dirty curve, each with its error.

QEMU hashes pages drawn at random, waits for the window, hashes them again, and tells the share that
changed as a rate: whole MiB a second of all memory, the rest cut off (migration/dirtyrate.c). So
each figure stands for a few numbers of changed samples, and each of these for a band of shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance

from vmferry.precopy.profile import CurvePoint
from vmferry.units import GIB, MIB

# migration/dirtyrate.h: MIN_SAMPLE_PAGE_COUNT and MAX_SAMPLE_PAGE_COUNT, for each GiB.
_FEWEST_SAMPLES, _MOST_SAMPLES = 128, 16384
# In all. QEMU hashes them twice in about 0.1 s; their error is 2 % where a twentieth changed.
_SAMPLES = 65536
# QEMU before 8.2 takes whole seconds; later ones take milliseconds, from 50 on.
WHOLE_SECONDS = (1.0, 2.0, 4.0, 8.0)
FRACTIONS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
# A band from the 10 % to the 90 % quantile.
_DEVIATIONS = 1.2816
_ENOUGH = 0.05
_SAME = 1.1


@dataclass(frozen=True, slots=True)
class Measurement:
    """One answer: a window in seconds, the rate as QEMU tells it in MiB/s, the samples for each
    GiB of memory, and when it ended (unix time)."""

    seconds: float
    rate: int
    samples: int
    at: float


def samples_for(ram_bytes: int) -> int:
    """How many pages of each GiB to sample, as `sample-pages` takes it."""
    return round(min(max(_SAMPLES * GIB / ram_bytes, _FEWEST_SAMPLES), _MOST_SAMPLES))


def next_window(
    done: Sequence[Measurement], windows: Sequence[float], ram_bytes: int, left: float
) -> float | None:
    """The window worth measuring next, of those that fit into `left` seconds. None is "enough".

    First each one in turn, until a longer one finds no more than the one before; then, again and
    again, the one whose error is the largest.
    """
    points = points_of(done, ram_bytes)
    affordable = [window for window in windows if window <= left]
    measured = [point.seconds for point in points]
    missing = [window for window in affordable if window > max(measured, default=0.0)]
    if missing and not _has_settled(points, done):
        return missing[0]
    again = [
        (_relative_error(point), point.seconds)
        for point in points
        if point.seconds in affordable and not _is_exact(point, ram_bytes, done)
    ]
    return max(again)[1] if again else None


def points_of(done: Sequence[Measurement], ram_bytes: int) -> tuple[CurvePoint, ...]:
    """A point for each window that was measured, however often; `n` says how often."""
    windows = sorted({one.seconds for one in done})
    return tuple(
        _point([one for one in done if one.seconds == window], ram_bytes) for window in windows
    )


def _point(done: Sequence[Measurement], ram_bytes: int) -> CurvePoint:
    counts = [_changed(one) for one in done]
    drawn = [max(ram_bytes * one.samples // GIB, 1) for one in done]
    number = sum(drawn)
    # A share may come out above 1: other blocks than the RAM are sampled too.
    fewest = min(sum(low for low, _ in counts), number)
    most = min(sum(high for _, high in counts), number)
    share = (fewest + most) / 2 / number
    shares = [(low + high) / 2 / n for (low, high), n in zip(counts, drawn, strict=True)]
    noise = share * (1 - share) / (number / len(done))
    # A load that is not steady varies more from one window to the next than chance does.
    unsteady = _DEVIATIONS * math.sqrt(max(pvariance(shares) - noise, 0.0))
    low = max(_wilson(fewest, number)[0] - unsteady, 0.0)
    high = min(_wilson(most, number)[1] + unsteady, 1.0)
    return CurvePoint(
        seconds=done[0].seconds,
        bytes=share * ram_bytes,
        low=min(low, share) * ram_bytes,
        high=max(high, share) * ram_bytes,
        n=len(done),
        at=fmean(one.at for one in done),
    )


def _changed(one: Measurement) -> tuple[int, int]:
    """The fewest and the most changed samples that QEMU tells as this rate."""
    weight = GIB / one.samples
    step = MIB * one.seconds
    fewest = math.ceil(one.rate * step / weight)
    most = math.ceil((one.rate + 1) * step / weight) - 1
    return fewest, max(fewest, most)


def _wilson(found: int, number: int) -> tuple[float, float]:
    """The interval of a share of which `found` of `number` samples were seen (E. B. Wilson)."""
    z = _DEVIATIONS
    share = found / number
    middle = share + z * z / (2 * number)
    width = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    scale = 1 + z * z / number
    return max((middle - width) / scale, 0.0), min((middle + width) / scale, 1.0)


def _relative_error(point: CurvePoint) -> float:
    return (point.high - point.low) / 2 / max(point.bytes, 1.0)


def _is_exact(point: CurvePoint, ram_bytes: int, done: Sequence[Measurement]) -> bool:
    """Whether measuring it again would tell little more."""
    weight = GIB / next(one.samples for one in done if one.seconds == point.seconds)
    cut_off = max(MIB * point.seconds, weight)
    return (
        _relative_error(point) <= _ENOUGH
        or point.high - point.low <= 1.5 * cut_off
        or point.low >= (1 - _ENOUGH) * ram_bytes
    )


def _has_settled(points: Sequence[CurvePoint], done: Sequence[Measurement]) -> bool:
    """Whether longer windows would tell nothing new.

    The longest found no more than the one before, or less than QEMU's figure can tell: then longer
    ones, whose figures are coarser, cannot tell it either.
    """
    if not points:
        return False
    last = points[-1]
    if not any(one.rate for one in done if one.seconds == last.seconds):
        return True
    if len(points) < 2:
        return False
    before = points[-2]
    return last.bytes <= _SAME * before.bytes and last.low <= before.high
