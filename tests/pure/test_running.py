"""Who stopped the VM: the switchover, or somebody else while it moved (move/running.py)."""

from __future__ import annotations

import pytest

from vmferry.move.running import Running
from vmferry.precopy.sample import Event

PASS = Event(0.0, "MIGRATION_PASS", {"pass": 2})
STOP = Event(0.0, "STOP")
RESUME = Event(0.0, "RESUME")
PRE_SWITCHOVER = Event(0.0, "MIGRATION", {"status": "pre-switchover"})
ACTIVE = Event(0.0, "MIGRATION", {"status": "active"})
THERE = Event(0.0, "RESUME", side="destination")


@pytest.mark.parametrize(
    ("ran_before", "events", "ran"),
    [
        (True, [ACTIVE, PASS, PASS, STOP, PRE_SWITCHOVER, PASS], True),
        (True, [ACTIVE, PASS, STOP, PASS, PRE_SWITCHOVER, PASS], False),
        (True, [ACTIVE, STOP, PASS, RESUME, PASS, STOP, PRE_SWITCHOVER], True),
        (True, [ACTIVE, STOP, RESUME, STOP, PASS, PRE_SWITCHOVER], False),
        (False, [ACTIVE, PASS, PRE_SWITCHOVER, PASS], False),
        (False, [ACTIVE, RESUME, PASS, STOP, PRE_SWITCHOVER, PASS], True),
        (False, [ACTIVE, PASS, PRE_SWITCHOVER, THERE, RESUME], False),
        (True, [ACTIVE, PASS, STOP, PRE_SWITCHOVER, RESUME, STOP, PASS], True),
    ],
)
def test_what_ran_at_the_switchover(ran_before: bool, events: list[Event], ran: bool) -> None:
    running = Running(ran_before)
    for event in events:
        running.receive(event)
    assert running.ran is ran
