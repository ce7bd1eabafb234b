"""A move between two simulated hosts, with the protocols of the real ones and faults to order.

Virtual time passes in `SimulatedMigration.receive` and, by `COMMAND_SECONDS`, in each command to a
side; nothing sleeps. The rules of the handover are not enforced here: a wrong handover starts two.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from vmferry.hypervisor.base import DEAD, Process, SideError, SideView
from vmferry.hypervisor.simulated.machine import Guest, Machine
from vmferry.hypervisor.simulated.precopy import Precopy
from vmferry.policy.base import (
    Abandon,
    Action,
    ActionResult,
    SetBandwidth,
    SetDowntimeLimit,
    Silence,
)
from vmferry.precopy.sample import Event, Sample

COMMAND_SECONDS = 0.002
Command = Literal["start", "set", "proceed", "cancel", "resume", "destroy"]


class SimulatedMove:
    """A source with a guest, a destination that waits for it, and the migration between them."""

    def __init__(
        self,
        guest: Guest,
        machine: Machine | None = None,
        *,
        pause_before_switchover: bool = True,
        poll_seconds: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.precopy = Precopy(
            guest,
            machine or Machine(),
            pause_before_switchover=pause_before_switchover,
            seed=seed,
            emit=self._hear,
        )
        self.source = SimulatedSide(self, "source", "running")
        self.destination = SimulatedSide(self, "destination", "inmigrate")
        self.migration = SimulatedMigration(self, poll_seconds)
        self.events: deque[Event] = deque()
        self._alarms: list[tuple[float, Callable[[], None]]] = []

    @property
    def running(self) -> tuple[str, ...]:
        """The sides whose vCPUs run now: two of them is the worst that can happen to a VM."""
        return tuple(side.name for side in (self.source, self.destination) if side.vcpus_run)

    def at(self, t: float, call: Callable[[], None]) -> None:
        """Have `call` made at time `t`."""
        self._alarms.append((t, call))
        self._alarms.sort(key=lambda alarm: alarm[0])

    def advance(self, until: float) -> None:
        """Let virtual time pass until `until`, or until there is an event to tell."""
        precopy = self.precopy
        while precopy.now < until and not self.events:
            alarm = self._alarms[0][0] if self._alarms else math.inf
            precopy.advance(min(until, max(alarm, precopy.now)))
            if precopy.now >= alarm:
                self._alarms.pop(0)[1]()

    def let_pass(self, seconds: float) -> None:
        """Let virtual time pass once migrate is issued; events wait to be told."""
        if self.precopy.status == "none":
            return
        until = self.precopy.now + seconds
        told, self.events = self.events, deque()
        while self.precopy.now < until:
            self.advance(until)
            told.extend(self.events)
            self.events.clear()
        self.events = told

    def tell(self, side: SimulatedSide, name: str, data: dict[str, Any]) -> None:
        """Queue a side's event, if the side can still speak."""
        if side.answers:
            self.events.append(Event(self.precopy.now, name, data, side.name))

    def _hear(self, side_name: str, name: str, data: dict[str, Any]) -> None:
        side = self.source if side_name == "source" else self.destination
        if name in {"STOP", "RESUME"}:
            side.runstate = "finish-migrate" if name == "STOP" else "running"
        side.status = data.get("status", side.status)
        self.tell(side, name, data)
        if name == "MIGRATION":
            self._status_changed(side, data["status"])
        side.met(str(data.get("status", name)))

    def _status_changed(self, side: SimulatedSide, status: str) -> None:
        if side is self.destination:
            side.loaded()
        elif status == "active":
            self.destination.status = status
            self.tell(self.destination, "MIGRATION", {"status": status})
        elif status == "completed":
            side.runstate = "postmigrate"
        elif status in {"failed", "cancelled"} and self.destination.status != "completed":
            self.destination.die()  # an incoming QEMU whose stream breaks exits


