"""The what-if table: the same migration under other settings, and which of them to take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import log2

from vmferry.precopy.case import Case, Setting
from vmferry.precopy.forecast import Forecast, forecast_many
from vmferry.precopy.remedies import MOST_THROTTLE
from vmferry.units import KIB, MIB

LIMITS_MS = (100, 300, 500, 1000, 2000)
THROTTLES = (0.0, 20.0, 50.0, 80.0)
# Of a cap that was asked for, and of the speed that the way is likely to have.
_TIMES_ASKED = (0.5, 1.5, 2.0, 4.0)
_TIMES_SPEED = (0.25, 0.5, 1.0)
_LEAST_BANDWIDTH = 64 * KIB
# A deadline needs at least the memory once, and what is sent again on top.
_SENT_AGAIN = 1.25
# Two bandwidths nearer than this are one row.
_NEAR = 1.15
# A limit twice or half of the one given has to gain a tenth of the time.
_AWAY = 0.1
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
        allowed = throttled_by(setting) <= self.max_throttle and (
            self.post_copy or not setting.post_copy
        )
        return in_time and allowed and downtime.p90 <= self.max_downtime_ms


def throttled_by(setting: Setting) -> float:
    """The most that the VM may be slowed by, in per cent: auto-converge goes as far as it takes."""
    return MOST_THROTTLE if setting.auto_converge else setting.throttle


@dataclass(frozen=True, slots=True)
class Row:
    """One setting and its forecast."""

    setting: Setting
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class Plan:
    """The table: what was asked for first, then one thing changed in each row.

    `best` is the row to take; where no single change is enough it is a row more, the last, in which
    several things change. `enough` are wishes that would be met where the ones given are not.
    """

    rows: tuple[Row, ...]
    best: Row | None
    enough: tuple[Wishes, ...] = ()

    @property
    def asked(self) -> Row:
        return self.rows[0]


def make_plan(case: Case, wishes: Wishes) -> Plan:
    """The table for `case`, and of all settings the one that meets `wishes` at the least cost.

    In this order: no post-copy, little throttle, no more than the bandwidth given, no compression,
    few changes, little time.
    """
    base = case.setting
    bandwidths = [base.bandwidth, *_bandwidths(case, wishes)]
    alone = _one_changed(case, wishes, bandwidths)
    together = _several_changed(case, wishes, bandwidths)
    rows = _rows(case, list(dict.fromkeys([*alone, *together])))
    possible = [row for row in rows if _is_possible(row.setting, base)]
    best = _cheapest(possible, wishes, base)
    shown = rows[: len(alone)]
    if best is not None and best not in shown:
        shown.append(best)
    return Plan(tuple(shown), best, () if best is not None else tuple(_enough(possible, wishes)))


def _one_changed(case: Case, wishes: Wishes, bandwidths: Sequence[int]) -> list[Setting]:
    base = case.setting
    settings = [
        base,
        *(replace(base, bandwidth=one) for one in bandwidths),
        *(replace(base, downtime_limit_ms=one) for one in _limits(case, wishes, base.bandwidth)),
        *(replace(base, throttle=one) for one in THROTTLES),
        *(replace(base, compress=one) for one in sorted(case.profile.compress)),
        *(replace(base, xbzrle=one) for one in _xbzrle(case)),
        replace(base, post_copy=True),
    ]
    return list(dict.fromkeys(settings))


def _several_changed(case: Case, wishes: Wishes, bandwidths: Sequence[int]) -> list[Setting]:
    base = case.setting
    throttles = sorted({base.throttle, *THROTTLES})
    savings = [(base.compress, base.xbzrle), *(("", one) for one in _xbzrle(case))]
    savings += [(one, False) for one in case.profile.compress]
    found = []
    for bandwidth in bandwidths:
        limits = [base.downtime_limit_ms, *_limits(case, wishes, bandwidth)]
        for limit, throttle, (compress, xbzrle), post_copy in product(
            limits, throttles, dict.fromkeys(savings), (False, True)
        ):
            found.append(Setting(bandwidth, limit, throttle, compress, xbzrle, post_copy))
    return [one for one in found if _is_possible(one, base)]


def _is_possible(setting: Setting, base: Setting) -> bool:
    """Whether QEMU keeps to all of it together; what is so already is possible.

    It compresses by multifd alone, which does not keep to a bandwidth, has no XBZRLE, and excludes
    post-copy before QEMU 10.1.
    """
    if setting.compress in ("", base.compress):
        return True
    return not (setting.bandwidth or setting.xbzrle or setting.post_copy)


def _rows(case: Case, settings: Sequence[Setting]) -> list[Row]:
    forecasts = forecast_many([replace(case, setting=setting) for setting in settings])
    return [Row(*pair) for pair in zip(settings, forecasts, strict=True)]


def _bandwidths(case: Case, wishes: Wishes) -> list[int]:
    """Around the one given and around the link's speed, as far as the link may go; then none."""
    speed, base = case.link.speed, case.setting.bandwidth
    wanted = [base * times for times in _TIMES_ASKED]
    wanted += [_round(speed.p50 * times) for times in _TIMES_SPEED]
    if wishes.deadline:
        wanted.append(_round(case.profile.non_zero_bytes * _SENT_AGAIN / wishes.deadline))
    found: list[int] = []
    for one in wanted:
        apart = all(not 1 / _NEAR < one / other < _NEAR for other in [base, *found] if other)
        if _LEAST_BANDWIDTH <= one <= speed.p90 and apart:
            found.append(round(one))
    return [*sorted(found), 0]


