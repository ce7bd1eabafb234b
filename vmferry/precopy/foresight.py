"""The forecast of one migration: before it starts, and again as its passes end.

Fed with what a PassTracker is fed with. What earlier runs told of guest, link and host is a first
guess: what this migration shows goes before it, and what its passes prove goes before any model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vmferry.precopy.case import Case, Host, Link, Setting, threshold_of
from vmferry.precopy.case_of import Watch, link_by_speeds
from vmferry.precopy.forecast import Forecast, Verdict, forecast_many
from vmferry.precopy.forecast_words import odds
from vmferry.precopy.passes import PassTracker, dirty_at_syncs
from vmferry.precopy.profile import CurvePoint, DirtyProfile, extended, merge
from vmferry.precopy.profile_of import standing_of
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.remedies import remedies_of
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.speeds import UNKNOWN
from vmferry.precopy.trend import NEVER, settled_at, still_falls
from vmferry.units import MIB, format_duration, format_size

# A forecast costs some ms of a core that the guest may want: at most one a second, and later one
# for each 3 % of the time that has gone.
_LEAST_SECONDS, _SHARE_OF_TIME = 1.0, 0.03
# Remedies cost as much as dozens of forecasts: again after so many times as long.
_REMEDIES_AGAIN = 2.0
# Of the latest samples, QEMU's own measure of its speed: a network changes.
_SPEEDS = 50
# And of the latest passes what they found dirty: old ones hardly count, and there may be thousands.
_PASSES = 16

# A load that dirties so many times as much, or as little, as before is another one.
_ALIKE = 1.4
_ANY = DirtyProfile((CurvePoint(1.0, MIB, MIB, MIB),), 16 * MIB, 0, 16 * MIB)
_VERDICTS: dict[Verdict, str] = {
    "converges": "it converges",
    "does-not-converge": "it does not converge",
    "uncertain": "it is uncertain whether it converges",
}


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier runs tell; `source` says in words where it is from.

    `link` and `profile` are None where nobody knows.
    """

    link: Link | None = None
    host: Host = field(default_factory=Host)
    profile: DirtyProfile | None = None
    source: str = ""


class Foresight:
    """Forecasts one migration, whose passes it keeps. `began` is the unix time of its start."""

    def __init__(self, setting: Setting, known: Known | None = None, began: float = 0.0) -> None:
        self.tracker = PassTracker()
        self.known = known or Known()
        # The latest one by samples.
        self.latest: Forecast | None = None
        self._setting = setting
        self._began = began
        self._watch = Watch(tracker=self.tracker)
        self._last: Sample | None = None
        self._told_at = 0.0
        self._told_pass = 1
        self._remedied_at = 0.0

    def before(self) -> Forecast | None:
        """What is foretold before the start; None where too little is known."""
        known = self.known
        if known.profile is None or known.link is None:
            # The first forecast takes five times as long as others: not while the VM is moved.
            forecast_many([Case(_ANY, self._setting, Link(UNKNOWN, UNKNOWN))])
            return None
        case = Case(known.profile, self._setting, known.link, known.host)
        found = forecast_many([case])[0]
        if found.verdict == "does-not-converge":
            found = replace(found, remedies=remedies_of(case))
        return found

    def receive(self, item: Sample | Event) -> None:
        """Take the next input, in the order of time."""
        self._watch.receive(item)
        if isinstance(item, Sample) and item.status == "active" and item.total > 0:
            self._last = item

    def due(self) -> Forecast | None:
        """The forecast by the latest sample, where one is due; None where too little is known.

        One is due where a pass has ended since the last one, or where the passes have shown since
        that it was right to say never; unless the last one is too short ago.
        """
        last = self._last
        if last is None or not (last.sync_count > self._told_pass or self._owes_remedies()):
            return None
        since = last.t - self._told_at
        if self._told_at > 0 and since < max(_LEAST_SECONDS, _SHARE_OF_TIME * last.t):
            return None
        case = self._case(last)
        if case is None:
            return None
        self._told_at, self._told_pass = last.t, last.sync_count
        dirty = dirty_at_syncs(self.tracker)
        settled = settled_at(dirty, case.threshold)
        found = forecast_many([case])[0]
        if settled is not None and not _is_hopeless(found):
            found = _proven(case, settled, found)
        hopeless = _is_hopeless(found) and not still_falls(dirty)
        if hopeless and last.t >= _REMEDIES_AGAIN * self._remedied_at:
            self._remedied_at = last.t
            found = replace(found, remedies=remedies_of(case, settled))
        self.latest = found
        return found

    def _owes_remedies(self) -> bool:
        if self.latest is None or not _is_hopeless(self.latest) or self._remedied_at > 0:
            return False
        return not still_falls(dirty_at_syncs(self.tracker))

    def _case(self, last: Sample) -> Case | None:
        """The migration as it stands; None while pass 1 is not over."""
        current, link = self.tracker.current, self._link()
        if current is None or link is None:
            return None
        # With auto-converge QEMU ends passes by other rules too.
        steered = last.throttle > 0
        setting = replace(self._setting, throttle=last.throttle, auto_converge=steered)
        shown = self._watch.profile(
            "run",
            self._began,
            latest=_PASSES,
            threshold=None if steered else threshold_of(setting, link),
        )
        if shown is None:
            return None
        known = self.known.profile
        return Case(
            profile=shown if known is None else _with_shape(shown, known),
            setting=setting,
            link=link,
            host=self.known.host,
            standing=standing_of(current, last),
        )

    def _link(self) -> Link | None:
        """The speed as it is, beside what earlier runs tell of what the passes do not show."""
        known, cap = self.known.link, self._setting.bandwidth
        speeds = (self._watch.speeds or self._watch.mixed_speeds)[-_SPEEDS:]
        if not speeds:
            return known
        _, link = link_by_speeds(speeds, cap or None, told=True)
        if known is None:
            return link
        held_by_cap = 0 < cap < link.speed.p90
        return known if held_by_cap and known.speed.p10 > cap else replace(link, burst=known.burst)


