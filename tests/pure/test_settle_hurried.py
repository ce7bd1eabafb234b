"""Where the command has died, a VM does not stand still for long in a switchover that hangs."""

from __future__ import annotations

import asyncio

import pytest

from vmferry.handover import Goal, Step
from vmferry.hypervisor.base import DEAD, Process, SideView
from vmferry.journal import JournalError
from vmferry.settle import PATIENCE_SECONDS, Sides, settle


class VirtualClock:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    async def wait(self, seconds: float) -> None:
        self.time += seconds


class Hanging:
    """A side of a switchover that hangs: the source is not told that the destination has all."""

    def __init__(self, view: SideView) -> None:
        self.view = view
        self.other: Hanging | None = None

    async def look(self) -> SideView:
        return self.view

    async def proceed(self) -> None:
        raise AssertionError("it has been let go on already")

    async def cancel(self) -> None:
        """QEMU waits for the return path and does not hear it."""

    async def resume(self) -> None:
        raise AssertionError("the source resumes by itself; the destination never may")

    async def destroy(self) -> None:
        self.view = DEAD
        if self.other is not None:
            self.other.view = SideView(Process.ALIVE, "running", "failed")


class Rows:
    def __init__(self) -> None:
        self.rows = [Step.INTENT]

    def last(self) -> Step:
        return self.rows[-1]

    def record(self, step: Step) -> None:
        self.rows.append(step)


@pytest.mark.parametrize(("hurried", "least", "most"), [(True, 0.0, 2.0), (False, 5.0, 10.0)])
def test_a_hanging_switchover_is_undone_sooner_where_nobody_watches(
    hurried: bool, least: float, most: float
) -> None:
    source = Hanging(SideView(Process.ALIVE, "finish-migrate", "device"))
    destination = Hanging(SideView(Process.ALIVE, "paused", "completed"))
    destination.other = source
    clock, ledger = VirtualClock(), Rows()
    settled = asyncio.run(
        settle(Sides(source, destination), ledger, Goal.FORWARD, clock, hurried=lambda: hurried)
    )
    assert (settled.place, ledger.rows[-1]) == ("source", Step.UNDONE)
    assert destination.view is DEAD
    assert least <= clock.time < most
    assert least in (0.0, PATIENCE_SECONDS)


class HandedOver(Hanging):
    """A source that was let go on, and completes before it hears that it is to turn back."""

    async def cancel(self) -> None:
        self.view = SideView(Process.ALIVE, "postmigrate", "completed")


class Full(Rows):
    def record(self, step: Step) -> None:
        raise JournalError("the disk is full")


@pytest.mark.parametrize("rows", [Rows(), Full()])
async def test_a_cancel_that_comes_too_late_leaves_no_source_behind(rows: Rows) -> None:
    source = HandedOver(SideView(Process.ALIVE, "finish-migrate", "device"))
    settled = await settle(Sides(source, None), rows, Goal.BACK, VirtualClock())
    assert settled.place == "destination"
    if isinstance(rows, Full):
        # It cannot be recorded, so nothing is ended yet: `recover` does it.
        assert not settled.final and not source.view.dead
    else:
        assert settled.final and source.view.dead
        assert rows.rows[-1] is Step.DONE
