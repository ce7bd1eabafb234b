"""What was measured of a guest's memory: points of the dirty curve, with doubts, and sizes.

The points say nothing of the link or the settings that a migration has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, hypot, log
from typing import Any, Literal, cast

from vmferry.precopy.checked import Checked, parse_object
from vmferry.precopy.curve import DirtyCurve
from vmferry.precopy.draws import Z90
from vmferry.precopy.phases import Phases
from vmferry.precopy.quantiles import Quantiles

Source = Literal["rehearsal", "run", "calc-dirty-rate", "trace", "assumed"]

FORMAT = 1
# In falling order of trust; a trace is a run that somebody else recorded.
SOURCES: tuple[Source, ...] = ("rehearsal", "run", "trace", "calc-dirty-rate", "assumed")
# Loads grow as about T^0.65 over the windows of passes (docs/forecast.md). Windows that are to tell
# the exponent of this one differ by at least this factor.
EXPONENT, APART = 0.64, 1.5
# Beyond the longest window a curve goes on to bend.
_LATER = 0.75
# What no guest has: figures beyond it are mistakes, and would overflow.
_MOST_BYTES, _MOST_PAGE, _MOST_SECONDS, _MOST_WINDOWS = 2.0**60, 2**30, 1e8, 10**9
_LEAST_RATIO, MOST_RATIO = 0.01, 1e4
_PER_CENT = "must be per cent, from 0 to 99"
# Two windows this near to each other tell the same: the more trusted one is taken.
_SAME_WINDOW = 2.0
# A load drifts: after an hour it is off by 5 % (one standard deviation), growing with the root of
# the time, and after days it is as different as any other load at another hour.
DRIFT_OF_AN_HOUR, MOST_DRIFT = 0.05, 0.5


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
    that the guest rewrites in the long run, 0 where nobody knows. `zero_share` is the share of zero
    pages in what is sent again, `zero_end` what the memory has of them at its end, where QEMU ends
    pass 1, in bytes. With `phases` the points are of the guest's own clock (phases.py). `watched`
    seconds the passes after pass 1 took, 0 where nobody knows.
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
    zero_share: float = 0.0
    zero_end: int = 0
    phases: Phases | None = None
    watched: float = 0.0

    @property
    def curve(self) -> DirtyCurve:
        """The concave curve that fits the points best: their hull, lowered to lie among them."""
        hull = DirtyCurve.through((point.seconds, point.bytes) for point in self.points)
        offs = [
            (log(point.bytes / hull(point.seconds)), _certainty(point))
            for point in self.points
            if point.seconds > 0 and point.bytes > 0
        ]
        if not offs:
            return hull
        weight = sum(certainty for _, certainty in offs)
        return hull.scaled(exp(sum(off * certainty for off, certainty in offs) / weight))

    @property
    def extended(self) -> Callable[[float], float]:
        """The curve for windows of any length: a power of T beyond those that were measured."""
        return extended([(point.seconds, point.bytes) for point in self.points])

    def aged(self, now: float) -> DirtyProfile:
        """The profile with each point's doubt grown by its age; `now` is unix time."""
        return dataclasses.replace(
            self, points=tuple(_aged(point, now - point.at) for point in self.points)
        )

    def to_json(self) -> dict[str, Any]:
        """The dirty curve file (format 1)."""
        values = {name: getattr(self, name) for name in self.__slots__}
        points = [{name: getattr(point, name) for name in point.__slots__} for point in self.points]
        phases = self.phases.to_json() if self.phases is not None else None
        return {
            "format": FORMAT,
            **values,
            "points": points,
            "compress": dict(self.compress),
            "phases": phases,
        }

    @classmethod
    def from_json(cls, data: Any, name: str = "the dirty curve") -> DirtyProfile:
        """The profile in a parsed file; `name` is what errors call it. Raises UsageError."""
        return _profile(Checked(data, name))

    @classmethod
    def parse(cls, text: str, name: str) -> DirtyProfile:
        """The profile in the text of a file. Raises UsageError."""
        return _profile(parse_object(text, name))


