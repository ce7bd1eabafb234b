"""The smallest single change with which a migration that does not converge would have converged.

Each is a root of the forecast's own map in one setting: the least value at which at least
`ENOUGH` of the draws converge, all else equal, and a safety margin of a tenth on bandwidth and
downtime limit. What the passes of the migration itself have shown goes before the map: one that
hovered did not converge, and a downtime limit that allows what its passes hovered at is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vmferry.precopy.case import Case, Link
from vmferry.precopy.forecast import Change, Remedy, forecast_many, p_converge
from vmferry.precopy.profile import DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.units import format_duration, format_rate

ENOUGH = 0.7
MARGIN = 1.1
# A change by more than this is none that anybody makes.
MOST_TIMES = 64.0
MOST_THROTTLE = 99.0
_STEPS, _PRECISE = 24, 0.01
# Passes that hover wander about their mean.
_WANDER = 1.1
# Passes that find so much of all that is ever rewritten do not tell how fast it is rewritten.
_ALL_OF_IT = 0.85
_MOST_SCALE = 2.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the passes settled at, in bytes, and whether that is about all that is rewritten."""

    hovered_at: float
    all_of_it: bool


@dataclass(frozen=True, slots=True)
class _Change:
    """One setting that can be changed: `to` makes the case with the value, from `low` to `high`.

    `margin` is put on the root. `sure` is a value that is known to be enough, None for none;
    `only_sure` where the map cannot know of less.
    """

    name: Change
    low: float
    high: float
    to: Callable[[float], Case]
    margin: float = 1.0
    sure: float | None = None
    only_sure: bool = False

    def value(self) -> float | None:
        """What to propose; None where nothing in its range is enough."""
        if self.only_sure:
            return self.sure
        root = _least(self)
        if root is None:
            return self.sure
        value = min(root * self.margin, self.high)
        return value if self.sure is None else min(value, self.sure)


def remedies_of(case: Case, hovered_at: float | None = None) -> tuple[Remedy, ...]:
    """The smallest changes, in the order in which an operator may think of them.

    Those that do not help by themselves are left out, and all are where it converges as it is.
    `hovered_at` is what the passes were seen to settle at, in bytes; None where they were not.
    """
    case = replace(case, standing=None)
    seen: _Seen | None = None
    if hovered_at is not None:
        seen = _Seen(hovered_at, hovered_at >= _ALL_OF_IT * case.profile.working_set)
        case = replace(case, profile=_agreeing(case))
    if p_converge([case])[0] >= ENOUGH:
        return ()
    found: list[tuple[Change, float | str | bool, float | str | bool, Case]] = []
    for change in _changes(case, seen):
        value = change.value()
        if value is not None:
            found.append((change.name, change.low, value, change.to(value)))
    for name in sorted(case.profile.compress, key=lambda one: case.profile.compress[one]):
        compressed = replace(case, setting=replace(case.setting, compress=name))
        if p_converge([compressed])[0] >= ENOUGH:
            found.append(("compression", case.setting.compress, name, compressed))
            break
    if case.profile.xbzrle_ratio is not None and not case.setting.xbzrle:
        delta = replace(case, setting=replace(case.setting, xbzrle=True))
        if p_converge([delta])[0] >= ENOUGH:
            found.append(("compression", case.setting.compress, "xbzrle", delta))
    if not case.setting.post_copy:
        copied = replace(case, setting=replace(case.setting, post_copy=True))
        found.append(("post-copy", False, True, copied))
    forecasts = forecast_many([changed for *_, changed in found])
    return tuple(
        Remedy(name, before, after, forecast)
        for (name, before, after, _), forecast in zip(found, forecasts, strict=True)
    )


def _changes(case: Case, seen: _Seen | None) -> list[_Change]:
    setting = case.setting
    speed, limit_ms = case.speed, setting.downtime_limit_ms
    # The threshold has to grow by so much to allow what the passes hovered at.
    times, all_of_it = None, False
    if seen is not None:
        times = max(seen.hovered_at * _WANDER / (speed * limit_ms / 1000), _WANDER)
        all_of_it = seen.all_of_it

    def with_bandwidth(value: float) -> Case:
        if _held_by_cap(case):
            fast = Link(Quantiles.exact(2 * value), Quantiles.exact(2 * value))
            return replace(case, setting=replace(setting, bandwidth=round(value)), link=fast)
        # No cap holds it: it is the link, or what is at its ends, that has to be faster.
        faster = value / speed
        link = Link(case.link.speed.scaled(faster), case.link.burst.scaled(faster))
        return replace(case, setting=replace(setting, bandwidth=0), link=link)

    def with_limit(value: float) -> Case:
        return replace(case, setting=replace(setting, downtime_limit_ms=round(value)))

    def with_throttle(value: float) -> Case:
        return replace(case, setting=replace(setting, throttle=value, auto_converge=False))

    changes = [
        _Change(
            "bandwidth",
            speed,
            speed * MOST_TIMES,
            with_bandwidth,
            margin=MARGIN,
            sure=speed * times if times is not None and all_of_it else None,
            only_sure=all_of_it,
        ),
        _Change(
            "downtime",
            limit_ms,
            limit_ms * MOST_TIMES,
            with_limit,
            margin=MARGIN,
            sure=limit_ms * times if times is not None else None,
            only_sure=all_of_it,
        ),
    ]
    if setting.throttle < MOST_THROTTLE:
        changes.append(_Change("throttle", setting.throttle, MOST_THROTTLE, with_throttle))
    return changes


