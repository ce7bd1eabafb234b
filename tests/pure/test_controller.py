"""The controller with the simulated hypervisor: how its loop ends, and what it hears."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from vmferry.controller import Controller, Ending
from vmferry.hypervisor.simulated import Guest, SimulatedMove
from vmferry.policy.base import (
    Action,
    ActionResult,
    Decision,
    Input,
    Limits,
    SetBandwidth,
    SetDowntimeLimit,
    Silence,
)
from vmferry.policy.fixed import Fixed
from vmferry.precopy.sample import Event, Sample
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

IDLE = Guest(32 * MIB, 16 * MIB)
HOPELESS = Guest(64 * MIB, 16 * MIB, PageWriterSettings(working_set=32 * MIB, write_rate=400 * MIB))
SLOW = 32 * MIB


def statuses(heard: list[Input]) -> list[str]:
    return [
        str(item.data["status"])
        for item in heard
        if isinstance(item, Event) and item.name == "MIGRATION" and item.side == "source"
    ]


async def run(
    move: SimulatedMove,
    limits: Limits,
    *,
    also: Callable[[Controller, Input], None] = lambda controller, item: None,
) -> tuple[Ending, list[Input]]:
    heard: list[Input] = []

    def listen(item: Input) -> None:
        heard.append(item)
        also(controller, item)

    controller = Controller(move.migration, Fixed(limits), listen)
    return await controller.run(), heard


async def test_it_ends_where_the_vm_is_about_to_change_hands() -> None:
    move = SimulatedMove(IDLE)
    ending, heard = await run(move, Limits(bandwidth=64 * MIB))
    assert ending == Ending("ready", "pre-switchover")
    assert statuses(heard) == ["setup", "active", "pre-switchover"]
    assert move.source.status == "pre-switchover" and move.running == ()
    assert [item.t for item in heard] == sorted(item.t for item in heard)


async def test_the_limits_are_set_and_heard_before_anything_else() -> None:
    move = SimulatedMove(IDLE)
    _, heard = await run(move, Limits(downtime_limit_ms=123, bandwidth=SLOW))
    assert heard[:2] == [
        ActionResult(0.0, SetDowntimeLimit(123)),
        ActionResult(0.0, SetBandwidth(SLOW)),
    ]
    assert (move.precopy.downtime_limit_ms, move.precopy.bandwidth) == (123, SLOW)


async def test_without_a_pause_the_migration_ends_by_itself() -> None:
    ending, _ = await run(SimulatedMove(IDLE, pause_before_switchover=False), Limits())
    assert ending == Ending("ended", "completed")


async def test_what_never_converges_is_abandoned_at_the_deadline() -> None:
    move = SimulatedMove(HOPELESS)
    ending, heard = await run(move, Limits(bandwidth=SLOW, deadline=7.0))
    assert ending.kind == "abandoned" and "the deadline of 7" in ending.why
    assert move.migration.now() == pytest.approx(7.0, abs=0.11)  # of virtual time
    assert "pre-switchover" not in statuses(heard)
    last = heard[-1]
    assert isinstance(last, ActionResult) and last.error is None
    assert move.running == ("source",)


@pytest.mark.parametrize("status", ["active", "setup"])
async def test_the_deadline_holds_though_the_hypervisor_is_mute(status: str) -> None:
    move = SimulatedMove(HOPELESS)
    move.source.mute_at(status=status)
    ending, heard = await run(move, Limits(bandwidth=SLOW, deadline=5.0))
    assert ending.kind == "abandoned"
    assert heard[-2] == Silence(5.0)
    assert move.migration.now() == 5.0


async def test_cancelled_it_ends_at_once() -> None:
    move = SimulatedMove(HOPELESS)

    def third_sample(controller: Controller, item: Input) -> None:
        if isinstance(item, Sample) and item.t > 0.25:
            controller.cancel("enough")

    ending, heard = await run(move, Limits(bandwidth=SLOW), also=third_sample)
    assert ending == Ending("cancelled", why="enough")
    assert heard[-1].t == pytest.approx(0.3)
    assert move.running == ("source",)


async def test_cancelled_at_the_last_moment_it_does_not_go_on() -> None:
    """Nothing has been handed over yet: the user is right."""
    move = SimulatedMove(IDLE)

    def at_switchover(controller: Controller, item: Input) -> None:
        if isinstance(item, Event) and item.data.get("status") == "pre-switchover":
            controller.cancel("enough")

    ending, _ = await run(move, Limits(), also=at_switchover)
    assert ending == Ending("cancelled", why="enough")


async def test_cancelled_while_the_hypervisor_says_nothing_it_ends() -> None:
    move = SimulatedMove(IDLE)
    waits = asyncio.Event()

    async def receive(until: float | None) -> Sample | Event | Silence:
        waits.set()
        await asyncio.Event().wait()
        raise AssertionError

    move.migration.receive = receive  # type: ignore[method-assign]
    controller = Controller(move.migration, Fixed(Limits()), lambda item: None)
    running = asyncio.create_task(controller.run())
    await waits.wait()
    controller.cancel("enough")
    assert await running == Ending("cancelled", why="enough")
    assert len(asyncio.all_tasks()) == 1, "a task was left behind"


async def test_a_source_that_ends_is_lost() -> None:
    move = SimulatedMove(HOPELESS)
    move.source.die_at(time=1.5)
    ending, _ = await run(move, Limits(bandwidth=SLOW))
    assert ending == Ending("lost", why="the source is dead")
    assert move.migration.now() == pytest.approx(1.5)


async def test_a_destination_that_ends_fails_the_migration() -> None:
    move = SimulatedMove(HOPELESS)
    move.destination.die_at(time=1.5)
    ending, _ = await run(move, Limits(bandwidth=SLOW))
    assert (ending.kind, ending.status) == ("ended", "failed")
    assert move.running == ("source",)


async def test_a_refused_start_is_told_in_the_hypervisors_words() -> None:
    move = SimulatedMove(IDLE)
    move.source.refuse("start", "Migration is disabled")
    ending, heard = await run(move, Limits())
    assert ending == Ending("lost", why="Migration is disabled")
    assert move.precopy.status == "none"
    assert all(isinstance(item, ActionResult) for item in heard)


async def test_a_refused_limit_stops_it_before_migrate_is_issued() -> None:
    move = SimulatedMove(IDLE)
    move.source.refuse("set", "Parameter 'downtime_limit' expects an integer")
    ending, heard = await run(move, Limits())
    assert ending.kind == "lost" and "expects an integer" in ending.why
    assert len(heard) == 1
    assert move.precopy.status == "none" and move.running == ("source",)


class Raising:
    """Raises the bandwidth at the first sample after 0.5 s; keeps what it was told."""

    name = "raising"

    def __init__(self) -> None:
        self.told: list[Input] = []
        self._raised = False

    def start(self) -> Decision:
        return Decision((SetBandwidth(SLOW),), 0.5)

    def receive(self, item: Input) -> Decision:
        self.told.append(item)
        actions: tuple[Action, ...] = ()
        if item.t >= 0.5 and not self._raised:
            self._raised = True
            actions = (SetBandwidth(0), SetDowntimeLimit(500))
        return Decision(actions, None if self._raised else 0.5)


@pytest.mark.parametrize("refused", [False, True])
async def test_the_policy_hears_what_became_of_its_actions(refused: bool) -> None:
    move = SimulatedMove(HOPELESS)
    policy, heard = Raising(), list[Input]()
    if refused:
        move.at(0.4, lambda: move.source.refuse("set", "not now"))
        move.at(3.0, move.source.die)

    ending = await Controller(move.migration, policy, heard.append).run()
    results = [item for item in policy.told if isinstance(item, ActionResult)]
    assert [result.action for result in results] == [SetBandwidth(0), SetDowntimeLimit(500)]
    assert {result.error for result in results} == {"not now" if refused else None}
    # The listener has heard the same, and what was said before the policy's first word.
    assert heard[1 : len(policy.told) + 1] == policy.told
    assert ending.kind == ("lost" if refused else "ready")
