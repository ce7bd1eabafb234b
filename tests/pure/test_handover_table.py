"""The handover's table for every combination of facts, also those that no move should meet.

Somebody else may have had a hand in it: what is certain to be wrong must not depend on luck.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from vmferry.handover import Facts, Goal, Move, Settled, Step, next_move, why_back
from vmferry.hypervisor.base import DEAD, Process, SideView

SILENT = (SideView(Process.ALIVE), SideView(Process.UNKNOWN))
SOURCES = (
    DEAD,
    *SILENT,
    *(
        SideView(Process.ALIVE, runstate, migration)
        for runstate in ("running", "paused", "finish-migrate", "postmigrate", "shutdown")
        for migration in (
            *("none", "active", "pre-switchover", "device"),
            *("completed", "cancelling", "cancelled", "failed"),
        )
    ),
)
DESTINATIONS = (
    DEAD,
    *SILENT,
    *(
        SideView(Process.ALIVE, runstate, migration)
        for runstate in ("running", "paused", "prelaunch", "inmigrate", "shutdown")
        for migration in ("none", "setup", "active", "completed", "failed")
    ),
)
YES_NO = (True, False)


def every_case() -> Iterator[tuple[Facts, Goal, Move | Settled]]:
    for step, source, destination, goal in itertools.product(Step, SOURCES, DESTINATIONS, Goal):
        for ran_before, unchanged, waited in itertools.product(YES_NO, repeat=3):
            facts = Facts(step, source, destination, ran_before, False, unchanged, waited)
            yield facts, goal, next_move(facts, goal)
    unseen = SideView(Process.UNKNOWN)
    for step, source, goal in itertools.product(Step, SOURCES, Goal):
        for ran_before, unchanged, waited in itertools.product(YES_NO, repeat=3):
            facts = Facts(step, source, unseen, ran_before, True, unchanged, waited)
            yield facts, goal, next_move(facts, goal)


def allowed(facts: Facts, goal: Goal, move: Move) -> bool:
    """Whether a move is safe, told from these facts alone."""
    source, destination, step = facts.source, facts.destination, facts.step
    undecided = step in (Step.BEGUN, Step.INTENT)
    match move:
        case Move.WAIT:
            return not facts.waited_out
        case Move.GIVE_UP_WAITING:
            return undecided and goal is Goal.FORWARD
        case Move.CANCEL:
            return undecided and goal is Goal.BACK and source.answers
        case Move.RECORD_INTENT:
            return step is Step.BEGUN and goal is Goal.FORWARD and _may_be_sent_to(destination)
        case Move.PROCEED:
            onward = step is Step.INTENT and goal is Goal.FORWARD
            return onward and not destination.running and _may_be_sent_to(destination)
        case Move.RECORD_SOURCE_DEAD:
            handed_over = source.dead or source.migration == "completed"
            return undecided and handed_over and (destination.loaded or facts.blind)
        case Move.START_DESTINATION:
            stopped = destination.loaded and not destination.running
            return step is Step.SOURCE_DEAD and stopped and not source.running and facts.ran
        case Move.RESUME_SOURCE:
            alone = destination.dead or (facts.blind and source.migration != "completed")
            fits = undecided or facts.disks_unchanged
            return alone and fits and facts.ran and step not in (Step.DONE, Step.UNDONE)
        case Move.DESTROY_DESTINATION:
            last = source.dead and destination.loaded and step is not Step.UNDONE
            spare = undecided or step is Step.UNDONE
            return spare and not destination.running and not last and not facts.blind
        case Move.QUIT_SOURCE:
            return step is Step.DONE and not source.running
        case Move.RECORD_DONE:
            has_it = destination.loaded or destination.running or facts.blind
            return step is Step.SOURCE_DEAD and has_it and not source.running
        case Move.RECORD_UNDONE:
            alone = destination.dead or facts.blind
            return alone and source.answers and step not in (Step.DONE, Step.UNDONE)


def _may_be_sent_to(destination: SideView) -> bool:
    """Not one that says that nothing has come: then it is another one that has been sent to."""
    return not destination.answers or destination.migration not in ("none", "setup")


def test_a_vm_that_came_by_an_earlier_move_has_not_been_handed_over() -> None:
    source = SideView(Process.ALIVE, "running", "completed")
    unseen = SideView(Process.UNKNOWN)
    facts = Facts(Step.BEGUN, source, unseen, blind=True)
    assert next_move(facts, Goal.BACK) is Move.RECORD_UNDONE


def test_no_facts_lead_to_an_unsafe_move() -> None:
    unsafe = [
        (move, facts, goal)
        for facts, goal, move in every_case()
        if isinstance(move, Move) and not allowed(facts, goal, move)
    ]
    assert not unsafe, f"{len(unsafe)} unsafe, such as " + "\n".join(map(str, unsafe[:3]))


def test_two_that_run_are_not_touched() -> None:
    for facts, _, move in every_case():
        if facts.source.running and facts.destination.running:
            assert isinstance(move, Settled) and move.place == "unknown" and not move.final


def test_a_place_is_told_only_of_a_side_that_may_be_there() -> None:
    for facts, _, move in every_case():
        if not isinstance(move, Settled):
            continue
        if move.place == "source":
            assert not facts.source.dead, facts
        elif move.place == "destination":
            assert not facts.destination.dead, facts
        elif move.place == "nowhere":
            assert facts.source.dead and (facts.destination.dead or facts.blind), facts
        else:
            assert not move.final


def test_every_move_is_met() -> None:
    assert {move for _, _, move in every_case() if isinstance(move, Move)} == set(Move)


@pytest.mark.parametrize("goal", Goal)
def test_a_source_that_ended_in_its_passes_has_taken_the_vm_along(goal: Goal) -> None:
    unseen = SideView(Process.UNKNOWN)
    begun = next_move(Facts(Step.BEGUN, DEAD, unseen, blind=True), goal)
    assert isinstance(begun, Settled) and begun.place == "nowhere" and begun.final
    intent = next_move(Facts(Step.INTENT, DEAD, unseen, blind=True), goal)
    assert isinstance(intent, Settled) and intent.place == "unknown" and not intent.final


@pytest.mark.parametrize("migration", ["none", "setup"])
def test_a_vm_is_not_handed_to_another_than_the_destination(migration: str) -> None:
    source = SideView(Process.ALIVE, "finish-migrate", "pre-switchover")
    destination = SideView(Process.ALIVE, "inmigrate", migration)
    for step in (Step.BEGUN, Step.INTENT):
        facts = Facts(step, source, destination)
        assert next_move(facts, Goal.FORWARD) is Move.WAIT
        facts = replace(facts, waited_out=True)
        assert next_move(facts, Goal.FORWARD) is Move.GIVE_UP_WAITING
        assert "another" in why_back(facts)


RUNS = SideView(Process.ALIVE, "running", "completed")
STANDS = SideView(Process.ALIVE, "postmigrate", "completed")
LOADED = SideView(Process.ALIVE, "paused", "completed")
LOADING = SideView(Process.ALIVE, "inmigrate", "active")


@pytest.mark.parametrize(
    ("why", "facts"),
    [
        ("source was resumed by hand", Facts(Step.SOURCE_DEAD, RUNS, LOADED)),
        ("source was resumed by hand", Facts(Step.DONE, RUNS, DEAD)),
        ("destination was started by hand", Facts(Step.UNDONE, DEAD, RUNS)),
        ("destination was started by hand", Facts(Step.INTENT, STANDS, RUNS)),
    ],
)
@pytest.mark.parametrize("goal", Goal)
def test_what_somebody_else_started_is_left_alone(why: str, facts: Facts, goal: Goal) -> None:
    move = next_move(facts, goal)
    assert isinstance(move, Settled) and move.place == "unknown" and not move.final, why


@pytest.mark.parametrize("waited_out", YES_NO)
def test_a_destination_that_loads_slowly_is_not_ended_when_it_is_all_there_is(
    waited_out: bool,
) -> None:
    facts = Facts(Step.INTENT, DEAD, LOADING, waited_out=waited_out)
    move = next_move(facts, Goal.FORWARD)
    assert isinstance(move, Settled) if waited_out else move is Move.WAIT
    if isinstance(move, Settled):
        assert not move.final
