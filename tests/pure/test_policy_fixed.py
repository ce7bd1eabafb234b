"""The plain policy: limits once, then nothing, until a deadline that it keeps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.policy.base import (
    Abandon,
    ActionResult,
    Input,
    Limits,
    SetBandwidth,
    SetDowntimeLimit,
    Silence,
)
from vmferry.policy.fixed import Fixed
from vmferry.precopy.sample import Event, Sample

ENDS = [
    Sample(t=9.0, status="completed"),
    Sample(t=9.0, status="cancelled"),
    Sample(t=9.0, status="failed"),
    Event(9.0, "MIGRATION", {"status": "completed"}),
    Event(9.0, "MIGRATION", {"status": "failed"}),
]


def started(deadline: float | None = 10.0) -> Fixed:
    policy = Fixed(Limits(downtime_limit_ms=250, bandwidth=1 << 25, deadline=deadline))
    policy.start()
    return policy


def test_it_sets_the_limits_as_given() -> None:
    decision = Fixed(Limits(downtime_limit_ms=250, bandwidth=1 << 25, deadline=10.0)).start()
    assert decision.actions == (SetDowntimeLimit(250), SetBandwidth(1 << 25))
    assert decision.wake_at == 10.0


def test_without_a_deadline_it_never_acts_again() -> None:
    policy = started(None)
    for item in (Sample(t=1e6, status="active"), Silence(2e6), Event(3e6, "STOP")):
        decision = policy.receive(item)
        assert decision.actions == ()
        assert decision.wake_at is None


def test_before_the_deadline_it_waits_for_it() -> None:
    decision = started().receive(Sample(t=9.99, status="active"))
    assert decision.actions == ()
    assert decision.wake_at == 10.0


@pytest.mark.parametrize(
    "item",
    [
        Silence(10.0),
        Sample(t=10.0, status="active"),
        Event(10.1, "MIGRATION_PASS", {"pass": 9}),
    ],
)
def test_the_deadline_abandons_also_when_qemu_is_silent(item: Input) -> None:
    decision = started().receive(item)
    assert decision.actions == (Abandon("the deadline of 10.0 s passed"),)
    assert decision.wake_at == item.t + 1.0


def test_a_refused_abandon_is_tried_again_every_second() -> None:
    policy = started()
    (abandon,) = policy.receive(Silence(10.0)).actions
    refused = policy.receive(ActionResult(10.0, abandon, "no answer"))
    assert refused.actions == ()
    assert refused.wake_at == 11.0
    assert policy.receive(Sample(t=10.5, status="active")).actions == ()
    assert policy.receive(Silence(11.0)).actions == (abandon,)
    assert policy.receive(ActionResult(12.5, abandon, "time-out")).actions == ()
    assert policy.receive(Silence(12.5)).actions == (abandon,)


@pytest.mark.parametrize("end", ENDS)
def test_after_the_end_it_does_nothing(end: Sample | Event) -> None:
    policy = started()
    assert policy.receive(end).wake_at is None
    assert policy.receive(Silence(20.0)).actions == ()


def test_the_destination_completing_is_not_the_end() -> None:
    policy = started()
    policy.receive(Event(9.0, "MIGRATION", {"status": "completed"}, "destination"))
    assert len(policy.receive(Silence(10.0)).actions) == 1


@given(st.lists(st.floats(0.0, 30.0), min_size=1).map(sorted), st.floats(0.1, 20.0))
def test_it_abandons_at_the_first_input_after_the_deadline_and_at_most_each_second(
    times: list[float], deadline: float
) -> None:
    policy = started(deadline)
    acted = [t for t in times if policy.receive(Silence(t)).actions]
    late = [t for t in times if t >= deadline]
    assert acted[:1] == late[:1]
    assert all(b >= a + 1.0 for a, b in pairwise(acted))
