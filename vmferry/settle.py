"""Carries out the table of `handover.py` until the VM has one place: looks, decides, acts, again.

Used by the guardian at the end of every move, by the command when its guardian has died, and by
`vmferry recover`. It makes no decision of its own but one: when waiting has lasted long enough.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from vmferry.handover import Facts, Goal, Move, Settled, Step, next_move, why_back
from vmferry.hypervisor.base import Process, Side, SideError, SideView
from vmferry.journal import JournalError
from vmferry.precopy.outcome import Place

# How long nothing at all may change, sent bytes included, before it counts as stuck. Loading a big
# device state takes QEMU seconds; a VM that stands still for longer is better off at the source.
PATIENCE_SECONDS = 5.0
# A cancel that is not heard by then is helped along by ending the destination.
CANCEL_SECONDS = 2.0
# Where the command has died nobody watches: then a VM must not stand still for more than 2 s.
HURRIED_PATIENCE_SECONDS, HURRIED_CANCEL_SECONDS = 1.0, 0.3
POLL_SECONDS = 0.02
# How often one move is tried before the side counts as stuck.
_TRIES = 5
# With one of these a move that was on its way forward is on its way back.
_TURNS_BACK = frozenset({Move.DESTROY_DESTINATION, Move.RESUME_SOURCE, Move.RECORD_UNDONE})
# A side takes these and carries them out a little later; the table says when it was too long.
_ASKED_UNTIL_SEEN = frozenset({Move.CANCEL, Move.PROCEED})


class Ledger(Protocol):
    """The durable steps of one run (the journal's, or a test's). `record` raises JournalError."""

    def last(self) -> Step: ...

    def record(self, step: Step) -> None: ...


class Clock(Protocol):
    """Time that passes while we wait; virtual in tests."""

    def now(self) -> float: ...

    async def wait(self, seconds: float) -> None:
        """Return after `seconds`, or earlier when something has changed."""
        ...


class WallClock:
    """Time as it passes."""

    def now(self) -> float:
        return time.monotonic()

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides of a move. Without a destination it cannot be seen from here."""

    source: Side
    destination: Side | None


async def settle(
    sides: Sides,
    ledger: Ledger,
    goal: Goal,
    clock: Clock,
    *,
    disks_unchanged: Callable[[], bool] = lambda: True,
    ran: Callable[[], bool] = lambda: True,
    before: Callable[[Move], Awaitable[None]] | None = None,
    patience: float = PATIENCE_SECONDS,
    hurried: Callable[[], bool] = lambda: False,
) -> Settled:
    """Bring the VM to one place; `before` hears of each move first.

    `ran` says whether the VM ran before the switchover stopped it: only then it is started again.

    Never raises for what a side or the journal does.
    """
    since = clock.now()
    latest: tuple[object, ...] = ()
    tries: Counter[Move] = Counter()
    failure = because = ""
    while True:
        source, destination = await _look(sides)
        # On the way back what is still being sent is no sign of life: nobody wants it.
        seen = source if goal is Goal.FORWARD else replace(source, sent=0)
        state = (ledger.last(), seen, destination, goal)
        if state != latest:
            latest, since = state, clock.now()
        cancelling = goal is Goal.BACK and source.answers and not destination.dead
        hurry = hurried() and not source.running
        allowed = _allowed(patience, cancelling=cancelling, hurried=hurry)
        facts = Facts(
            step=ledger.last(),
            source=source,
            destination=destination,
            ran=ran(),
            blind=sides.destination is None,
            disks_unchanged=disks_unchanged(),
            waited_out=clock.now() - since >= allowed,
        )
        move = next_move(facts, goal)
        if isinstance(move, Settled):
            return _told(move, because)
        if move is Move.GIVE_UP_WAITING:
            goal, because = Goal.BACK, because or why_back(facts)
            continue
        if move is Move.WAIT:
            await clock.wait(POLL_SECONDS)
            continue
        if tries[move] == _TRIES:
            if move is not Move.PROCEED:
                return _stuck(move, facts, failure)
            goal, because = Goal.BACK, f"the source does not switch over: {failure}"
            continue
        if move in _TURNS_BACK and goal is Goal.FORWARD and not because:
            because = why_back(facts)
        if before is not None:
            await before(move)
        try:
            await _carry_out(move, sides, ledger)
            failure = "it was told to, and nothing came of it"
            if move in _ASKED_UNTIL_SEEN:
                await clock.wait(POLL_SECONDS)
            else:
                tries[move] += 1
        except JournalError as error:
            if move in (Move.RECORD_DONE, Move.RECORD_UNDONE):
                place: Place = "destination" if move is Move.RECORD_DONE else "source"
                return Settled(place, error.message, final=False)
            if move is Move.RECORD_SOURCE_DEAD and sides.destination is None:
                return Settled("destination", error.message, final=False)
            if source.dead:
                return _unrecorded(error.message)
            goal, because = Goal.BACK, error.message
        except SideError as error:
            failure = str(error)
            # A cancel that is refused is helped along by the table, when it has waited for it.
            tries[move] += 1 if move is not Move.CANCEL else 0
            await clock.wait(0.1 * max(tries[move], 1))


def _allowed(patience: float, *, cancelling: bool, hurried: bool) -> float:
    """How long the same state may last: `cancelling` with a destination that can still be ended."""
    if cancelling:
        return HURRIED_CANCEL_SECONDS if hurried else CANCEL_SECONDS
    return min(patience, HURRIED_PATIENCE_SECONDS) if hurried else patience


def _told(settled: Settled, because: str) -> Settled:
    """With the reason why a move that was on its way forward turned back."""
    if not because or because == settled.why or settled.place == "destination":
        return settled
    return replace(settled, why=f"{because}; {settled.why}")


async def _look(sides: Sides) -> tuple[SideView, SideView]:
    if sides.destination is None:
        return await sides.source.look(), SideView(Process.UNKNOWN)
    views = await asyncio.gather(sides.source.look(), sides.destination.look())
    return views[0], views[1]


async def _carry_out(move: Move, sides: Sides, ledger: Ledger) -> None:
    recorded = {
        Move.RECORD_INTENT: Step.INTENT,
        Move.RECORD_SOURCE_DEAD: Step.SOURCE_DEAD,
        Move.RECORD_DONE: Step.DONE,
        Move.RECORD_UNDONE: Step.UNDONE,
    }
    step = recorded.get(move)
    if step is not None:
        ledger.record(step)
    elif move is Move.CANCEL:
        await sides.source.cancel()
    elif move is Move.PROCEED:
        await sides.source.proceed()
    elif move is Move.RESUME_SOURCE:
        await sides.source.resume()
    elif move is Move.QUIT_SOURCE:
        await sides.source.destroy()
    elif sides.destination is not None:
        if move is Move.START_DESTINATION:
            await sides.destination.resume()
        elif move is Move.DESTROY_DESTINATION:
            await sides.destination.destroy()


def _unrecorded(error: str) -> Settled:
    """The destination has all of the VM and the source has ended, but that cannot be recorded."""
    why = f"the destination has the VM and has not been started: {error}"
    return Settled("nowhere", why, final=False)


def _stuck(move: Move, facts: Facts, error: str) -> Settled:
    """A side refuses; say where the VM is, as far as the facts tell."""
    why = f"cannot {move.value}: {error}"
    if facts.step is Step.DONE:
        return Settled("destination", why, final=False)
    if facts.source.running or move is Move.RESUME_SOURCE:
        return Settled("source", why, final=False)
    return Settled("unknown", why, final=False)
