"""The laws of the handover (docs/safety.md), in a small world where anything may fail at any await.

That never two run, that no step comes before its row in the journal and that settling ends is
checked by the world itself, at every tick.
"""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pure.handover_world import Fault, Setting, World, live_through
from vmferry.handover import Goal, Settled, Step

SETTINGS = st.builds(
    Setting,
    ran_before=st.sampled_from([True, True, True, False]),
    ours=st.booleans(),
    loads=st.sampled_from([True, True, True, False]),
    writes=st.booleans(),
    at_switchover=st.sampled_from([True, True, False]),
)
FAULTS = st.lists(st.tuples(st.integers(0, 14), st.sampled_from(Fault)), max_size=8)
# Of ticks: an undisturbed move has fewer.
LONGEST = 45


def check_end(world: World, settled: Settled) -> None:
    """Nothing fails any more and `recover` has been run: the VM is in one place, and said to be."""
    source, destination = world.source, world.destination
    runs = world.setting.ran_before
    match settled.place:
        case "source":
            assert source.alive and not destination.alive
            assert world.running == (["source"] if runs else [])
        case "destination":
            assert destination.alive and destination.has_vm and not source.alive
            assert world.running == (["destination"] if runs else [])
            assert world.rows[-1] is Step.DONE
        case "nowhere":
            assert world.lost, "it said that the VM is lost, and it is not"
            assert not source.alive and not destination.has_vm
        case "unknown":
            assert not destination.alive and world.disks_written and Step.SOURCE_DEAD in world.rows
            assert source.runstate == "postmigrate", "the source was touched"
    assert settled.final or settled.place == "unknown", settled
    if world.lost and settled.place != "unknown":
        assert not world.running
        assert settled.place == "nowhere" or not runs


@settings(max_examples=1500)
@given(SETTINGS, st.sampled_from([Goal.FORWARD, Goal.FORWARD, Goal.BACK]), FAULTS)
def test_whatever_fails_the_vm_is_in_one_place(
    setting: Setting, goal: Goal, faults: list[tuple[int, Fault]]
) -> None:
    world, settled = asyncio.run(live_through(setting, goal, faults))
    check_end(world, settled)


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("fault", Fault)
async def test_each_fault_at_each_await(fault: Fault, goal: Goal) -> None:
    for moment, at_switchover in itertools.product(range(LONGEST), (True, False)):
        world, settled = await live_through(
            Setting(at_switchover=at_switchover), goal, [(moment, fault)]
        )
        check_end(world, settled)


@pytest.mark.parametrize("fault", Fault)
async def test_undoing_passes_that_would_go_on_for_ever(fault: Fault) -> None:
    setting = Setting(at_switchover=False, converges=False)
    for moment in range(LONGEST):
        world, settled = await live_through(setting, Goal.BACK, [(moment, fault)])
        check_end(world, settled)
        assert Step.INTENT not in world.rows


@pytest.mark.parametrize("second", Fault)
@pytest.mark.parametrize(
    "first",
    [Fault.KILL_SETTLER, Fault.JOURNAL_FULL, Fault.JOURNAL_LIES, Fault.FREEZE_DESTINATION],
)
async def test_two_faults(first: Fault, second: Fault) -> None:
    for moment, later in itertools.product(range(0, LONGEST, 2), (0, 1, 4)):
        world, settled = await live_through(
            Setting(), Goal.FORWARD, [(moment, first), (later, second)]
        )
        check_end(world, settled)


@pytest.mark.parametrize("ran_before", [True, False])
@pytest.mark.parametrize("at_switchover", [True, False])
async def test_undisturbed_it_ends_at_the_destination(
    ran_before: bool, at_switchover: bool
) -> None:
    setting = Setting(ran_before=ran_before, at_switchover=at_switchover)
    world, settled = await live_through(setting, Goal.FORWARD, [])
    assert settled == Settled("destination", "the VM is at the destination")
    assert world.rows == [Step.BEGUN, Step.INTENT, Step.SOURCE_DEAD, Step.DONE]
    assert world.ticks < LONGEST
    check_end(world, settled)


@pytest.mark.parametrize("at_switchover", [True, False])
async def test_undone_it_ends_at_the_source(at_switchover: bool) -> None:
    world, settled = await live_through(Setting(at_switchover=at_switchover), Goal.BACK, [])
    assert settled == Settled("source", "the VM is at the source")
    assert world.rows == [Step.BEGUN, Step.UNDONE]
    check_end(world, settled)


async def test_the_faults_reach_every_end() -> None:
    """Else the laws would hold for want of trying."""
    ends = set()
    for fault, moment in itertools.product(Fault, range(LONGEST)):
        world, settled = await live_through(Setting(), Goal.FORWARD, [(moment, fault)])
        ends.add((settled.place, world.rows[-1]))
    assert {place for place, _ in ends} == {"source", "destination", "nowhere", "unknown"}
    assert {step for _, step in ends} >= {Step.DONE, Step.UNDONE, Step.SOURCE_DEAD}
