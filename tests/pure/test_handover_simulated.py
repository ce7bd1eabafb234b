"""Whole moves in the simulator: the controller, then the handover, with QEMU's pre-copy beneath.

The simulator enforces no rule of the handover: a wrong one starts two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from vmferry.controller import Controller
from vmferry.handover import Goal, Settled, Step
from vmferry.hypervisor.base import SideView
from vmferry.hypervisor.simulated import Guest, SimulatedMove
from vmferry.hypervisor.simulated.hypervisor import Command, SimulatedSide
from vmferry.journal import JournalError
from vmferry.policy.base import Limits
from vmferry.policy.fixed import Fixed
from vmferry.settle import Sides, settle
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

IDLE = Guest(16 * MIB, 8 * MIB)
BUSY = Guest(32 * MIB, 8 * MIB, PageWriterSettings(working_set=16 * MIB, write_rate=40 * MIB))
HOPELESS = Guest(32 * MIB, 8 * MIB, PageWriterSettings(working_set=16 * MIB, write_rate=400 * MIB))
MOMENTS = (
    *("setup", "active", "STOP", "pre-switchover", "device"),
    *("completed", "RESUME", "cancelling", "cancelled", "failed"),
)


@dataclass(frozen=True)
class Fault:
    """What befalls a side, at a moment that it reaches or at a time."""

    side: Literal["source", "destination"]
    kind: Literal["die", "mute"]
    status: str | None = None
    time: float | None = None

    def order(self, move: SimulatedMove) -> None:
        side = move.source if self.side == "source" else move.destination
        order = side.die_at if self.kind == "die" else side.mute_at
        order(time=self.time, status=self.status)


FAULTS = st.builds(
    Fault,
    side=st.sampled_from(["source", "destination"]),
    kind=st.sampled_from(["die", "mute"]),
    status=st.sampled_from(MOMENTS),
) | st.builds(
    Fault,
    side=st.sampled_from(["source", "destination"]),
    kind=st.sampled_from(["die", "mute"]),
    time=st.floats(0, 3),
)


class SimulatedClock:
    """Virtual time; what QEMU does meanwhile is watched."""

    def __init__(self, move: SimulatedMove) -> None:
        self._move = move
        self._waited = 0.0

    def now(self) -> float:
        # The simulated clock stands still before migrate is issued.
        return self._move.precopy.now + self._waited

    async def wait(self, seconds: float) -> None:
        if self._move.precopy.status == "none":
            self._waited += seconds
        self._move.let_pass(max(seconds, 0.2))


class Rows:
    """A journal with room for so many more rows."""

    def __init__(self, room: int) -> None:
        self.rows = [Step.BEGUN]
        self.room = room

    def last(self) -> Step:
        return self.rows[-1]

    def record(self, step: Step) -> None:
        if len(self.rows) > self.room:
            raise JournalError("cannot write the journal: database or disk is full")
        self.rows.append(step)


class Watched:
    """A side whose every look and command is followed by a count of those who run."""

    def __init__(self, side: SimulatedSide, watch: Callable[[], None], rows: Rows) -> None:
        self._side = side
        self._watch = watch
        self._rows = rows

    async def look(self) -> SideView:
        view = await self._side.look()
        self._watch()
        return view

    async def proceed(self) -> None:
        assert Step.INTENT in self._rows.rows
        await self._side.proceed()
        self._watch()

    async def cancel(self) -> None:
        await self._side.cancel()
        self._watch()

    async def resume(self) -> None:
        if self._side.name == "destination":
            assert Step.SOURCE_DEAD in self._rows.rows
        await self._side.resume()
        self._watch()

    async def destroy(self) -> None:
        assert self._side.name == "destination" or Step.DONE in self._rows.rows
        await self._side.destroy()
        self._watch()


async def live_through(
    guest: Guest, faults: list[Fault], refused: Command | None, room: int
) -> tuple[SimulatedMove, Rows, Settled]:
    move, rows = SimulatedMove(guest), Rows(room)

    def watch() -> None:
        assert len(move.running) < 2, "two are running"

    for fault in faults:
        fault.order(move)
    if refused is not None:
        move.source.refuse(refused, "no")
    limits = Limits(downtime_limit_ms=100, bandwidth=64 * MIB, deadline=4.0)
    ending = await Controller(move.migration, Fixed(limits), lambda item: watch()).run()
    forward = ending.kind == "ready" or ending.status == "completed"
    sides = Sides(Watched(move.source, watch, rows), Watched(move.destination, watch, rows))
    clock = SimulatedClock(move)
    settled = await settle(sides, rows, Goal.FORWARD if forward else Goal.BACK, clock)
    rows.room = 9
    for _ in range(len(faults) + 1):  # each may make one more recovery look in vain
        if settled.final:
            break
        move.source.unmute()
        move.destination.unmute()
        goal = Goal.BACK if rows.last() is Step.BEGUN else Goal.FORWARD
        settled = await settle(sides, rows, goal, clock)
    return move, rows, settled


@settings(max_examples=150)
@given(
    guest=st.sampled_from([IDLE, BUSY, HOPELESS]),
    faults=st.lists(FAULTS, max_size=3),
    refused=st.sampled_from([None, None, "start", "set", "proceed"]),
    room=st.sampled_from([9, 9, 1, 2, 3]),
)
def test_whatever_fails_one_runs_or_none_is_left(
    guest: Guest, faults: list[Fault], refused: Command | None, room: int
) -> None:
    move, _, settled = asyncio.run(live_through(guest, faults, refused, room))
    assert settled.final, settled
    match settled.place:
        case "source" | "destination":
            died = not (move.source if settled.place == "source" else move.destination).alive
            # It may have died after the last look, for such a fault was ordered.
            assert move.running == (settled.place,) or (died and faults), settled
        case "nowhere":
            assert move.running == () and not move.source.alive and not move.destination.alive
            assert any(fault.kind == "die" for fault in faults), "it was lost for nothing"
        case "unknown":
            raise AssertionError(settled)


async def test_undisturbed_each_guest_gets_where_it_must() -> None:
    for guest, place in ((IDLE, "destination"), (BUSY, "destination"), (HOPELESS, "source")):
        move, rows, settled = await live_through(guest, [], None, 9)
        assert settled.place == place and move.running == (place,)
        assert rows.last() is (Step.DONE if place == "destination" else Step.UNDONE)
