"""What the recording of one run tells of the guest and of the way, derived once in its life.

A recording may be long and its run over: what it told is kept in the journal with the run, so that
the start of a move reads small rows. A row of another vmferry, or of another derivation, does not
count.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from vmferry import __version__
from vmferry.errors import UsageError
from vmferry.journal import Journal, Run
from vmferry.precopy.case_of import case_of
from vmferry.precopy.profile import DirtyProfile, Source
from vmferry.precopy.speeds import Seen, Switchover, look_at
from vmferry.precopy.trace import Item, Trace, TraceError, item_of

REHEARSAL = "rehearse"
# To be raised between two releases where recordings are read differently; a release does by itself.
_DERIVATION = 1
VERSION = f"{__version__}, {_DERIVATION}"


@dataclass(frozen=True)
class Derived:
    """`data` is what is kept of a run, as JSON; `name` is what errors call the run."""

    data: dict[str, Any]
    name: str

    @cached_property
    def profile(self) -> DirtyProfile | None:
        """The guest's profile; None where pass 1 was not over. Raises UsageError."""
        profile = self.data["profile"]
        return None if profile is None else DirtyProfile.from_json(profile, self.name)

    @cached_property
    def seen(self) -> Seen:
        """What was seen of the way."""
        values = dict(self.data["seen"])
        switchovers = tuple(Switchover(**one) for one in values.pop("switchovers"))
        return Seen(**{key: tuple(value) for key, value in values.items()}, switchovers=switchovers)


def derived_of(journal: Journal, run: Run) -> Derived:
    """What `run` tells, from its row or, of the first time, from its recording.

    Raises JournalError.
    """
    name = f"run {run.id}"
    if not run.settled:
        # More may be recorded yet.
        return Derived(_derive(journal, run), name)
    if (text := journal.derived(run.id, VERSION)) is not None:
        return Derived(json.loads(text), name)
    data = _derive(journal, run)
    journal.keep_derived(run.id, VERSION, json.dumps(data, separators=(",", ":")))
    return Derived(data, name)


def _derive(journal: Journal, run: Run) -> dict[str, Any]:
    items: list[Item] = []
    profile = None
    for line in journal.lines(run.id):
        value = json.loads(line)
        if profile is None:
            # A rehearsal measured more than its passes tell.
            profile = value.get("profile")
        try:
            items.append(item_of(value))
        except TraceError:
            continue  # a line of another kind than a move's trace has
    if profile is None:
        profile = _profile(run, items)
    return {"profile": profile, "seen": _seen(items)}


def _profile(run: Run, items: list[Item]) -> dict[str, Any] | None:
    source: Source = "rehearsal" if run.policy == REHEARSAL else "run"
    try:
        profile = case_of(Trace({"limits": run.limits}, tuple(items)), source).profile
    except UsageError:
        return None
    points = tuple(replace(point, at=run.started_at) for point in profile.points)
    return replace(profile, points=points).to_json()


def _seen(items: list[Item]) -> dict[str, Any]:
    """In whole bytes and pages a second: a long run has thousands of windows."""
    seen = look_at(items)
    return asdict(seen) | {
        name: [round(one) for one in getattr(seen, name)]
        for name in ("free", "capped", "zero_pages")
    }
