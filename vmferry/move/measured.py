"""What was measured of a VM, from the journal and from right now, as a case to forecast."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean

from vmferry.errors import UsageError
from vmferry.journal import Journal
from vmferry.journal.curves import KeptCurve, newest_curve
from vmferry.move.derived import REHEARSAL, derived_of
from vmferry.move.speeds import way_to
from vmferry.precopy.case import Case, Setting
from vmferry.precopy.profile import DirtyProfile, merge
from vmferry.units import format_duration
from vmferry.vm.address import Destination

_NEWEST_RUNS = 5
# Two curves nearer than this say the same.
_ABOUT = 1.1


@dataclass(frozen=True, slots=True)
class Measured:
    """A case to forecast, and in words where its figures are from.

    `reached` is the speed that the way was seen to carry, in bytes per second; 0 for none.
    """

    case: Case
    source: str
    reached: float = 0.0


@dataclass(frozen=True, slots=True)
class _Found:
    """One measurement, and what it is called."""

    name: str
    profile: DirtyProfile


def case_of_vm(
    journal: Journal, vm: str, to: Destination, setting: Setting, new: KeptCurve | None = None
) -> Measured:
    """What is known of a move of `vm` (the journal's name) to `to` with `setting`.

    `new` was measured just now. Raises UsageError where nothing was measured yet, JournalError.
    """
    now = time.time()
    found = list(_runs(journal, vm, now))
    kept = new or newest_curve(vm)
    if kept is not None:
        found.append(_Found(_measured_words(kept, now, is_new=new is not None), kept.profile))
    if not found:
        raise UsageError(
            f"nothing was measured of '{vm}' yet: no rehearsal and no earlier move got past pass 1",
            hint=f"`vmferry rehearse {vm}` measures it without moving it; --measure does so from "
            "outside, in a few seconds and less well",
        )
    profile = merge([one.profile for one in found], now)
    way = way_to(journal, vm, to)
    source = f"{_curve_words(found, profile, new)}; the speeds are from {way.source}"
    return Measured(Case(profile, setting, way.link, way.host), source, way.reached)


def _curve_words(found: Sequence[_Found], merged: DirtyProfile, new: KeptCurve | None) -> str:
    """Which measurements the curve is made of: the best one, and those that add to it."""
    best = next(
        one
        for one in found
        if (one.profile.source, one.profile.phases) == (merged.source, merged.phases)
    )
    added = [one for one in found if one is not best and _has_points_of(merged, one.profile, best)]
    text = f"the dirty curve is from {best.name}"
    if added:
        text += f", with more windows from {' and '.join(one.name for one in added)}"
    if new is not None and all(one.profile is not new.profile for one in (best, *added)):
        # Its windows are of the wall's clock.
        why = (
            "cannot be compared, as the load comes and goes"
            if merged.phases
            else f"has no window that this lacks{_compared(new, best)}"
        )
        text += f"; {found[-1].name}, {why}"
    return text


def _compared(new: KeptCurve, best: _Found) -> str:
    """How much more or less the guest dirties now than when `best` was measured."""
    curve = best.profile.extended
    pairs = [(point.bytes, curve(point.seconds)) for point in new.profile.points]
    ratios = [log(now / then) for now, then in pairs if now > 0 and then > 0]
    if not ratios:
        return ""
    times = exp(fmean(ratios))
    much = "about" if 1 / _ABOUT < times < _ABOUT else f"{times:.2g} times"
    return f", and finds {much} as much dirty"


def _has_points_of(merged: DirtyProfile, one: DirtyProfile, best: _Found) -> bool:
    """Whether points of `one` are in the merged curve; those of two runs differ in their time."""
    mine = {(point.at, point.bytes) for point in one.points}
    its = {(point.at, point.bytes) for point in best.profile.points}
    return any((point.at, point.bytes) in mine - its for point in merged.points)


def _measured_words(kept: KeptCurve, now: float, *, is_new: bool) -> str:
    when = "just now" if is_new else f"{format_duration(max(now - kept.at, 0.0))} ago"
    return f"calc-dirty-rate, measured {when} in {format_duration(kept.seconds)}"


def _runs(journal: Journal, vm: str, now: float) -> Iterator[_Found]:
    """What each of the newest runs tells, the newest first."""
    for run in reversed(journal.runs(vm)[-_NEWEST_RUNS:]):
        profile = derived_of(journal, run).profile
        if profile is not None:
            kind = "rehearsal" if run.policy == REHEARSAL else "run"
            age = format_duration(max(now - run.started_at, 0.0))
            yield _Found(f"{kind} {run.id}, {age} ago", profile)