class SimulatedSide:
    """One of the two, as hypervisor.base.Side, and what can go wrong with it."""

    def __init__(
        self, move: SimulatedMove, name: Literal["source", "destination"], runstate: str
    ) -> None:
        self.name = name
        self.runstate = runstate
        self.status = "none"
        self._move = move
        self._alive = True
        self._mute = False
        self._starts_when_loaded = False
        self._dies_at: str | None = None
        self._mute_at: str | None = None
        self._refusals: dict[Command, str] = {}

    # Faults.

    def die(self) -> None:
        """Kill it now."""
        if not self._alive:
            return
        self._alive = False
        precopy = self._move.precopy
        if self.name == "destination":
            precopy.break_stream("the destination closed the connection")
        else:
            precopy.halt()
            if self._move.destination.status != "completed":
                self._move.destination.die()

    def die_at(self, *, time: float | None = None, status: str | None = None) -> None:
        """Kill it at a time, or the moment its status or event (STOP, RESUME) is this."""
        if time is not None:
            self._move.at(time, self.die)
        self._dies_at = status

    def mute(self) -> None:
        """Let it go on, but say and hear nothing."""
        self._mute = True

    def mute_at(self, *, time: float | None = None, status: str | None = None) -> None:
        """Mute it at a time, or the moment its status or event (STOP, RESUME) is this."""
        if time is not None:
            self._move.at(time, self.mute)
        self._mute_at = status

    def unmute(self) -> None:
        """Let it speak and hear again; what it had to say meanwhile is lost."""
        self._mute = False

    def refuse(self, command: Command, message: str) -> None:
        """Refuse a command from now on, with this message."""
        self._refusals[command] = message

    def loaded(self) -> None:
        """As a destination: it has all of the VM; it runs at once if it was told to."""
        self.runstate = "running" if self._starts_when_loaded else "paused"
        if self.vcpus_run:
            self._move.tell(self, "RESUME", {})

    def met(self, what: str) -> None:
        """Its status or event is this: the moment for a fault ordered with `…_at`."""
        if what == self._dies_at:
            self.die()
        if what == self._mute_at:
            self.mute()

    # What is true of it, whether it can say so or not.

    @property
    def alive(self) -> bool:
        return self._alive

    @property
    def answers(self) -> bool:
        return self._alive and not self._mute

    @property
    def vcpus_run(self) -> bool:
        return self._alive and self.runstate == "running"

    # hypervisor.base.Side

    async def look(self) -> SideView:
        self._move.let_pass(COMMAND_SECONDS)
        if not self._alive:
            return DEAD
        if self._mute:
            return SideView(Process.ALIVE)
        return SideView(Process.ALIVE, self.runstate, self.status)

    async def proceed(self) -> None:
        self.hear("proceed")
        if self.status != "pre-switchover":
            raise SideError(f"Migration not in expected state: {self.status}")
        self._move.precopy.proceed()

    async def cancel(self) -> None:
        self.hear("cancel")
        self._move.precopy.cancel()

    async def resume(self) -> None:
        self.hear("resume")
        if self.runstate == "finish-migrate":
            raise SideError("Migration is not finalized yet")
        if self.runstate == "inmigrate":
            self._starts_when_loaded = True  # as QEMU's cont does
        elif self.runstate != "running":
            self.runstate = "running"
            self._move.tell(self, "RESUME", {})
            self.met("RESUME")

    async def destroy(self) -> None:
        if "destroy" in self._refusals:
            raise SideError(self._refusals["destroy"])
        self._move.let_pass(COMMAND_SECONDS)
        self.die()

    def hear(self, command: Command) -> None:
        """Take a command. Raises SideError where the side is dead, mute or refuses."""
        self._move.let_pass(COMMAND_SECONDS)
        if not self._alive:
            raise SideError(f"the {self.name} is dead")
        if self._mute:
            raise SideError(f"the {self.name} does not answer")
        if command in self._refusals:
            raise SideError(self._refusals[command])


class SimulatedMigration:
    """The migration under way, as hypervisor.base.Migration; sampled every `poll_seconds`."""

    def __init__(self, move: SimulatedMove, poll_seconds: float) -> None:
        self._move = move
        self._poll_seconds = poll_seconds
        self._next_sample = 0.0

    def now(self) -> float:
        return self._move.precopy.now

    async def start(self) -> None:
        self._move.source.hear("start")
        self._move.precopy.start()

    async def receive(self, until: float | None) -> Sample | Event | Silence:
        """As in the protocol. Raises SideError where the source is dead, or mute for ever."""
        await asyncio.sleep(0)
        move = self._move
        while not move.events:
            if not move.source.alive:
                raise SideError("the source is dead")
            if until is None and not move.source.answers:
                raise SideError("the source does not answer")
            limit = math.inf if until is None else until
            move.advance(min(self._next_sample, limit))
            if move.events:
                break
            now = self.now()
            if now >= self._next_sample:
                self._next_sample = now + self._poll_seconds
                if move.source.answers:
                    return Sample.from_reply(now, move.precopy.reply())
            if now >= limit:
                return Silence(limit)
        return move.events.popleft()

    async def perform(self, action: Action) -> ActionResult:
        precopy = self._move.precopy
        try:
            self._move.source.hear("cancel" if isinstance(action, Abandon) else "set")
        except SideError as refusal:
            return ActionResult(self.now(), action, str(refusal))
        match action:
            case SetBandwidth(bandwidth):
                precopy.bandwidth = bandwidth
            case SetDowntimeLimit(downtime_limit_ms):
                precopy.downtime_limit_ms = downtime_limit_ms
            case Abandon():
                precopy.cancel()
        return ActionResult(self.now(), action)