def _limits(case: Case, wishes: Wishes, bandwidth: int) -> list[int]:
    """The usual ones, and the largest at which the downtime stays what the user allows.

    QEMU computes with the speed of the passes, and sends what is left faster where a cap held them.
    """
    speed, burst = case.link.speed.p90, case.link.burst.p10
    passes = min(bandwidth or speed, speed)
    left = wishes.max_downtime_ms - 1000 * case.host.fixed_downtime_seconds.p90
    most = _two_digits(left * max(burst / passes, 1.0)) if left > 0 else 0
    return [*sorted({*LIMITS_MS, *([most] if 1 <= most <= max(LIMITS_MS) else [])})]


def _xbzrle(case: Case) -> tuple[bool, ...]:
    return (False, True) if case.profile.xbzrle_ratio is not None else ()


def _cheapest(rows: Iterable[Row], wishes: Wishes, base: Setting) -> Row | None:
    good = (row for row in rows if wishes.met_by(row.setting, row.forecast))
    return min(good, key=lambda row: _cost(row, base), default=None)


def _cost(row: Row, base: Setting) -> tuple[float, ...]:
    setting, total = row.setting, row.forecast.total_ms
    changed = sum(getattr(setting, name) != getattr(base, name) for name in Setting.__slots__)
    more = more_bandwidth(setting, base)
    away = abs(log2(setting.downtime_limit_ms / base.downtime_limit_ms))
    time = total.p50 if total is not None else float("inf")
    return (
        setting.post_copy,
        throttled_by(setting),
        more > 1,
        bool(setting.compress) + setting.xbzrle,
        changed,
        more,
        time * (1 + _AWAY * away),
    )


def more_bandwidth(setting: Setting, base: Setting) -> float:
    """How many times the bandwidth that was asked for; 1 where it is no more."""
    cap = setting.bandwidth or float("inf")
    return max(cap / base.bandwidth, 1.0) if base.bandwidth else 1.0


def _enough(rows: Sequence[Row], wishes: Wishes) -> Iterable[Wishes]:
    """Wishes with one more thing allowed, each just enough, as far as there are any."""
    changes = (
        replace(wishes, max_downtime_ms=float("inf")),
        replace(wishes, deadline=None),
        replace(wishes, max_throttle=max(THROTTLES)),
        replace(wishes, post_copy=True),
    )
    for wider in changes:
        good = [row for row in rows if wider.met_by(row.setting, row.forecast)]
        if wider == wishes or not good:
            continue
        if wider.max_downtime_ms != wishes.max_downtime_ms:
            yield replace(wishes, max_downtime_ms=min(map(_downtime, good)))
        elif wider.deadline != wishes.deadline:
            yield replace(wishes, deadline=min(map(_total, good)) / 1000)
        elif wider.max_throttle != wishes.max_throttle:
            yield replace(wishes, max_throttle=min(throttled_by(row.setting) for row in good))
        else:
            yield wider


def _downtime(row: Row) -> float:
    return row.forecast.downtime_ms.p90 if row.forecast.downtime_ms else float("inf")


def _total(row: Row) -> float:
    return row.forecast.total_ms.p90 if row.forecast.total_ms else float("inf")


def _round(rate: float) -> float:
    """To two digits of MiB/s: a figure that somebody may want to type."""
    return float(f"{rate / MIB:.2g}") * MIB


def _two_digits(milliseconds: float) -> int:
    """Rounded down to two digits."""
    scale = 10 ** max(len(str(int(milliseconds))) - 2, 0)
    return int(milliseconds // scale * scale)
