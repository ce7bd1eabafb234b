"""Who has the VM, and what to do next: the handover as a table, without I/O.

    begun ──pre-switchover──> intent ──source completed, destination loaded──> source-dead
      │                         │                                                 │ cont, RESUME
      └────── undone <──────────┴──────── (destination dead, disks as they were) ─┤
                                                                                  └──> done

The left of each row is the last step that is on disk in the journal. The destination is given
`cont` only after `source-dead`, so before that row it is known never to have run, and the source
may go on. After that row only the destination may run, unless it is dead and cannot have changed
anything. The guardian, the command that has lost its guardian, and `recover` all use this table,
so that they cannot disagree. The order is that of docs/safety.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from vmferry.hypervisor.base import SideView
from vmferry.precopy.outcome import Place


class Step(enum.Enum):
    """The durable steps of a move, in order. Each is on disk before what it announces is done."""

    BEGUN = "begun"
    INTENT = "intent"
    SOURCE_DEAD = "source-dead"
    DONE = "done"
    UNDONE = "undone"


class Goal(enum.Enum):
    """Where the VM should end. A failure on the way forward turns FORWARD into BACK."""

    FORWARD = "forward"
    BACK = "back"


class Move(enum.Enum):
    """The next thing to do."""

    WAIT = "wait"
    GIVE_UP_WAITING = "turn back"
    CANCEL = "cancel the migration"
    DESTROY_DESTINATION = "end the destination"
    RESUME_SOURCE = "resume the source"
    RECORD_INTENT = "record the intent"
    PROCEED = "let the source switch over"
    RECORD_SOURCE_DEAD = "record that the source is dead"
    START_DESTINATION = "start the destination"
    RECORD_DONE = "record that the move is done"
    QUIT_SOURCE = "end the source"
    RECORD_UNDONE = "record that the move is undone"


@dataclass(frozen=True, slots=True)
class Settled:
    """The end: where the VM is, and why. `final` is False where `recover` has to look again."""

    place: Place
    why: str
    final: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision may rest on.

    `step` is the last one in the journal. `ran` says whether the VM ran when the switchover stopped
    it. `blind` is a destination that vmferry cannot see (no QMP there). `disks_unchanged` says
    whether no disk was written since `source-dead` was recorded. `waited_out` is set when the same
    state has lasted for as long as the caller will wait.
    """

    step: Step
    source: SideView
    destination: SideView
    ran: bool = True
    blind: bool = False
    disks_unchanged: bool = True
    waited_out: bool = False


# Runstates from which a VM that a migration had stopped may be started again. A guest that
# panicked, shut down or was paused by its user is left as it is.
STOPPED_BY_MIGRATION = frozenset({"finish-migrate", "postmigrate"})

WAITING_FOR_CONT = frozenset({"paused", "prelaunch"})

# Of a destination that answers: not a byte has reached it. One that is being sent to is `active`.
NOT_REACHED = frozenset({"none", "setup"})

UNDER_WAY = frozenset({"setup", "active", "pre-switchover", "device", "wait-unplug", "colo"})


def next_move(facts: Facts, goal: Goal) -> Move | Settled:
    """The one next move for these facts; Settled where nothing is left to do."""
    if facts.source.running and facts.destination.running:
        return Settled("unknown", "both sides say that they run; nothing was touched", final=False)
    if facts.step in (Step.DONE, Step.UNDONE):
        return _after_the_end(facts)
    if facts.step is Step.SOURCE_DEAD:
        return _after_source_dead(facts)
    if facts.destination.running and not facts.blind:
        return _started_by_somebody_else("destination")
    if facts.source.dead:
        return _without_source(facts)
    if not facts.source.answers:
        return _silent("source", facts)
    if goal is Goal.FORWARD:
        return _forward(facts)
    return _back(facts)


def why_back(facts: Facts) -> str:
    """Why a move that was on its way forward turns back."""
    source, destination = facts.source, facts.destination
    if destination.dead:
        return "the destination ended before the VM was handed over"
    if destination.migration == "failed":
        return "the destination could not load the VM"
    if source.dead:
        return "the source ended before the VM was handed over"
    if not source.answers:
        return "the source does not answer"
    if not facts.waited_out:
        return f"the source's migration ended as {source.migration or 'unknown'}"
    if not facts.blind and not destination.answers:
        return "the destination does not answer"
    if not facts.blind and destination.migration in NOT_REACHED:
        return "nothing was sent to this destination; was the VM sent to another one?"
    return f"the switchover stands still, with the source's migration {source.migration}"


def _after_the_end(facts: Facts) -> Move | Settled:
    if facts.step is Step.UNDONE:
        if facts.destination.running and not facts.blind:
            return _started_by_somebody_else("destination")
        if not facts.destination.dead and not facts.blind:
            return Move.DESTROY_DESTINATION
        if facts.source.dead:
            return Settled("nowhere", "the move was undone; the VM has ended since")
        return Settled("source", "the VM is at the source")
    if facts.source.running:
        return _started_by_somebody_else("source")
    if not facts.source.dead:
        return Move.QUIT_SOURCE
    if facts.destination.dead:
        return Settled("nowhere", "the move was done; the VM has ended since")
    return Settled("destination", "the VM is at the destination")