def _held_by_cap(case: Case) -> bool:
    """Whether it is the cap that holds the passes, and not the link or what is at its ends."""
    return 0 < case.setting.bandwidth <= case.link.speed.p50


def _least(change: _Change) -> float | None:
    """The root of one change, to 1 %; None where nothing in its range is enough."""
    low, high = change.low, change.high
    geometric = low > 0
    while True:
        values = np.geomspace(low, high, _STEPS) if geometric else np.linspace(low, high, _STEPS)
        enough = np.flatnonzero(p_converge([change.to(float(one)) for one in values]) >= ENOUGH)
        if not len(enough):
            return None
        first = int(enough[0])
        high = float(values[first])
        if first == 0:
            return high
        low = float(values[first - 1])
        if high - low <= _PRECISE * high:
            return high


def _agreeing(case: Case) -> DirtyProfile:
    """The profile, raised until the map says as well that it does not converge as it is."""
    scales: Sequence[float] = np.geomspace(1.0, _MOST_SCALE, _STEPS).tolist()
    profiles = [_scaled(case.profile, scale) for scale in scales]
    odds = p_converge([replace(case, profile=profile) for profile in profiles])
    return next(
        (p for p, odd in zip(profiles, odds, strict=True) if odd <= 1 - ENOUGH), profiles[-1]
    )


def _scaled(profile: DirtyProfile, scale: float) -> DirtyProfile:
    points = tuple(
        replace(one, bytes=one.bytes * scale, low=one.low * scale, high=one.high * scale)
        for one in profile.points
    )
    return replace(profile, points=points, working_set=profile.working_set * scale)


def describe_remedies(case: Case, remedies: Sequence[Remedy]) -> list[str]:
    """The changes for people, a line each; the first line says what they are."""
    if not remedies:
        return []
    lines = ["Each of these changes alone would be enough, and less of it would not surely be:"]
    lines += [f"- {_words(case, remedy)}" for remedy in remedies]
    missing = {"bandwidth", "downtime", "throttle"} - {remedy.change for remedy in remedies}
    if missing:
        names = {"bandwidth": "bandwidth", "downtime": "downtime limit", "throttle": "throttle"}
        lines.append(
            f"No {' and no '.join(names[one] for one in sorted(missing))} is enough alone."
        )
    return lines


def _words(case: Case, remedy: Remedy) -> str:
    before, after, total = remedy.before, remedy.after, remedy.forecast.total_ms
    took = f"; it would take about {format_duration(total.p50 / 1000)}" if total else ""
    if remedy.change == "bandwidth":
        return f"{_bandwidth(case, float(after), float(before))}{took}"
    if remedy.change == "downtime":
        limit = format_duration(float(after) / 1000)
        return f"a downtime limit of {limit} ({_times(after, before)}){took}"
    if remedy.change == "throttle":
        return f"a throttle of {float(after):.0f} % of the guest's time{took}"
    if remedy.change == "compression":
        return f"compression with {after}, which was measured for this VM{took}"
    return (
        "post-copy: the VM moves after pass 1 whatever it writes, and then waits for each page that"
        " has not come yet; should the network break meanwhile, it is lost"
    )


def _bandwidth(case: Case, after: float, before: float) -> str:
    """A higher cap is enough only over a link that carries it."""
    rate = f"{format_rate(after)} ({_times(after, before)})"
    most, cap = case.link.speed.p90, case.setting.bandwidth
    if not _held_by_cap(case):
        lift = f", with a bandwidth cap no lower than that instead of {format_rate(cap)}"
        return f"a link, and ends, that carry {rate}{lift if 0 < cap < after else ''}"
    if after <= most:
        return f"a bandwidth cap of {rate}"
    return (
        f"a bandwidth cap of {rate}, with a link, and ends, that carry it: they are thought to"
        f" carry {format_rate(most)} at most"
    )


def _times(after: float | str, before: float | str) -> str:
    return f"{float(after) / float(before):.1f} times as much as now"
