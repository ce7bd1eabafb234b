"""A small world for the handover: two QEMUs that obey QEMU's rules, a journal, and faults to order.

Nothing passes but at an await: each look, command, wait and journal row is one or more ticks, and
a schedule says which fault comes at which tick. The laws of docs/safety.md are checked at every
tick, by what is true and not by what the sides say.
"""

from __future__ import annotations

import contextlib
import enum
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vmferry.handover import Goal, Settled, Step
from vmferry.hypervisor.base import DEAD, Process, SideError, SideView
from vmferry.journal import JournalError
from vmferry.settle import Sides, settle

# Far above what any settling takes: one that gets there would never end.
MOST_TICKS = 3000
# A wait may last longer than asked; long ones make patience cheap to run out of.
WAIT_SECONDS = 0.5


class Fault(enum.Enum):
    KILL_SOURCE = enum.auto()
    KILL_DESTINATION = enum.auto()
    FREEZE_SOURCE = enum.auto()  # SIGSTOP: it says and does nothing; what it is sent waits
    FREEZE_DESTINATION = enum.auto()
    MUTE_SOURCE = enum.auto()  # its monitor hangs, the rest goes on
    MUTE_DESTINATION = enum.auto()
    WAKE = enum.auto()
    REFUSE_ONCE = enum.auto()  # whatever either side is told next
    REFUSE_ALL = enum.auto()
    REFUSE_NO_MORE = enum.auto()
    JOURNAL_FULL = enum.auto()
    JOURNAL_LIES = enum.auto()  # the row is on disk, and yet the write fails
    JOURNAL_WORKS = enum.auto()
    KILL_SETTLER = enum.auto()
    STALL = enum.auto()  # both QEMUs are slow
    HANG = enum.auto()  # both answer, and get no further
    GIVE_UP = enum.auto()  # the source's migration fails by itself


@dataclass(frozen=True)
class Setting:
    """What is so from the beginning."""

    ran_before: bool = True
    ours: bool = True  # the destination may be killed
    loads: bool = True  # the destination can load what it is sent
    writes: bool = True  # a running guest writes to its disk
    at_switchover: bool = True  # the source stands in pre-switchover; else its passes still run
    converges: bool = True  # its passes come to an end


class SettlerKilled(BaseException):
    """The settling process is killed here."""


@dataclass
class World:
    setting: Setting
    schedule: deque[tuple[int, Fault]]
    rows: list[Step] = field(default_factory=lambda: [Step.BEGUN])
    time: float = 0.0
    ticks: int = 0
    lost: bool = False
    disks_written: bool = False
    journal: Fault = Fault.JOURNAL_WORKS
    refusals: float = 0
    stalled: float = 0
    delivered: bool = False

    def __post_init__(self) -> None:
        self.source = Qemu(self, "source")
        self.destination = Qemu(self, "destination")
        self.source.runstate = "running" if self.setting.ran_before else "paused"
        self.source.migration = self.destination.migration = "active"
        self.destination.runstate = "inmigrate"
        if self.setting.at_switchover:
            self.source.pause()
        self._due = self.schedule.popleft() if self.schedule else None

    @property
    def running(self) -> list[str]:
        return [one.name for one in (self.source, self.destination) if one.vcpus_run]

    def tick(self) -> None:
        """One moment: QEMU goes on a step, and the faults that are due come."""
        self.ticks += 1
        assert self.ticks < MOST_TICKS, "settling does not end"
        if self.stalled:
            self.stalled -= 1
        else:
            self.source.go_on_as_source(self.destination)
            self.destination.go_on_as_destination(self.source)
        self.check()
        while self._due is not None:
            skip, fault = self._due
            if skip > 0:
                self._due = (skip - 1, fault)
                return
            self._due = self.schedule.popleft() if self.schedule else None
            self.inflict(fault)
            self.check()

    def check(self) -> None:
        assert len(self.running) < 2, "two are running"
        # A move that is done is not taken back: the VM ends with its destination.
        self.lost = self.lost or (Step.DONE in self.rows and not self.destination.alive)

    def inflict(self, fault: Fault) -> None:
        match fault:
            case Fault.KILL_SOURCE:
                self.kill(self.source)
            case Fault.KILL_DESTINATION:
                self.kill(self.destination)
            case Fault.FREEZE_SOURCE:
                self.source.frozen = True
            case Fault.FREEZE_DESTINATION:
                self.destination.frozen = True
            case Fault.MUTE_SOURCE:
                self.source.mute = True
            case Fault.MUTE_DESTINATION:
                self.destination.mute = True
            case Fault.WAKE:
                self.source.wake()
                self.destination.wake()
            case Fault.REFUSE_ONCE:
                self.refusals += 1
            case Fault.REFUSE_ALL:
                self.refusals = math.inf
            case Fault.REFUSE_NO_MORE:
                self.refusals = 0
            case Fault.JOURNAL_FULL | Fault.JOURNAL_LIES | Fault.JOURNAL_WORKS:
                self.journal = fault
            case Fault.KILL_SETTLER:
                raise SettlerKilled
            case Fault.STALL:
                self.stalled += 4
            case Fault.HANG:
                self.stalled = math.inf
            case Fault.GIVE_UP:
                self.source.give_up()

    def kill(self, side: Qemu) -> None:
        if not side.alive:
            return
        side.alive = False
        other = self.destination if side is self.source else self.source
        self.lost = self.lost or not other.has_vm

    def calm(self) -> None:
        """From here on nothing fails."""
        self.schedule.clear()
        self._due = None
        self.stalled = 0
        self.ticks = 0
        for fault in (Fault.WAKE, Fault.REFUSE_NO_MORE, Fault.JOURNAL_WORKS):
            self.inflict(fault)


