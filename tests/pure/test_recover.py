"""Recovering what somebody else has just settled leaves their account of it alone."""

from __future__ import annotations

import pytest

from vmferry.handover import Step
from vmferry.journal import Journal, JournalError
from vmferry.move.parties import Parties, Party, RunLedger
from vmferry.precopy.outcome import Outcome
from vmferry.recover import recover_run
from vmferry.settle import WallClock

MOVED = Outcome(
    run="1",
    vm="web",
    status="completed",
    vm_runs_at="destination",
    policy="fixed",
    total_ms=1500.0,
    downtime_ms=20,
    bytes=1 << 20,
    resent_bytes=0,
    passes=(),
    guest=None,
    cost=None,
    why="",
)


async def test_a_run_that_was_settled_meanwhile_keeps_its_outcome() -> None:
    parties = Parties("web", "", Party(instance="/nonexistent/a"), Party(instance="/nonexistent/b"))
    with Journal.open() as journal:
        run = journal.begin("web", "fixed", {}, parties.to_json())
        (seen,) = journal.unsettled()
        journal.record(run, Step.DONE)
        journal.finish(run, MOVED.to_json())
        assert await recover_run(journal, seen, WallClock()) == MOVED
        assert journal.run(run).outcome == MOVED.to_json() | {"passes": []}


def test_the_steps_of_a_new_run_are_known_where_the_journal_cannot_be_read() -> None:
    parties = Parties("web", "", Party(), Party())
    with Journal.open() as journal:
        run = journal.begin("web", "fixed", {}, parties.to_json())
    # It is closed: nothing can be read or written any more.
    ledger = RunLedger(journal, run, parties)
    assert ledger.last() is Step.BEGUN
    with pytest.raises(JournalError):
        ledger.record(Step.INTENT)
    assert ledger.last() is Step.BEGUN


@pytest.mark.parametrize("ran", [True, False])
def test_whether_the_vm_ran_at_its_switchover_is_known_to_who_recovers(ran: bool) -> None:
    parties = Parties("web", "", Party(), Party(), ran_before=not ran)
    with Journal.open() as journal:
        run = journal.begin("web", "fixed", {}, parties.to_json())
        ledger = RunLedger(journal, run, parties)
        ledger.ran = ran
        ledger.record(Step.INTENT)
        ledger.record(Step.SOURCE_DEAD)
        assert RunLedger(journal, run, parties, journal.run(run).steps).ran is ran
        assert RunLedger(journal, run, parties).ran is not ran
