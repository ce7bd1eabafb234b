"""Settles a move whose guardian is gone: by the same table, from what the journal has.

A move that had not begun to switch over is undone; one that had is finished, unless a side is in
the way. Nothing is touched where it cannot be told which side has the VM.
"""

from __future__ import annotations

import time

from vmferry.handover import Goal, Settled, Step
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.orphans import end_orphans
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.journal import Journal, Run
from vmferry.move.parties import Parties, RunLedger, tidy
from vmferry.precopy.outcome import Outcome, Status
from vmferry.precopy.passes import PassTracker, resent_bytes
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import TraceError, read_trace
from vmferry.rehearsal.run import POLICY as REHEARSE
from vmferry.rehearsal.sink_process import SinkSide
from vmferry.settle import Clock, Sides, settle
from vmferry.vm.lock import MoveLock


async def recover_run(journal: Journal, run: Run, clock: Clock) -> Outcome:
    """Settle one run and record its outcome.

    Raises RefusedError while its guardian still lives, JournalError.
    """
    with MoveLock.acquire(run.vm, "recover"):
        run = journal.run(run.id)
        if run.settled and run.outcome is not None:
            # Its guardian, or somebody else who recovers, was only just done with it.
            return Outcome.from_json(run.outcome)
        parties = Parties.from_json(run.parties)
        source = parties.source.side(recovering=True)
        destination = _destination(run, parties)
        ledger = RunLedger(journal, run.id, parties, run.steps)
        seen = destination if isinstance(destination, QemuSide) else None
        try:
            settled = await settle(
                Sides(source, destination),
                ledger,
                Goal.BACK if run.last_step is Step.BEGUN else Goal.FORWARD,
                clock,
                disks_unchanged=ledger.disks_unchanged,
                ran=lambda: ledger.ran,
            )
            settled, problems = await tidy(parties, settled, source, seen)
        finally:
            await source.close()
            if seen is not None:
                await seen.close()
        if parties.source.ours and settled.final:
            # Before the end is final, either side may be the one that has the VM.
            end_orphans(parties.vm)
        outcome = _outcome(journal, run, settled, problems)
        journal.finish(run.id, outcome.to_json())
    return outcome


def _destination(run: Run, parties: Parties) -> QemuSide | SinkSide | None:
    """The other side: None where it cannot be seen from here."""
    if run.policy == REHEARSE:
        process = parties.destination.process
        return SinkSide(ProcessId.from_json(dict(process)) if process is not None else None)
    return None if parties.destination.blind else parties.destination.side(recovering=True)


def _recorded(journal: Journal, run: Run) -> tuple[Sample | Event, ...]:
    """What the dead guardian wrote down; nothing where it died before it had a sample."""
    try:
        return read_trace(journal.lines(run.id), f"run {run.id}").inputs
    except TraceError:
        return ()


def _outcome(journal: Journal, run: Run, settled: Settled, problems: list[str]) -> Outcome:
    tracker, last = PassTracker(), Sample(0.0, "none")
    for item in _recorded(journal, run):
        tracker.receive(item)
        if isinstance(item, Sample):
            last = item
    status: Status = "completed" if settled.place == "destination" else "failed"
    if not settled.final:
        status = "needs-recovery"
    found = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_at))
    what = "rehearsal" if run.policy == REHEARSE else "move"
    why = [f"the {what} begun at {found} was left half-way and has been settled", settled.why]
    return Outcome(
        run=run.id,
        vm=run.vm,
        status=status,
        vm_runs_at=settled.place,
        policy=run.policy,
        total_ms=round(1000 * last.t, 3),
        downtime_ms=None,
        bytes=last.transferred,
        resent_bytes=resent_bytes(tracker.passes),
        passes=tracker.passes,
        guest=None,
        cost=None,
        why="; ".join(why + problems),
    )
