"""The what-if table: the same migration under other settings, and which of them to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from vmferry.precopy.case import Case, Setting
from vmferry.precopy.forecast import Forecast, forecast_many

LIMITS_MS = (100, 300, 500, 1000, 2000)
THROTTLES = (0.0, 20.0, 50.0, 80.0)
_TIMES_BANDWIDTH = (0.5, 1.0, 1.5, 2.0, 4.0)
_SHARES_OF_SPEED = (0.25, 0.5)
# A recommendation has to be surer than a verdict.
SURE = 0.9


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user allows. Milliseconds, seconds, per cent; None is no limit."""

    max_downtime_ms: float
    deadline: float | None = None
    max_throttle: float = 0.0
    post_copy: bool = False

    def met_by(self, setting: Setting, forecast: Forecast) -> bool:
        """Whether it will converge within all limits, in nine of ten cases."""
        total, downtime = forecast.total_ms, forecast.downtime_ms
        if forecast.p_converge < SURE or total is None or downtime is None:
            return False
        in_time = self.deadline is None or total.p90 <= self.deadline * 1000
        allowed = setting.throttle <= self.max_throttle and (
            self.post_copy or not setting.post_copy
        )
        return in_time and allowed and downtime.p90 <= self.max_downtime_ms


@dataclass(frozen=True, slots=True)
class Row:
    """One setting and its forecast."""

    setting: Setting
    forecast: Forecast


def table(case: Case) -> list[Row]:
    """The setting of `case` first, then one thing changed in each row."""
    base = case.setting
    settings = [
        base,
        *(replace(base, bandwidth=one) for one in _bandwidths(case)),
        *(replace(base, downtime_limit_ms=one) for one in LIMITS_MS),
        *(replace(base, throttle=one) for one in THROTTLES),
        *(replace(base, compress=one) for one in sorted(case.profile.compress)),
        *(replace(base, xbzrle=one) for one in _xbzrle(case)),
        replace(base, post_copy=True),
    ]
    return _rows(case, list(dict.fromkeys(settings)))


def recommend(case: Case, wishes: Wishes) -> Row | None:
    """Of all combinations the one that meets the wishes at the least cost; None where none does.

    In this order: no post-copy, little throttle, no more than the bandwidth given, no compression,
    the settings as they are, little time.
    """
    base = case.setting
    settings = [
        Setting(bandwidth, limit, throttle, compress, xbzrle, post_copy)
        for bandwidth, limit, throttle, compress, xbzrle, post_copy in product(
            dict.fromkeys([base.bandwidth, *_bandwidths(case)]),
            dict.fromkeys([base.downtime_limit_ms, *LIMITS_MS]),
            sorted({base.throttle, *(one for one in THROTTLES if one <= wishes.max_throttle)}),
            dict.fromkeys([base.compress, *case.profile.compress]),
            dict.fromkeys([base.xbzrle, *_xbzrle(case)]),
            (False, True) if wishes.post_copy else (False,),
        )
    ]
    good = [row for row in _rows(case, settings) if wishes.met_by(row.setting, row.forecast)]
    return min(good, key=lambda row: _cost(row, base), default=None)


def _rows(case: Case, settings: Sequence[Setting]) -> list[Row]:
    forecasts = forecast_many([replace(case, setting=setting) for setting in settings])
    return [Row(*pair) for pair in zip(settings, forecasts, strict=True)]


def _bandwidths(case: Case) -> list[int]:
    """Around the one given, as far as the link goes, and none at all; else parts of its speed."""
    speed, base = case.link.speed.p50, case.setting.bandwidth
    caps = (
        [base * times for times in _TIMES_BANDWIDTH]
        if base
        else [speed * share for share in _SHARES_OF_SPEED]
    )
    return [*(round(cap) for cap in caps if cap < speed or cap == base), 0]


def _xbzrle(case: Case) -> tuple[bool, ...]:
    return (False, True) if case.profile.xbzrle_ratio is not None else ()


def _cost(row: Row, base: Setting) -> tuple[float, ...]:
    setting, total = row.setting, row.forecast.total_ms
    cap = setting.bandwidth or float("inf")
    more = max(cap / base.bandwidth, 1.0) if base.bandwidth else 1.0
    return (
        setting.post_copy,
        setting.throttle,
        more,
        bool(setting.compress) + setting.xbzrle,
        setting.downtime_limit_ms != base.downtime_limit_ms,
        total.p50 if total is not None else float("inf"),
    )
