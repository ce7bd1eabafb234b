"""The policy `rehearse` against the simulated hypervisor: right, soon, and without a switchover.

The simulated QEMU has no `switchover-ack`, so a policy that waits for too long is switched over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from vmferry.controller import Controller, Ending
from vmferry.hypervisor.simulated import Guest, SimulatedMove
from vmferry.policy.base import (
    Abandon,
    ActionResult,
    Decision,
    Input,
    Limits,
    SetBandwidth,
    SetDowntimeLimit,
)
from vmferry.policy.fixed import Fixed
from vmferry.policy.rehearse import LEAST_LIMIT_MS, Answer, Rehearse
from vmferry.precopy.phases import cycle_seen
from vmferry.precopy.profile_of import windows_of
from vmferry.precopy.sample import Event
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

PLANNED = 300


def guest(working_set: int, rate: int, **more: object) -> Guest:
    """A guest of 256 MiB whose writer has these MiB and MiB/s."""
    settings = {"working_set": working_set * MIB, "write_rate": rate * MIB, **more}
    return Guest(256 * MIB, 64 * MIB, PageWriterSettings.model_validate(settings))


@dataclass
class Told:
    """What became of one rehearsal."""

    ending: Ending
    policy: Rehearse
    actions: list[ActionResult]
    seconds: float
    stopped: bool

    @property
    def answer(self) -> Answer:
        # As the sink sees to it: what QEMU switches over converges.
        return "converges" if self.stopped else self.policy.answer


async def rehearse(guest: Guest, limits: Limits, seconds: float = 60.0, seed: int = 1) -> Told:
    # A real QEMU tells of each pass at once.
    move = SimulatedMove(guest, pause_before_switchover=False, poll_seconds=0.02, seed=seed)
    policy = Rehearse(limits, seconds)
    actions: list[ActionResult] = []
    events: list[str] = []

    def listen(item: Input) -> None:
        if isinstance(item, ActionResult):
            actions.append(item)
        if isinstance(item, Event):
            events.append(item.name)

    ending = await Controller(move.migration, policy, listen).run()
    return Told(ending, policy, actions, move.precopy.now, "STOP" in events)


@pytest.mark.parametrize(
    ("load", "limits"),
    [
        (guest(96, 32), Limits(bandwidth=64 * MIB, downtime_limit_ms=PLANNED)),
        (guest(32, 32), Limits(bandwidth=128 * MIB, downtime_limit_ms=PLANNED)),
        (guest(192, 32, order="sequential"), Limits(bandwidth=128 * MIB)),
        (guest(96, 64, hot_pages=10, hot_writes=90), Limits(bandwidth=128 * MIB)),
        (guest(96, 128), Limits(bandwidth=64 * MIB)),
        (guest(192, 256, order="sequential"), Limits(bandwidth=128 * MIB)),
        (guest(192, 128), Limits(bandwidth=64 * MIB, downtime_limit_ms=100)),
    ],
)
async def test_the_answer_is_what_a_real_move_shows(load: Guest, limits: Limits) -> None:
    real = SimulatedMove(load, pause_before_switchover=False, seed=2)
    deadline = Limits(limits.max_downtime_ms, limits.downtime_limit_ms, limits.bandwidth, 60.0)
    ending = await Controller(real.migration, Fixed(deadline), lambda item: None).run()
    told = await rehearse(load, limits)
    expected = "converges" if ending.status == "completed" else "does-not-converge"
    assert told.answer == expected
    assert told.seconds < 20


async def test_pass_1_has_the_least_limit_and_what_cannot_converge_the_planned_one() -> None:
    told = await rehearse(guest(96, 256), Limits(bandwidth=64 * MIB, downtime_limit_ms=PLANNED))
    assert [one.action for one in told.actions[:3]] == [
        SetDowntimeLimit(LEAST_LIMIT_MS),
        SetBandwidth(64 * MIB),
        SetDowntimeLimit(PLANNED),
    ]
    assert told.actions[1].t == 0 and told.actions[2].t > 1
    assert isinstance(told.actions[-1].action, Abandon)
    assert not told.stopped


async def test_what_converges_ends_in_probes_and_not_in_a_switchover() -> None:
    told = await rehearse(guest(96, 16), Limits(bandwidth=64 * MIB, downtime_limit_ms=PLANNED))
    assert (told.ending.kind, told.answer, told.stopped) == ("abandoned", "converges", False)


async def test_time_is_up_in_pass_1() -> None:
    told = await rehearse(guest(96, 16), Limits(bandwidth=8 * MIB), seconds=2.0)
    assert told.answer == "uncertain"
    assert told.ending.why == "pass 1 was not over after 2.0 s"
    assert 2.0 <= told.seconds < 2.2


def test_a_vm_that_somebody_stops_is_left_alone_at_once() -> None:
    policy = Rehearse(Limits(), 60.0)
    policy.start()
    decision = policy.receive(Event(1.0, "STOP"))
    assert decision == Decision((Abandon("the VM was stopped while it was rehearsed"),))
    assert policy.answer == "uncertain"
    assert policy.receive(Event(1.1, "RESUME")) == Decision()


async def test_a_load_that_comes_and_goes_is_watched_for_a_cycle() -> None:
    """Its quiet phases are too short to end a move, which the busy ones do not tell."""
    comes_and_goes = guest(48, 64, phases="busy:4,idle:1")
    limits = Limits(bandwidth=30 * MIB, downtime_limit_ms=PLANNED)
    told = await rehearse(comes_and_goes, limits)
    assert told.answer == "does-not-converge" and told.policy.undecided
    assert told.ending.why.startswith("the load comes and goes, as ")
    steady = await rehearse(guest(48, 64), limits)
    assert steady.answer == "does-not-converge" and not steady.policy.undecided
    assert 10 < steady.seconds < told.seconds < 60


async def test_a_long_pass_1_takes_nothing_from_the_time_for_a_cycle() -> None:
    phases = {"working_set": 48 * MIB, "write_rate": 64 * MIB, "phases": "busy:4,idle:1"}
    large = Guest(1800 * MIB, 1500 * MIB, PageWriterSettings.model_validate(phases))
    limits = Limits(bandwidth=30 * MIB, downtime_limit_ms=PLANNED)
    policy = (await rehearse(large, limits, seconds=150.0)).policy
    assert cycle_seen(windows_of(policy._tracker.passes, policy._tracker.current))


async def test_short_passes_are_not_too_many_while_it_is_watched() -> None:
    """Sixty of them take less time than it is watched for."""
    told = await rehearse(guest(32, 64), Limits(bandwidth=64 * MIB, downtime_limit_ms=30))
    assert told.answer == "does-not-converge" and len(told.policy._tracker.passes) > 60


async def test_a_cycle_too_long_for_the_time_is_left_to_the_forecast() -> None:
    comes_and_goes = guest(48, 64, phases="busy:4,idle:1")
    limits = Limits(bandwidth=30 * MIB, downtime_limit_ms=PLANNED)
    told = await rehearse(comes_and_goes, limits, seconds=13.0)
    assert told.answer == "uncertain" and told.policy.undecided
    assert "not enough to see a whole cycle" in told.ending.why


async def test_time_that_ends_among_the_last_passes_is_no_sign_of_phases() -> None:
    limits = Limits(bandwidth=64 * MIB, downtime_limit_ms=1000)
    told = await rehearse(guest(64, 96, order="sequential"), limits, seconds=7.0)
    assert told.answer == "converges" and told.policy.undecided
    assert told.ending.why == "the passes get below the threshold"


async def test_never_takes_watching_for_a_quiet_phase() -> None:
    """It is busy at first, for longer than the four passes that prove it for a steady load."""
    limits = Limits(bandwidth=64 * MIB, downtime_limit_ms=100)
    told = await rehearse(guest(96, 256, phases="busy:9,idle:3"), limits)
    assert told.answer == "converges"


async def test_a_wall_clock_that_is_set_back_ends_nothing_but_the_rehearsal() -> None:
    """QEMU's events have its time; a pass seems to take none then."""

    class SetBack(Rehearse):
        def receive(self, item: Input) -> Decision:
            if isinstance(item, Event) and item.name == "MIGRATION_PASS" and item.data["pass"] > 2:
                item = replace(item, t=item.t - 100.0)
            return super().receive(item)

    limits = Limits(bandwidth=64 * MIB, downtime_limit_ms=PLANNED)
    move = SimulatedMove(guest(16, 4), pause_before_switchover=False, poll_seconds=0.02, seed=1)
    policy = SetBack(limits, 60.0)
    ending = await Controller(move.migration, policy, lambda item: None).run()
    assert (ending.kind, policy.answer) == ("abandoned", "converges")
