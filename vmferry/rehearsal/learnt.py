"""What a rehearsal teaches for later: the guest's profile, and forecasts by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from vmferry.errors import UsageError
from vmferry.precopy.case import Case, Setting
from vmferry.precopy.case_of import case_of
from vmferry.precopy.forecast import Forecast, forecast_many
from vmferry.precopy.profile import MOST_RATIO, DirtyProfile
from vmferry.precopy.trace import Trace
from vmferry.precopy.xray import XRayResult

# Beside what was asked for: half and twice of each limit.
_FACTORS = (0.5, 2.0)
# The sink's first row has pass 1 in it when it has so much of the memory.
_NEARLY_ALL = 0.9


def case_learnt(
    trace: Trace,
    xray: XRayResult | None,
    slowdown: float,
) -> Case | None:
    """The planned move as a case, its profile by what was rehearsed; None without a whole pass.

    `slowdown` is the share of its work that the guest lost meanwhile.
    """
    try:
        case = case_of(trace, source="rehearsal", name="the rehearsal")
    except UsageError:
        return None
    profile = case.profile
    if profile.phases is None:
        # By its count of work a guest seems slowed by a quiet phase, and sped up by a busy one.
        profile = replace(profile, slowdown=slowdown)
    if xray is not None:
        profile = _with_memory(profile, xray)
        part = xray.xbzrle_ratio
        # Pages that did not change have deltas of nothing; a file holds no such ratio.
        profile = replace(
            profile,
            compress={key: min(one, MOST_RATIO) for key, one in xray.compress_ratios.items()},
            xbzrle_ratio=None if part is None else 1 / max(part, 1 / MOST_RATIO),
        )
    # The planned move begins anew, wherever the rehearsal stood when it was ended.
    return replace(case, profile=profile, standing=None)


def _with_memory(profile: DirtyProfile, xray: XRayResult) -> DirtyProfile:
    """With zero and other memory as the sink counted them: QEMU may be through with pass 1 before
    it is asked for its own figures."""
    first = xray.rows[0] if xray.rows else None
    if first is None or first.first * profile.page_size < _NEARLY_ALL * profile.ram_bytes:
        return profile
    zero = min(first.zero, first.first)
    return replace(
        profile, zero_pages=zero, non_zero_bytes=profile.ram_bytes - zero * profile.page_size
    )


@dataclass(frozen=True, slots=True)
class Learnt:
    """The guest's profile, and the forecasts of the planned move and of others by it; both are
    empty without a whole pass. `slowdown` is the share of its work that the guest lost, 0 where
    that cannot be told."""

    slowdown: float
    profile: DirtyProfile | None = None
    forecasts: tuple[Forecast, ...] = ()


def learn(
    trace: Trace,
    xray: Mapping[str, Any] | None,
    slowdown: float,
) -> Learnt:
    """All that one rehearsal teaches; `xray` is what the sink tells of the stream."""
    looked = XRayResult.from_json(xray) if xray is not None else None
    case = case_learnt(trace, looked, slowdown)
    if case is None:
        return Learnt(slowdown)
    return Learnt(case.profile.slowdown, case.profile, tuple(forecasts(case)))


def slowdown_of(lost_percent: float | None, run_delays: Mapping[str, float]) -> float:
    """The share of its work that the guest lost: by itself where it counts its work, else by how
    long its vCPUs waited for a core; both in per cent."""
    lost = lost_percent
    if lost is None:
        lost = fmean(run_delays.values()) if run_delays else 0.0
    return min(max(lost / 100, 0.0), 0.95)


def forecasts(case: Case) -> list[Forecast]:
    """The planned move's forecast, then others with one limit changed."""
    planned = case.setting
    settings = [planned]
    if planned.bandwidth:
        settings += [replace(planned, bandwidth=round(planned.bandwidth * f)) for f in _FACTORS]
    settings += [_with_limit(planned, factor) for factor in _FACTORS]
    return forecast_many([replace(case, setting=setting) for setting in settings])


def _with_limit(setting: Setting, factor: float) -> Setting:
    return replace(setting, downtime_limit_ms=max(round(setting.downtime_limit_ms * factor), 1))
