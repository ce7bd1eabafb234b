"""The dirty curves of many profiles as arrays: W(T) for every draw of every case at once.

Between the measured windows W follows their concave curve. Outside it is a power of T, whose
exponent is drawn: below the shortest window W lies, by concavity, between proportion (exponent 1)
and the line through the next one; the guests measured so far lie at about 0.65 (docs/forecast.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, inf, log

import numpy as np
from numpy.typing import NDArray

from vmferry.precopy.draws import DRAWS, normal, uniform
from vmferry.precopy.profile import APART, EXPONENT, DirtyProfile, growth, log_deviations

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_KNOTS = 32
_NOTHING = 1.0  # a byte: what an idle guest dirties, so that it has a logarithm
_LEAST = 1e-3
# Windows shorter than measured: the usual exponent and how far loads differ in it, below windows of
# _LONG seconds and of _SHORT ones; and how closely it follows that of the two shortest windows.
EXPONENT_SPREAD, _NEAR_EXPONENT, _NEAR_SPREAD = 0.05, 0.76, 0.17
_LONG, _SHORT = 2.0, 0.2
_FOLLOWS = 0.06
# A curve with a lower exponent is flat, and goes that part of the way towards proportion.
_FLAT, _TOWARDS_1, _FLAT_SPREAD, _SPREAD_LEAST = 0.5, 0.6, 0.12, 0.03
_EXPONENT_LEAST = 0.4


@dataclass(frozen=True, slots=True)
class _Row:
    """One profile: its knots, evenly spread in log T, with the deviations there, all in logs."""

    start: float
    end: float
    sizes: Floats
    down: Floats
    up: Floats
    shorter: float
    shorter_spread: float
    longer: float
    intercept: float
    slope: float
    most: float


@dataclass(frozen=True, slots=True)
class Shapes:
    """W for `rows` of cases x draws, flattened; see `of`."""

    _start: Floats
    _end: Floats
    _per_knot: Floats
    _table: Floats
    _shorter: Floats
    _longer: Floats
    _factor: Floats
    _intercept: Floats
    _slope: Floats
    _most: Floats

    @classmethod
    def of(cls, profiles: Sequence[DirtyProfile]) -> Shapes:
        """The curves of one profile a case; row `case * DRAWS + draw` is one draw."""
        known: dict[int, _Row] = {}
        for profile in profiles:
            if id(profile) not in known:  # the settings of a plan share one
                known[id(profile)] = _row(profile)
        rows = [known[id(profile)] for profile in profiles]

        def column(values: Sequence[float]) -> Floats:
            return np.repeat(np.array(values, dtype=np.float64), DRAWS)

        height = np.tile(normal("height"), len(rows))
        deviations = np.where(
            (height > 0)[:, None],
            np.repeat(np.stack([row.up for row in rows]), DRAWS, axis=0),
            np.repeat(np.stack([row.down for row in rows]), DRAWS, axis=0),
        )
        offs = height[:, None] * deviations
        start, end = column([row.start for row in rows]), column([row.end for row in rows])
        shorter = column([row.shorter for row in rows]) + column(
            [row.shorter_spread for row in rows]
        ) * np.tile(normal("shorter"), len(rows))
        # A set that is not nearly rewritten yet goes on to grow; one that is, does not.
        longer = column([row.longer for row in rows])
        growing = longer / 2 + (1 - longer / 2) * np.tile(uniform("longer"), len(rows))
        return cls(
            _start=start,
            _end=end,
            _per_knot=(_KNOTS - 1) / np.maximum(end - start, 1e-9),
            _table=np.repeat(np.stack([row.sizes for row in rows]), DRAWS, axis=0) + offs,
            _shorter=np.clip(shorter, _EXPONENT_LEAST, 1.0),
            _longer=longer * growing,
            _factor=np.exp(offs[:, 0]),
            _intercept=column([row.intercept for row in rows]),
            _slope=column([row.slope for row in rows]),
            _most=column([row.most for row in rows]),
        )

    @property
    def plateau(self) -> Floats:
        """What the longest measured window finds."""
        return np.exp(self._table[:, -1])

    def new(self, seconds: Floats, rows: Indices) -> Floats:
        """Unique bytes that a window of `seconds` (more than 0) finds, in the draws `rows`.

        `seconds` may have several windows a row, each in a line of its own.
        """
        t = np.log(seconds)
        start, end = self._start[rows], self._end[rows]
        place = np.minimum(np.maximum((t - start) * self._per_knot[rows], 0.0), _KNOTS - 1)
        left = np.minimum(place.astype(np.intp), _KNOTS - 2)
        part = place - left
        size = self._table[rows, left] * (1 - part) + self._table[rows, left + 1] * part
        below, above = np.minimum(t - start, 0.0), np.maximum(t - end, 0.0)
        size += self._shorter[rows] * below + self._longer[rows] * above
        line = (self._intercept[rows] + self._slope[rows] * seconds) * self._factor[rows]
        found: Floats = np.minimum(np.exp(size), self._most[rows])
        found = np.where(below < 0, np.minimum(found, line), found)
        return np.maximum(found, _LEAST)


def _row(profile: DirtyProfile) -> _Row:
    points = sorted(profile.points, key=lambda point: point.seconds)
    points = [point for point in points if point.seconds > 0]
    most = float(max(profile.ram_bytes, profile.page_size))
    if not points:
        none = np.zeros(_KNOTS)
        return _Row(0.0, 0.0, none, none, none, 1.0, 0.0, 0.0, inf, 0.0, most)
    curve = profile.curve
    times = [log(point.seconds) for point in points]
    sizes = [log(max(curve(point.seconds), _NOTHING)) for point in points]
    deviations = [log_deviations(point) for point in points]
    knots = np.linspace(times[0], times[-1], _KNOTS)
    shorter, shorter_spread = _shorter(times, sizes, [(a + b) / 2 for a, b in deviations])
    intercept, slope = _line(times, sizes)
    return _Row(
        start=times[0],
        end=times[-1],
        sizes=np.interp(knots, times, sizes),
        down=np.interp(knots, times, [down for down, _ in deviations]),
        up=np.interp(knots, times, [up for _, up in deviations]),
        shorter=shorter,
        shorter_spread=shorter_spread,
        longer=growth(zip(map(exp, times), map(exp, sizes), strict=True)),
        intercept=intercept,
        slope=slope,
        most=most,
    )


def _shorter(
    times: Sequence[float], sizes: Sequence[float], deviations: Sequence[float]
) -> tuple[float, float]:
    """The exponent below the shortest window, and its standard deviation."""
    # Towards 0 every curve becomes proportional: what is left of that way is known less well.
    near = min(max((log(_LONG) - times[0]) / log(_LONG / _SHORT), 0.0), 1.0)
    usual = EXPONENT + (_NEAR_EXPONENT - EXPONENT) * near
    spread = EXPONENT_SPREAD + (_NEAR_SPREAD - EXPONENT_SPREAD) * near
    following = _apart(times, 0)
    if following is None:
        return usual, spread
    apart = times[following] - times[0]
    slope = (sizes[following] - sizes[0]) / apart
    error = hypot(deviations[0], deviations[following]) / apart
    weight = _FOLLOWS**2 / (_FOLLOWS**2 + error**2)
    after = _apart(times, following)
    if after is not None:
        # Where the curve steepens towards the shorter windows, it goes on to do so.
        later = (sizes[after] - sizes[following]) / (times[after] - times[following])
        slope = min(slope + max(slope - later, 0.0), 1.0)
    exponent = usual + weight * max(slope - usual, 0.0)
    # A flat curve is of a set that is all rewritten: it was written at some rate before it was.
    flat = max(_FLAT - slope, 0.0) / _FLAT * _FLAT_SPREAD / hypot(_FLAT_SPREAD, error)
    exponent += (1 - exponent) * _TOWARDS_1 * flat
    return exponent, max(spread * (1 - weight) ** 0.5, _FLAT_SPREAD * flat, _SPREAD_LEAST)


def _line(times: Sequence[float], sizes: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of what no concave curve lies above, left of the shortest window."""
    following = _apart(times, 0)
    if following is None:
        return inf, 0.0
    t0, t1 = exp(times[0]), exp(times[following])
    size0, size1 = exp(sizes[0]), exp(sizes[following])
    slope = (size1 - size0) / (t1 - t0)
    return max(size0 - slope * t0, 0.0), slope


def _apart(times: Sequence[float], i: int) -> int | None:
    """The first window that is long enough after the i-th to tell an exponent."""
    return next((j for j, t in enumerate(times) if t > times[i] + log(APART)), None)