def merge(profiles: Sequence[DirtyProfile], now: float) -> DirtyProfile:
    """One profile from several of one guest. `now` is unix time. Raises ValueError for none.

    The more trusted one (see SOURCES), and of two alike the later one, gives the sizes and all its
    points, unless it was too short to see the phases that another one saw; the others add windows
    that it did not measure. Doubts grow with age. Points that were measured at another throttle are
    turned into windows of the same guest time.
    """
    if not profiles:
        raise ValueError("there is nothing to merge")
    ranked = sorted(profiles, key=lambda one: (SOURCES.index(one.source), -_latest(one)))
    best = _best(ranked)
    points: list[CurvePoint] = []
    for profile in ranked:
        if profile is not best and (profile.phases or best.phases):
            continue  # windows by different clocks
        clock = (1 - profile.throttle / 100) / (1 - best.throttle / 100)
        for point in profile.aged(now).points:
            seconds = point.seconds * clock
            taken = (p.seconds for p in points)
            if profile is best or not _any_near(seconds, taken):
                points.append(dataclasses.replace(point, seconds=seconds))
    return dataclasses.replace(
        best,
        points=tuple(sorted(points, key=lambda point: point.seconds)),
        overlap=next((one.overlap for one in ranked if one.overlap is not None), None),
        compress={key: one.compress[key] for one in reversed(ranked) for key in one.compress},
        xbzrle_ratio=next((o.xbzrle_ratio for o in ranked if o.xbzrle_ratio is not None), None),
        working_set=next((one.working_set for one in ranked if one.working_set > 0), 0.0),
    )


def _best(ranked: Sequence[DirtyProfile]) -> DirtyProfile:
    """The first one; but that it saw no phases says nothing where it watched for less than a cycle
    that another one saw."""
    first = ranked[0]
    phased = next((one for one in ranked if one.phases is not None), None)
    if phased is None or phased.phases is None or first.phases is not None:
        return first
    cycle = phased.phases.busy.p50 + phased.phases.quiet.p50
    return phased if first.watched < cycle else first


def growth(windows: Iterable[tuple[float, float]]) -> float:
    """The exponent of the hull of these points (seconds, bytes) at its longest window: 0 is flat.

    That of a usual load where no two windows are far enough apart to tell.
    """
    kept = sorted((t, size) for t, size in windows if t > 0 and size > 0)
    earlier = [t for t, _ in kept if t * APART <= kept[-1][0]]
    if not earlier:
        return EXPONENT
    curve = DirtyCurve.through(kept)
    longer = kept[-1][0]
    return log(curve(longer) / curve(earlier[-1])) / log(longer / earlier[-1])


