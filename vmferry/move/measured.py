"""What earlier runs and rehearsals of a VM measured of it, from the journal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vmferry.errors import UsageError
from vmferry.journal import Journal, Run
from vmferry.move.speeds import way_to
from vmferry.precopy.case import Case, Setting
from vmferry.precopy.case_of import case_of
from vmferry.precopy.profile import DirtyProfile, Source, merge
from vmferry.precopy.trace import Item, Trace, TraceError, item_of
from vmferry.units import format_duration
from vmferry.vm.address import Destination

_NEWEST_RUNS = 5
_REHEARSAL = "rehearse"


@dataclass(frozen=True, slots=True)
class Measured:
    """A case to forecast, and in words where its figures are from."""

    case: Case
    source: str


def case_of_vm(journal: Journal, vm: str, to: Destination, setting: Setting) -> Measured:
    """What is known of a move of `vm` (the journal's name) to `to` with `setting`.

    Raises UsageError where nothing was measured yet, JournalError.
    """
    found = list(_profiles(journal, vm))
    if not found:
        raise UsageError(
            f"nothing was measured of '{vm}' yet: no rehearsal and no earlier move got past pass 1",
            hint=f"`vmferry rehearse {vm}` measures it without moving it",
        )
    now = time.time()
    profile = merge([profile for _, profile in found], now)
    run = next(run for run, one in found if one.source == profile.source)
    way = way_to(journal, vm, to)
    kind = "rehearsal" if run.policy == _REHEARSAL else "run"
    age = format_duration(max(now - run.started_at, 0.0))
    return Measured(
        Case(profile, setting, way.link, way.host),
        f"the dirty curve is from {kind} {run.id}, {age} ago; the speeds are from {way.source}",
    )


def _profiles(journal: Journal, vm: str) -> Iterator[tuple[Run, DirtyProfile]]:
    """What each of the newest runs tells, the newest first."""
    for run in reversed(journal.runs(vm)[-_NEWEST_RUNS:]):
        profile = _profile_of(journal, run)
        if profile is not None:
            yield run, profile


def _profile_of(journal: Journal, run: Run) -> DirtyProfile | None:
    items: list[Item] = []
    for line in journal.lines(run.id):
        value = json.loads(line)
        if "profile" in value:
            # A rehearsal measured more than its passes tell.
            return DirtyProfile.from_json(value["profile"], f"run {run.id}")
        try:
            items.append(item_of(value))
        except TraceError:
            continue  # a line of another kind than a move's trace has
    try:
        source: Source = "rehearsal" if run.policy == _REHEARSAL else "run"
        profile = case_of(Trace({"limits": run.limits}, tuple(items)), source).profile
    except UsageError:
        return None
    points = tuple(replace(point, at=run.started_at) for point in profile.points)
    return replace(profile, points=points)