class Qemu:
    """One QEMU, as hypervisor.base.Side."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = self.mute = False
        self.runstate = self.migration = ""
        self.given_cont = False
        self.seen_dead = False
        self._world = world
        self._continues = False
        self._starts_when_loaded = False
        self._unread: list[Callable[[], None]] = []

    @property
    def vcpus_run(self) -> bool:
        return self.alive and self.runstate == "running"

    @property
    def has_vm(self) -> bool:
        """Whether all of the VM is in it; as a destination, in its receive buffer at least."""
        if not self.alive:
            return False
        if self is self._world.source:
            return True
        return self._world.delivered and self._world.setting.loads

    @property
    def silent(self) -> bool:
        return self.frozen or self.mute

    def wake(self) -> None:
        """It hears now what it was told meanwhile."""
        self.frozen = self.mute = False
        unread, self._unread = self._unread, []
        for command in unread:
            if self.alive:
                with contextlib.suppress(SideError):
                    command()
                self._world.check()

    # What QEMU does by itself.

    def pause(self) -> None:
        self.runstate, self.migration = "finish-migrate", "pre-switchover"

    def give_up(self) -> None:
        if self.alive and not self.frozen and self.migration in ("active", "device"):
            self.migration = "failed"

    def go_on_as_source(self, destination: Qemu) -> None:
        if not self.alive or self.frozen:
            return
        match self.migration:
            case "active":
                if not destination.alive:
                    self.migration = "failed"
                elif self._world.setting.converges:
                    self.pause()
            case "pre-switchover" if self._continues:
                self.migration = "device"
            case "device" if not destination.alive:
                self.migration = "failed"
            case "device" if not self._world.delivered:
                self._world.delivered = True
            case "device" if destination.migration == "completed":
                self.migration = "completed"
            case "completed" if self.runstate == "finish-migrate":
                self.runstate = "postmigrate"
            case "cancelling":
                self.migration = "cancelled"
            case "failed" | "cancelled" if self.runstate == "finish-migrate":
                self.runstate = "running" if self._world.setting.ran_before else "postmigrate"
        self._write()

    def go_on_as_destination(self, source: Qemu) -> None:
        if not self.alive or self.frozen:
            return
        ended = not source.alive or source.migration in ("failed", "cancelled")
        if self._world.delivered and not self._world.setting.loads:
            self._world.kill(self)
        elif self._world.delivered and self.runstate == "inmigrate":
            self.runstate = "running" if self._starts_when_loaded else "paused"
        elif self._world.delivered:
            self.migration = "completed"
        elif ended:
            self.alive = False  # its stream broke
        self._write()

    def _write(self) -> None:
        if self.vcpus_run and self._world.setting.writes and Step.SOURCE_DEAD in self._world.rows:
            self._world.disks_written = True

    # hypervisor.base.Side

    async def look(self) -> SideView:
        # Two questions, and something may happen between them.
        self._world.tick()
        runstate = self.runstate
        if not self.alive:
            self.seen_dead = True
            return DEAD
        if self.silent:
            return SideView(Process.ALIVE)
        self._world.tick()
        if not self.alive:
            self.seen_dead = True
            return DEAD
        if self.silent:
            return SideView(Process.ALIVE)
        sends = self is self._world.source and self.migration == "active"
        sent = self._world.ticks if sends else 0
        return SideView(Process.ALIVE, runstate, self.migration, sent)

    async def proceed(self) -> None:
        assert Step.INTENT in self._world.rows, "switched over without an intent on disk"
        self._command(self._proceed)

    async def cancel(self) -> None:
        self._command(self._cancel)

    async def resume(self) -> None:
        world = self._world
        if self is world.destination:
            assert Step.SOURCE_DEAD in world.rows, "cont before the source was recorded dead"
            self.given_cont = True
        else:
            other = world.destination
            assert not (other.alive and other.given_cont), "resumed the source with a rival alive"
        assert world.setting.ran_before, "started a VM that was paused by its user"
        self._command(self._cont)
        while True:
            view = await self.look()
            if view.running:
                return
            if not view.answers:
                raise SideError("it took cont, but does not run")

    async def destroy(self) -> None:
        world = self._world
        if self is world.source:
            assert Step.DONE in world.rows, "ended the source before the move was done"
        else:
            undone = Step.UNDONE in world.rows
            assert undone or not self.given_cont, "ended a destination that may have run"
        world.tick()
        if self.alive and not self._killable():
            raise SideError("it does not end when told to quit")
        if self is world.destination and self.has_vm and not world.source.alive:
            assert not world.source.seen_dead, "ended the only one that had the VM"
            world.lost = True
        self.alive = False
        world.tick()

    def _killable(self) -> bool:
        if self._refused():
            return False
        if self.silent and self is self._world.destination and not self._world.setting.ours:
            self._unread.append(self._quit)
            return False
        return True

    def _quit(self) -> None:
        self._world.kill(self)

    def _command(self, command: Callable[[], None]) -> None:
        self._world.tick()
        if not self.alive:
            raise SideError("it is dead")
        if self.silent:
            self._unread.append(command)
            raise SideError("it does not answer")
        if self._refused():
            raise SideError("no")
        command()
        self._world.tick()
        if not self.alive or self.silent:
            raise SideError("it does not answer")

    def _refused(self) -> bool:
        refused = self._world.refusals > 0
        self._world.refusals -= 1 if refused else 0
        return refused

    def _proceed(self) -> None:
        if self.migration != "pre-switchover":
            raise SideError(f"Migration not in expected state: {self.migration}")
        self._continues = True

    def _cancel(self) -> None:
        if self.migration in ("active", "pre-switchover", "device"):
            self.migration = "cancelling"

    def _cont(self) -> None:
        if self.runstate == "finish-migrate":
            raise SideError("Migration is not finalized yet")
        if self.runstate == "inmigrate":
            self._starts_when_loaded = True
        else:
            self.runstate = "running"


class WorldLedger:
    """The journal's steps as one settling process knows them: read once, then its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last = world.rows[-1]

    def last(self) -> Step:
        return self._last

    def record(self, step: Step) -> None:
        self._world.tick()
        if self._world.journal is Fault.JOURNAL_FULL:
            raise JournalError("cannot write the journal: database or disk is full")
        self._world.rows.append(step)
        if self._world.journal is Fault.JOURNAL_LIES:
            raise JournalError("cannot write the journal: disk I/O error")
        self._world.tick()
        self._last = step


