"""From cases to rows: every uncertain input of a case as so many draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vmferry.errors import UsageError
from vmferry.precopy.case import Case
from vmferry.precopy.draws import DRAWS, Z90, normal, spread, uniform
from vmferry.precopy.forecast_map import LOOK_SECONDS, WINDOW_SECONDS, ZERO_PAGE_BYTES, Rows
from vmferry.precopy.phases import Phases
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.shape import Floats

# A page on the wire is a header of 8 bytes and the page itself.
_PAGE_HEADER = 8
# A speed this near to the cap was measured under it.
_AT_THE_CAP = 1.05
# What is left over is the end of an order of addresses: it may be colder than the rest, or hotter.
# If colder, passes have found nearly all that was dirtied: a draw with less overlap has a lower
# curve.
OVERLAP = (0.7, 1.0, 1.2)
_OVERLAP_SPREAD = 0.2
_OVERLAP_RANGE = (0.3, 1.2)
_MOST_OVERLAP = 4.0
_STEADY = Phases(Quantiles.exact(1.0), Quantiles.exact(1.0))


def rows_of(cases: Sequence[Case]) -> Rows:
    """The draws of all cases. Raises UsageError where a setting needs what was not measured."""

    def column(value: Callable[[Case], float]) -> Floats:
        return np.array([value(case) for case in cases], dtype=np.float64)

    def each(value: Callable[[Case], float]) -> Floats:
        return np.repeat(column(value), DRAWS)

    def flags(value: Callable[[Case], bool]) -> NDArray[np.bool_]:
        return np.repeat(np.array([value(case) for case in cases], dtype=np.bool_), DRAWS)

    def drawn(value: Callable[[Case], Quantiles], name: str) -> Floats:
        found = [value(case) for case in cases]
        p10, p50, p90 = (
            np.maximum([getattr(one, part) for one in found], 1e-9)
            for part in ("p10", "p50", "p90")
        )
        return spread(p10, p50, p90, name).ravel()

    def every(name: str) -> Floats:
        return np.tile(uniform(name), len(cases))

    uncapped = drawn(lambda case: case.link.speed, "speed")
    cap = each(lambda case: case.setting.bandwidth or np.inf)
    speed = np.minimum(uncapped, cap)
    limited = cap < uncapped * _AT_THE_CAP
    stands = [_left(case) for case in cases]
    return Rows(
        speed=speed,
        burst=np.maximum(drawn(lambda case: case.link.burst, "burst"), speed),
        uncapped=uncapped,
        limit=each(lambda case: case.setting.downtime_limit_ms / 1000),
        look=np.where(limited, WINDOW_SECONDS, LOOK_SECONDS),
        limited=limited,
        wire=each(_wire),
        first_wire=each(_first_wire),
        memory=each(lambda case: case.profile.non_zero_bytes),
        zero_end=each(lambda case: case.profile.zero_end),
        page_size=each(lambda case: case.profile.page_size),
        setup=each(lambda case: case.host.setup_seconds),
        zero_pages_per_second=each(lambda case: case.host.zero_pages_per_second),
        sync=each(lambda case: case.host.sync_seconds),
        sync_per_page=each(lambda case: case.host.sync_seconds_per_page),
        fixed=drawn(lambda case: case.host.fixed_downtime_seconds, "fixed"),
        phase=every("phase"),
        clock=each(lambda case: 1 / (1 - min(case.profile.throttle, 99) / 100)),
        phased=flags(lambda case: case.profile.phases is not None),
        busy=drawn(lambda case: _phases(case).busy, "busy"),
        quiet=drawn(lambda case: _phases(case).quiet, "quiet"),
        pace=each(lambda case: _phases(case).pace),
        place=every("place"),
        overlap=_overlap(cases),
        post_copy=flags(lambda case: case.setting.post_copy),
        auto_converge=flags(lambda case: case.setting.auto_converge),
        throttle=each(lambda case: case.setting.throttle),
        running=flags(lambda case: case.standing is not None),
        t=each(lambda case: case.standing.t if case.standing else 0.0),
        sent=each(lambda case: case.standing.sent if case.standing else 0.0),
        number=each(lambda case: case.standing.number if case.standing else 1.0),
        left=np.repeat(np.array([left for left, _ in stands], dtype=np.float64), DRAWS),
        zero_left=np.repeat(np.array([zero for _, zero in stands], dtype=np.float64), DRAWS),
        elapsed=each(lambda case: case.standing.pass_elapsed if case.standing else 0.0),
    )


def _phases(case: Case) -> Phases:
    return case.profile.phases or _STEADY


def _first_wire(case: Case) -> float:
    """Bytes on the wire for a byte of memory that is not zero, in pass 1."""
    page = case.profile.page_size
    return (page + _PAGE_HEADER) / page / _ratio(case)


def _wire(case: Case) -> float:
    """Bytes on the wire for a byte of memory that is sent again."""
    profile = case.profile
    full = _first_wire(case)
    if case.setting.xbzrle:
        if profile.xbzrle_ratio is None:
            raise UsageError(
                "what XBZRLE would save was not measured for this VM",
                hint="a rehearsal measures it",
            )
        full /= profile.xbzrle_ratio
    zero = ZERO_PAGE_BYTES / profile.page_size
    return full * (1 - profile.zero_share) + zero * profile.zero_share


def _ratio(case: Case) -> float:
    name, measured = case.setting.compress, case.profile.compress
    if not name:
        return 1.0
    if name not in measured:
        known = f"measured are: {', '.join(sorted(measured))}" if measured else None
        raise UsageError(
            f"how well '{name}' compresses this VM's memory was not measured",
            hint=known or "a rehearsal measures it",
        )
    return measured[name]


def _overlap(cases: Sequence[Case]) -> Floats:
    """How many times as often as the curve says left-over pages are dirtied again, by draw."""
    ranks = uniform("overlap")
    low, middle, high = OVERLAP
    assumed = np.clip(middle + (high - low) / 2 * normal("height") / Z90, *_OVERLAP_RANGE)
    measured = 1 + _OVERLAP_SPREAD * (2 * ranks - 1)
    rows = []
    for case in cases:
        profile = case.profile
        if profile.overlap is None or not profile.points:
            rows.append(assumed)
            continue
        shortest = min(profile.points, key=lambda point: point.seconds)
        curve = profile.extended
        window = shortest.seconds
        expected = 2 - curve(2 * window) / max(curve(window), 1.0)
        rows.append(np.minimum(profile.overlap / max(expected, 0.01) * measured, _MOST_OVERLAP))
    return np.concatenate(rows)


def _left(case: Case) -> tuple[float, float]:
    """What is left to send of the pass at hand: bytes of memory, and zero pages of pass 1."""
    profile, standing = case.profile, case.standing
    if standing is None:
        return profile.non_zero_bytes, profile.zero_pages
    if standing.number > 1:
        return standing.remaining, 0.0
    # Two equations: what is left counts zero pages in full, what was sent counts their few bytes.
    page, wire = profile.page_size, _first_wire(case)
    left, zero_pages = standing.remaining, float(profile.zero_pages)
    unseen = standing.sent - wire * (profile.non_zero_bytes - left) - ZERO_PAGE_BYTES * zero_pages
    zero = min(max(unseen / (wire * page - ZERO_PAGE_BYTES), 0.0), zero_pages, left / page)
    return left - zero * page, zero
