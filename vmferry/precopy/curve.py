"""The dirty curve W(T): the unique memory that a guest dirties in a window of T seconds.

It rises, bends down and starts at the origin: a longer window finds more pages, and more of them
again and again. So the curve through measured points is their least concave majorant.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

_HALVINGS = 16


@dataclass(frozen=True, slots=True)
class DirtyCurve:
    """W as straight lines between `corners` (seconds, bytes), flat after the last one."""

    corners: tuple[tuple[float, float], ...] = ((0.0, 0.0),)

    @classmethod
    def through(cls, points: Iterable[tuple[float, float]]) -> DirtyCurve:
        """The lowest concave, rising curve from the origin that no point (seconds, bytes) is above.

        Points that are not of a positive window are left out: they tell nothing.
        """
        hull: list[tuple[float, float]] = [(0.0, 0.0)]
        for t, size in sorted(point for point in points if point[0] > 0):
            if size <= hull[-1][1]:
                continue  # below the flat continuation
            if t == hull[-1][0]:
                hull.pop()
            while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], (t, size)):
                hull.pop()
            hull.append((t, size))
        return cls(tuple(hull))

    def __call__(self, seconds: float) -> float:
        """Bytes dirtied in a window of `seconds`."""
        i = bisect_right(self.corners, (seconds, float("inf")))
        if i == 0:
            return 0.0
        if i == len(self.corners):
            return self.corners[-1][1]
        (t0, size0), (t1, size1) = self.corners[i - 1], self.corners[i]
        return size0 + (size1 - size0) * (seconds - t0) / (t1 - t0)

    @property
    def plateau(self) -> float:
        """The most that any window finds, in bytes."""
        return self.corners[-1][1]

    def bent(self, exponent: float) -> DirtyCurve:
        """The curve with T^exponent instead of a straight line before its first corner.

        Windows shorter than any measured find more than the straight line says: they are bent too.
        """
        if len(self.corners) < 2 or exponent >= 1:
            return self
        seconds, size = self.corners[1]
        before = [
            (seconds * part, size * part**exponent)
            for part in (0.5**i for i in range(1, _HALVINGS))
        ]
        return DirtyCurve.through([*before, *self.corners[1:]])

    def scaled(self, factor: float) -> DirtyCurve:
        """The curve of a guest that dirties `factor` times as much in any window."""
        return DirtyCurve(tuple((t, size * factor) for t, size in self.corners))


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