class WorldClock:
    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return self._world.time

    async def wait(self, seconds: float) -> None:
        self._world.time += max(seconds, WAIT_SECONDS)
        self._world.tick()


async def run_settler(world: World, goal: Goal) -> Settled | None:
    """One process that settles; None where it was killed."""
    world.source.seen_dead = world.destination.seen_dead = False
    try:
        return await settle(
            Sides(world.source, world.destination),
            WorldLedger(world),
            goal,
            WorldClock(world),
            disks_unchanged=lambda: not world.disks_written,
            ran=lambda: world.setting.ran_before,
        )
    except SettlerKilled:
        return None


async def recover(world: World) -> Settled | None:
    """What `vmferry recover` does with this run."""
    return await run_settler(world, Goal.BACK if world.rows[-1] is Step.BEGUN else Goal.FORWARD)


async def live_through(
    setting: Setting, goal: Goal, faults: Sequence[tuple[int, Fault]], recoveries: int = 3
) -> tuple[World, Settled]:
    """A move with these faults, settled again and again until it is, at last in calm."""
    world = World(setting, deque(faults))
    settled = await run_settler(world, goal)
    for _ in range(recoveries):
        if settled is not None and settled.final:
            break
        settled = await recover(world)
    world.calm()
    calm = await recover(world)
    assert calm is not None
    if settled is not None and settled.final:
        assert settled.place == calm.place or world.lost, (settled, calm)
    return world, calm