def extended(windows: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """The hull of these points (seconds, bytes), and powers of T beyond it."""
    kept = [(t, size) for t, size in windows if t > 0 and size > 0]
    if not kept:
        return lambda seconds: 0.0
    curve = DirtyCurve.through(kept)
    shortest, longest = min(kept)[0], max(kept)[0]
    exponent = _LATER * growth(kept)

    def size(seconds: float) -> float:
        if seconds <= shortest:
            return float(curve(shortest) * (seconds / shortest) ** EXPONENT)
        if seconds >= longest:
            return float(curve(longest) * (seconds / longest) ** exponent)
        return curve(seconds)

    return size


def log_deviations(point: CurvePoint) -> tuple[float, float]:
    """The standard deviations of the point's logarithm, downward and upward."""
    low, middle, high = (max(size, 1.0) for size in (point.low, point.bytes, point.high))
    return log(middle / low) / Z90, log(high / middle) / Z90


def _certainty(point: CurvePoint) -> float:
    down, up = log_deviations(point)
    return 1 / max((down + up) / 2, 0.02) ** 2


def _aged(point: CurvePoint, seconds: float) -> CurvePoint:
    if point.at <= 0 or seconds <= 0 or point.bytes <= 0:
        return point
    drift = min(DRIFT_OF_AN_HOUR * (seconds / 3600) ** 0.5, MOST_DRIFT)
    down, up = (exp(Z90 * hypot(one, drift)) for one in log_deviations(point))
    return dataclasses.replace(point, low=point.bytes / down, high=point.bytes * up)


def _any_near(seconds: float, taken: Iterable[float]) -> bool:
    return any(1 / _SAME_WINDOW < seconds / other < _SAME_WINDOW for other in taken)


def _latest(profile: DirtyProfile) -> float:
    return max((point.at for point in profile.points), default=0.0)


def _profile(file: Checked) -> DirtyProfile:
    file.format(FORMAT)
    ratios, measured = file.object("compress"), "must be a ratio from 0.01 to 10000, such as 2.5"
    share = "must be a share from 0 to 1"
    rule = "must be the size of the memory in bytes, at most 1 EiB"
    ram = file.whole("ram_bytes", rule, least=1, most=_MOST_BYTES)
    rule = "must be a page size in bytes"
    page = file.whole("page_size", rule, least=512, most=_MOST_PAGE, default=4096)
    rule = "must be a number of pages, no more than the memory has"
    zero_pages = file.whole("zero_pages", rule, least=0, most=-(-ram // page))
    rule = "must be a number of bytes, at most ram_bytes"
    return DirtyProfile(
        points=tuple(_curve_point(point) for point in file.objects("points")),
        ram_bytes=ram,
        zero_pages=zero_pages,
        non_zero_bytes=round(file.number("non_zero_bytes", rule, least=0, most=ram)),
        page_size=page,
        throttle=round(file.number("throttle", _PER_CENT, least=0, most=99, default=0)),
        overlap=file.number("overlap", share, least=0, most=1) if file.has("overlap") else None,
        compress={
            key: ratios.number(key, measured, least=_LEAST_RATIO, most=MOST_RATIO)
            for key in ratios.names
        },
        xbzrle_ratio=(
            file.number("xbzrle_ratio", measured, least=_LEAST_RATIO, most=MOST_RATIO)
            if file.has("xbzrle_ratio")
            else None
        ),
        working_set=file.number(
            "working_set", "must be bytes", least=0, most=_MOST_BYTES, default=0
        ),
        slowdown=file.number("slowdown", share, least=0, most=1, default=0),
        source=cast(Source, file.choice("source", SOURCES, "assumed")),
        zero_share=file.number("zero_share", share, least=0, most=1, default=0),
        zero_end=file.whole(
            "zero_end", "must be a number of bytes", least=0, most=_MOST_BYTES, default=0
        ),
        phases=_phases(file.object("phases")) if file.has("phases") else None,
        watched=file.number(
            "watched", "must be seconds, and no years", least=0, most=_MOST_SECONDS, default=0
        ),
    )


def _phases(file: Checked) -> Phases:
    return Phases(
        busy=_lengths(file.object("busy")),
        quiet=_lengths(file.object("quiet")),
        pace=file.number("pace", "must be a share from 0 to 1", least=0, most=1),
    )


def _lengths(file: Checked) -> Quantiles:
    rule = "must be seconds, more than 0, and not less than the one before"
    p10 = file.number("p10", rule, least=1e-3, most=_MOST_SECONDS)
    p50 = file.number("p50", rule, least=p10, most=_MOST_SECONDS)
    return Quantiles(p10, p50, file.number("p90", rule, least=p50, most=_MOST_SECONDS))


def _curve_point(point: Checked) -> CurvePoint:
    rule = "must be a number of bytes, from 0 to 1 EiB"
    size = point.number("bytes", rule, least=0, most=_MOST_BYTES)
    rule = "must be a number of bytes from 0 to 'bytes'"
    return CurvePoint(
        seconds=point.number(
            "seconds", "must be more than 0 seconds, and no years", least=1e-6, most=_MOST_SECONDS
        ),
        bytes=size,
        low=point.number("low", rule, least=0, most=size, default=size),
        high=point.number(
            "high", "must be at least 'bytes'", least=size, most=_MOST_BYTES, default=size
        ),
        n=point.whole("n", "must be a number of windows", least=0, most=_MOST_WINDOWS, default=1),
        at=point.number("at", "must be unix time in seconds", least=0, most=1e12, default=0),
    )