def _forward(facts: Facts) -> Move | Settled:
    source, destination = facts.source, facts.destination
    if source.migration == "pre-switchover":
        if destination.migration in NOT_REACHED:
            # What the source sends goes to another QEMU, which may start with the VM by itself.
            return _wait(facts)
        if facts.step is not Step.INTENT:
            return Move.RECORD_INTENT
        return Move.GIVE_UP_WAITING if facts.waited_out else Move.PROCEED
    if source.migration == "completed":
        if destination.loaded or facts.blind:
            return Move.RECORD_SOURCE_DEAD
        if destination.dead or destination.migration == "failed":
            return Move.GIVE_UP_WAITING
        return _wait(facts)
    if source.migration in UNDER_WAY:
        return Move.GIVE_UP_WAITING if destination.dead else _wait(facts)
    return Move.GIVE_UP_WAITING


def _back(facts: Facts) -> Move | Settled:
    source = facts.source
    if source.migration in UNDER_WAY or source.migration == "cancelling":
        if not facts.waited_out:
            return Move.WAIT if source.migration == "cancelling" else Move.CANCEL
        if not facts.destination.dead and not facts.blind:
            # It does not hear the cancel; without its other end the migration fails by itself.
            return Move.DESTROY_DESTINATION
        return Settled("source", "the source does not end its migration", final=False)
    if not facts.destination.dead and not facts.blind:
        return Move.DESTROY_DESTINATION
    # A running VM says `completed` too, where it has come here by an earlier move.
    handed_over = source.migration == "completed" and source.runstate in STOPPED_BY_MIGRATION
    if facts.blind and handed_over:
        return Move.RECORD_SOURCE_DEAD  # too late to turn back: the destination may run
    if source.runstate in STOPPED_BY_MIGRATION and facts.ran:
        return Move.RESUME_SOURCE
    return Move.RECORD_UNDONE


def _without_source(facts: Facts) -> Move | Settled:
    """The source's process is gone before the destination was given `cont`."""
    destination = facts.destination
    if destination.loaded:
        return Move.RECORD_SOURCE_DEAD
    if destination.dead:
        return Settled("nowhere", "the source and the destination have both ended")
    if facts.blind and facts.step is Step.BEGUN:
        # It stops before the rest and was never let go on: no destination can have all of the VM.
        return Settled("nowhere", "the source ended before it had handed the VM over")
    if facts.blind:
        return Settled(
            "unknown",
            "the source has ended and the destination cannot be seen from here",
            final=False,
        )
    if facts.step is Step.INTENT and destination.migration in ("active", "setup", "none", ""):
        # It may still be reading what the source sent before it ended.
        if not facts.waited_out:
            return Move.WAIT
        if not destination.answers:
            return _silent("destination", facts)
        if destination.migration == "active":
            # QEMU exits where its stream breaks off; this one may yet come to its end.
            why = "the source has ended, and the destination is still loading"
            return Settled("unknown", why, final=False)
    return Move.DESTROY_DESTINATION


def _after_source_dead(facts: Facts) -> Move | Settled:
    source, destination = facts.source, facts.destination
    if source.running and not destination.dead:
        return _started_by_somebody_else("source")
    if facts.blind or destination.running:
        return Move.RECORD_DONE
    if destination.loaded:
        waits = facts.ran and destination.runstate in WAITING_FOR_CONT
        return Move.START_DESTINATION if waits else Move.RECORD_DONE
    if not destination.dead:
        return _silent("destination", facts)
    if source.running:
        return Move.RECORD_UNDONE
    if source.dead:
        return Settled("nowhere", "the source and the destination have both ended")
    if not source.answers:
        return _silent("source", facts)
    if not facts.disks_unchanged:
        return Settled(
            "unknown",
            "the destination ended after it had the VM and its disks have changed since, so the "
            "memory at the source no longer fits them; the source is stopped and was not touched",
            final=False,
        )
    return Move.RESUME_SOURCE if facts.ran else Move.RECORD_UNDONE


def _wait(facts: Facts) -> Move:
    return Move.GIVE_UP_WAITING if facts.waited_out else Move.WAIT


def _started_by_somebody_else(which: Literal["source", "destination"]) -> Settled:
    return Settled("unknown", f"the {which} runs although vmferry did not start it", final=False)


def _silent(which: Literal["source", "destination"], facts: Facts) -> Move | Settled:
    if not facts.waited_out:
        return Move.WAIT
    if which == "source" and not _gone(facts) and (facts.step is Step.BEGUN or _lacks_vm(facts)):
        # The VM is at the source. Without its other end the migration cannot go on: a source that
        # sends into a stalled connection is silent until that breaks, and then runs on by itself.
        return Move.DESTROY_DESTINATION
    place: Place = "source" if facts.step is Step.BEGUN else "unknown"
    return Settled(place, f"the {which} does not answer", final=False)


def _lacks_vm(facts: Facts) -> bool:
    """Whether the destination itself says that it has not loaded the VM."""
    return facts.destination.answers and not facts.destination.loaded


def _gone(facts: Facts) -> bool:
    return facts.destination.dead or facts.blind
