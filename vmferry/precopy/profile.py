"""What was measured of a guest's memory: the dirty curve's points with their uncertainty, and sizes.

The points say nothing of the link or the settings that a migration has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from vmferry.precopy.curve import DirtyCurve

Source = Literal["rehearsal", "run", "calc-dirty-rate", "trace", "assumed"]
SOURCES: tuple[Source, ...] = get_args(Source)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """W(`seconds`): the unique bytes that the guest dirtied in a window of that length.

    The truth lies between `low` and `high` in eight of ten cases. `n` windows were measured, the
    latest `at` (unix time, 0 where nobody knows).
    """

    seconds: float
    bytes: float
    low: float
    high: float
    n: int = 1
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class DirtyProfile:
    """The dirty curve and what belongs to it: the `dirty curve` file. Bytes, seconds.

    `throttle` (per cent) held the guest while it was measured, and `slowdown` is the share of its
    work that it lost besides. `overlap` is the share of what a pass left over that the guest
    dirtied again meanwhile, None where it was not measured. `compress` are ratios (2 is half the
    bytes) by algorithm, `xbzrle_ratio` the same for pages sent again. `working_set` is the least
    that the guest rewrites in the long run, 0 where nobody knows.
    """

    points: tuple[CurvePoint, ...]
    ram_bytes: int
    zero_pages: int
    non_zero_bytes: int
    page_size: int = 4096
    throttle: int = 0
    overlap: float | None = None
    compress: Mapping[str, float] = field(default_factory=dict)
    xbzrle_ratio: float | None = None
    working_set: float = 0.0
    slowdown: float = 0.0
    source: Source = "assumed"

    @property
    def curve(self) -> DirtyCurve:
        """The concave curve through the points."""
        return DirtyCurve.through((point.seconds, point.bytes) for point in self.points)