def foretold(found: Forecast, source: str) -> str:
    """What is foretold before the start, in one line; `source` says where it is from."""
    parts = [f"{_VERDICTS[found.verdict]} (odds of {odds(found.p_converge)})"]
    if found.total_ms is not None and found.downtime_ms is not None:
        if_so = "if so, it" if found.verdict == "uncertain" else "it"
        parts.append(
            f"{if_so} takes {_between(found.total_ms)}, with the VM standing still for"
            f" {_between(found.downtime_ms)}"
        )
    return f"Foretold: {', '.join(parts)} ({source})"


def _between(ms: Quantiles) -> str:
    low, high = (format_duration(one / 1000) for one in (ms.p10, ms.p90))
    return f"about {low}" if low == high else f"{low} to {high}"


def _is_hopeless(found: Forecast) -> bool:
    return found.verdict == "does-not-converge" and found.p_converge <= NEVER


def _proven(case: Case, settled: float, found: Forecast) -> Forecast:
    """What passes that hover prove, whatever the model says."""
    allowed = format_size(case.threshold)
    return replace(
        found,
        verdict="does-not-converge",
        p_converge=min(found.p_converge, NEVER),
        total_ms=None,
        downtime_ms=None,
        bytes=None,
        passes=None,
        why=f"The passes settle at {format_size(settled)} left and bring no new low;"
        f" the downtime limit allows {allowed}.",
    )


def _with_shape(shown: DirtyProfile, known: DirtyProfile) -> DirtyProfile:
    """What the passes show; where they show nothing, the shape of the curve as it was before.

    It is lifted to the shortest window shown. One that is far off is of another load.
    """
    if not shown.points:
        return shown
    clock = (1 - known.throttle / 100) / (1 - shown.throttle / 100)
    before = extended([(one.seconds * clock, one.bytes) for one in known.points])
    shortest = min(shown.points, key=lambda point: point.seconds)
    expected = before(shortest.seconds)
    if not expected / _ALIKE <= shortest.bytes <= expected * _ALIKE:
        return shown
    lift = shortest.bytes / max(expected, 1.0)
    points = tuple(
        replace(
            one,
            bytes=one.bytes * lift,
            low=min(one.low, one.low * lift),
            high=max(one.high, one.high * lift),
            at=0.0,  # its doubt has grown with its age already
        )
        for one in known.points
    )
    if known.phases is not None:
        points = ()  # by another clock
    # Of two alike, `merge` trusts the first and later one.
    before_it = replace(known, points=points, source=shown.source, phases=None)
    return merge([shown, before_it], 0.0)
