"""One rehearsal from beginning to end: a sink, QEMU's own pre-copy into it, cancelled, tidied up.

It is a controller run whose other side is our sink and whose policy is `rehearse`; what is left to
do at its end is what is done for a move that is undone (settle.py), so `recover` can do it too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from vmferry import __version__
from vmferry.controller import Controller, Ending
from vmferry.errors import RefusedError, VmferryError
from vmferry.handover import Goal, Settled
from vmferry.hypervisor.base import SideError
from vmferry.hypervisor.qemu.migration import EventInbox, QemuMigration
from vmferry.hypervisor.qemu.qmp import QmpError
from vmferry.hypervisor.qemu.settings import Settings, set_for_rehearsal
from vmferry.journal import Journal, JournalError
from vmferry.move.account import Account
from vmferry.move.cost import CostMeter
from vmferry.move.guest import GuestWatch
from vmferry.move.known import setting_of
from vmferry.move.parties import Parties, Party, RunLedger, tidy
from vmferry.move.prepare import Source, open_source, refuse_unsettled
from vmferry.move.recorder import Recorder
from vmferry.move.run import InboxClock
from vmferry.policy.base import Input
from vmferry.policy.rehearse import Rehearse
from vmferry.precopy.foresight import Foresight
from vmferry.precopy.outcome import Outcome
from vmferry.precopy.sample import Sample
from vmferry.precopy.trace import Trace
from vmferry.rehearsal.findings import Findings, foretold, stopped_by_others, verdict_of
from vmferry.rehearsal.learnt import Learnt, learn, slowdown_of
from vmferry.rehearsal.marks import Marks
from vmferry.rehearsal.request import RehearsalRequest
from vmferry.rehearsal.sink_process import SinkDied, SinkProcess, SinkSide
from vmferry.settle import Sides, settle
from vmferry.vm.address import parse_vm
from vmferry.vm.lock import MoveLock

POLICY = "rehearse"
# One name, so that a copy that QEMU was left with is replaced by the next one.
_DESCRIPTOR = "vmferry-rehearsal"
# A moment for QEMU to say why a connection broke, and for its last event.
_NOTICE_SECONDS = 0.5

Tell = Callable[[str], None]


@dataclass
class _Work:
    """What the stages of one rehearsal hand on to each other."""

    source: Source
    parties: Parties
    policy: Rehearse
    recorder: Recorder
    cost: CostMeter
    guest: GuestWatch
    marks: Marks
    sink: SinkProcess | None = None
    migration: QemuMigration | None = None
    never_stops: bool = False
    # If the VM stopped, it was not QEMU for its switchover.
    paused: bool = False

    def hear(self, item: Input) -> None:
        self.recorder.hear(item)
        self.guest.poll()
        if isinstance(item, Sample) and self.sink is not None:
            for sent_pages in self.marks.new(self.recorder.tracker):
                self.sink.mark(sent_pages)

    def now(self) -> float:
        return round(self.migration.now(), 6) if self.migration is not None else 0.0

    def stage(self, name: str) -> None:
        self.recorder.line({"t": self.now(), "stage": name})


class RehearsalRun:
    """One rehearsal. `cancel` may be called at any time."""

    def __init__(self, request: RehearsalRequest, journal: Journal, tell: Tell) -> None:
        self._request = request
        self._journal = journal
        self._tell = tell
        self._inbox = EventInbox()
        self._controller: Controller | None = None
        self._cancelled: str | None = None

    def cancel(self, why: str) -> None:
        self._cancelled = self._cancelled or why
        if self._controller is not None:
            self._controller.cancel(why)

    async def run(self) -> Outcome:
        """The outcome, which is in the journal too; what was found is told before it.

        Raises VmferryError where it is refused before anything has been changed; after that what
        goes wrong is an outcome.
        """
        address = parse_vm(self._request.vm)
        with MoveLock.acquire(address.key, POLICY):
            refuse_unsettled(self._journal, address.key)
            source = await open_source(address, self._inbox)
            try:
                refuse_unsettled(self._journal, address.key, source.party)
                if not source.ran_before:
                    raise RefusedError(
                        f"'{source.name}' is paused: nothing would be dirtied",
                        hint="rehearse it while it works",
                    )
                return await self._run(source)
            finally:
                await source.side.close()

    async def _run(self, source: Source) -> Outcome:
        request = self._request
        parties = Parties(vm=source.key, uri="", source=source.party, destination=Party())
        limits = request.to_json()["rehearse"]["limits"]
        run = self._journal.begin(source.key, POLICY, limits, parties.to_json())
        self._tell(json.dumps({"run": run}))
        if source.ram_trap:
            self._say(f"the figures will be too low: {source.ram_trap}")
        cost = CostMeter(source.side.process)
        foresight = Foresight(setting_of(request.limits))
        # A rehearsal has to be cancelled in time, so nothing is foretold while it runs.
        recorder = Recorder(self._journal, run, foresight, cost, self._tell, foretells=False)
        policy = Rehearse(request.limits, request.seconds)
        guest = GuestWatch(recorder.line)
        work = _Work(source, parties, policy, recorder, cost, guest, Marks())
        recorder.line({"vmferry": _header(run, request)})
        try:
            return await self._carry_out(run, work)
        finally:
            guest.stop()
            if work.sink is not None:
                await work.sink.finish()

    async def _carry_out(self, run: str, work: _Work) -> Outcome:
        try:
            migration = await self._prepare(run, work)
            ending = await self._rehearse(work, migration)
        except (VmferryError, QmpError, SinkDied) as error:
            ending = Ending("lost", why=str(error))
        settled = await self._undo(run, work)
        stream_end = await work.sink.finish() if work.sink is not None else None
        settled, problems = await tidy(work.parties, settled, work.source.side, None)
        await self._forget_descriptor(work)
        await work.guest.finish(settled.place)
        verdict = verdict_of(work.policy, ending, stream_end, work.paused)
        slowdown = slowdown_of(work.guest.work().loss_percent, work.cost.run_delay_percent())
        xray = stream_end.xray if stream_end is not None else None
        learnt = self._learn(work.recorder.trace, xray, slowdown)
        if work.policy.undecided:
            verdict = foretold(verdict, learnt.forecasts)
        if work.recorder.verdict != verdict.answer:
            # It was judged by more than this forecast: do not have both of them tell.
            work.recorder.verdict = None
        account = Account(run, POLICY, work.parties, verdict.ending, settled)
        problems += work.guest.problems
        outcome = account.outcome(work.recorder, work.cost, work.guest, problems, "")
        findings = Findings(
            self._request, work.source, work.never_stops, verdict, outcome, stream_end, learnt
        )
        for kind, value in findings.lines().items():
            work.recorder.line({"t": work.now(), kind: value})
        work.stage("done")
        work.recorder.flush()
        try:
            self._journal.finish(run, outcome.to_json())
        except JournalError as error:
            self._say(f"the outcome could not be recorded: {error.message}")
        return outcome

    def _learn(self, trace: Trace, xray: Mapping[str, Any] | None, slowdown: float) -> Learnt:
        """What it teaches. Whatever is wrong with that, the rehearsal is settled, and told so."""
        try:
            return learn(trace, xray, slowdown)
        except Exception as error:
            self._say(f"nothing could be learnt, by a bug: {type(error).__name__}: {error}")
            return Learnt(slowdown)

    def _say(self, message: str) -> None:
        self._tell(json.dumps({"message": message}))

    async def _prepare(self, run: str, work: _Work) -> QemuMigration:
        work.stage("prepare")
        source = work.source
        if source.instance is not None and source.instance.spec.is_testguest:
            work.guest.follow("source", source.instance.files)
        work.sink, channel = await SinkProcess.start()
        with channel:
            assert work.sink.process is not None
            party = Party(process=work.sink.process.to_json())
            work.parties = replace(work.parties, destination=party)
            self._journal.set_parties(run, work.parties.to_json())
            await work.guest.baseline()
            settings = Settings.from_json(source.party.settings or {})
            work.never_stops = await set_for_rehearsal(source.side, settings)
            await source.side.pass_descriptor(_DESCRIPTOR, channel.fileno())
        return QemuMigration(source.side, f"fd:{_DESCRIPTOR}", self._inbox)

    async def _rehearse(self, work: _Work, migration: QemuMigration) -> Ending:
        if self._cancelled is not None:
            return Ending("cancelled", why=self._cancelled)
        work.stage("setup")
        work.migration = migration
        work.cost.begin()
        work.guest.begin()
        self._controller = Controller(migration, work.policy, work.hear)
        try:
            ending = await self._controller.run()
            # At once: what is looked at first takes a moment in which QEMU would go on.
            with contextlib.suppress(SideError):
                await work.source.side.cancel()
                runstate = (await work.source.side.look()).runstate
                work.paused = stopped_by_others(runstate, work.never_stops)
            return ending
        finally:
            work.recorder.judge(anew=True)
            await migration.close()

    async def _undo(self, run: str, work: _Work) -> Settled:
        work.stage("undo")

        def hear() -> None:
            if work.migration is not None:
                for event in work.migration.drain():
                    work.hear(event)

        ledger = RunLedger(self._journal, run, work.parties)
        settled = await settle(
            Sides(work.source.side, work.sink or SinkSide(None)),
            ledger,
            Goal.BACK,
            InboxClock(self._inbox, hear),
            hurried=lambda: self._cancelled is not None,
        )
        hear()
        return settled

    async def _forget_descriptor(self, work: _Work) -> None:
        """QEMU has used it up, unless something went wrong between the two commands."""
        with contextlib.suppress(QmpError):
            await work.source.side.execute("closefd", {"fdname": _DESCRIPTOR})


def _header(run: str, request: RehearsalRequest) -> dict[str, Any]:
    return {
        "format": 1,
        "run": run,
        "vm": request.vm,
        "policy": POLICY,
        "seconds": request.seconds,
        "limits": request.to_json()["rehearse"]["limits"],
        "versions": {"vmferry": __version__},
        "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
