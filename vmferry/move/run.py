"""One move from beginning to end: prepare, migrate, hand over, put in order, tell the outcome."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vmferry import __version__
from vmferry.controller import Controller, Ending
from vmferry.errors import VmferryError
from vmferry.fastpath.finding import Finding as Audited
from vmferry.handover import Goal, Move, Settled
from vmferry.host.standard_error import StandardError
from vmferry.hypervisor.base import Process
from vmferry.hypervisor.qemu.instance import InstanceFiles
from vmferry.hypervisor.qemu.migration import EventInbox, QemuMigration
from vmferry.hypervisor.qemu.qmp import QmpError
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.journal import Journal, JournalError
from vmferry.move.account import Account
from vmferry.move.check import BlockedError, check_before, read_to_audit, refuse_blocked
from vmferry.move.cost import CostMeter
from vmferry.move.guest import GuestWatch
from vmferry.move.known import known_of, setting_of
from vmferry.move.parties import Parties, Party, RunLedger, tidy
from vmferry.move.prepare import (
    Destined,
    Source,
    make_ready,
    open_source,
    open_waiting,
    refuse_unlike,
    refuse_unsettled,
    set_up,
    start_destination,
)
from vmferry.move.recorder import Recorder
from vmferry.move.running import Running
from vmferry.policy.base import Input, Limits
from vmferry.policy.fixed import Fixed
from vmferry.precopy.foresight import Foresight, Known
from vmferry.precopy.outcome import Outcome
from vmferry.precopy.sample import Event
from vmferry.preflight.finding import Verdict
from vmferry.settle import Sides, settle
from vmferry.vm.address import Destination, Local, parse_destination, parse_vm
from vmferry.vm.lock import MoveLock

# A source whose connection breaks tells more of it, so it has this long to do so.
_NOTICE_SECONDS = 0.5
_DIED = "the destination ended during the move"

BLIND = (
    "the destination cannot be seen, as there is no --to-qmp: what becomes of the VM there is "
    "known from the source alone, and a QEMU that was started with -S stays stopped there"
)

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What the command asks for."""

    vm: str
    to: str
    limits: Limits
    to_qmp: str | None = None
    to_audit: str | None = None
    policy: str = "fixed"
    pin_apart: bool = False
    verify: bool = False
    # Names of preflight checks that may say no.
    force: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Request:
        given = {"limits": Limits(**data["limits"]), "force": tuple(data["force"])}
        return cls(**{**data, **given})


class InboxClock:
    """Time for `settle`: it wakes when either side says something, which is heard at once."""

    def __init__(self, inbox: EventInbox, hear: Callable[[], None]) -> None:
        self._inbox = inbox
        self._hear = hear

    def now(self) -> float:
        return time.monotonic()

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._inbox.arrived.wait()
        self._inbox.arrived.clear()
        self._hear()


@dataclass
class _Work:
    """What the stages of one move hand on to each other."""

    source: Source
    to: Destination
    parties: Parties
    recorder: Recorder
    cost: CostMeter
    guest: GuestWatch
    running: Running
    destination: QemuSide | None = None
    complaints: StandardError | None = None
    migration: QemuMigration | None = None

    def hear(self, item: Input) -> None:
        self.recorder.hear(item)
        if isinstance(item, Event):
            self.running.receive(item)
        self.guest.poll()

    def stage(self, name: str) -> None:
        t = self.migration.now() if self.migration is not None else 0.0
        self.recorder.line({"t": round(t, 6), "stage": name})


class MoveRun:
    """One move. `cancel` may be called at any time; a switchover that has begun is finished."""

    def __init__(self, request: Request, journal: Journal, tell: Tell) -> None:
        self._request = request
        self._journal = journal
        self._tell = tell
        self._inbox = EventInbox()
        self._audit: tuple[Audited, ...] | None = None
        self._controller: Controller | None = None
        self._cancelled: str | None = None

    def cancel(self, why: str) -> None:
        self._cancelled = self._cancelled or why
        if self._controller is not None:
            self._controller.cancel(why)

    async def run(self) -> Outcome:
        """The outcome, which is in the journal too.

        Raises VmferryError where the move is refused before anything has been changed; after that
        what goes wrong is an outcome.
        """
        request = self._request
        address, to = parse_vm(request.vm), parse_destination(request.to)
        self._audit = await read_to_audit(request.to_audit)
        with MoveLock.acquire(address.key, "migrate"):
            refuse_unsettled(self._journal, address.key)
            source = await open_source(address, self._inbox)
            waiting = None
            try:
                refuse_unsettled(self._journal, address.key, source.party)
                refuse_unlike(source, to)
                if request.to_qmp is not None:
                    waiting = await open_waiting(Path(request.to_qmp), source, self._inbox)
                if not isinstance(to, Local):
                    await self._check(source, to, waiting.side if waiting is not None else None)
                return await self._run(source, to, waiting)
            finally:
                await source.side.close()
                if waiting is not None:
                    await waiting.side.close()

    async def _check(self, source: Source, to: Destination, destination: QemuSide | None) -> None:
        """Raises BlockedError where a condition forbids the move and was not forced."""
        preflight = await check_before(source.name, source.side, to, destination, self._audit)
        refuse_blocked(preflight, self._request.force)
        for finding in preflight.of(Verdict.BLOCKER):
            self._say(f"{finding.name} was forced: {finding.answer.what}")
        for finding in preflight.of(Verdict.WARNING):
            self._say(f"{finding.name}: {finding.answer.what}")

    async def _run(self, source: Source, to: Destination, waiting: Destined | None) -> Outcome:
        request = self._request
        parties = Parties(
            vm=source.key,
            uri="" if isinstance(to, Local) else to.uri,
            source=source.party,
            destination=Party() if waiting is None else waiting.party,
            ran_before=source.ran_before,
            disks=source.disks,
        )
        limits = asdict(request.limits)
        setting = setting_of(request.limits)
        try:
            known = known_of(self._journal, source.key, to, setting)
        except Exception as error:
            known = Known()
            self._say(f"nothing can be foretold, by a bug: {type(error).__name__}: {error}")
        run = self._journal.begin(source.key, request.policy, limits, parties.to_json())
        self._tell(json.dumps({"run": run}))
        cost = CostMeter(source.side.process, request.pin_apart)
        foresight = Foresight(setting, known, time.time())
        recorder = Recorder(self._journal, run, foresight, cost, self._tell)
        guest = GuestWatch(recorder.line)
        work = _Work(source, to, parties, recorder, cost, guest, Running(source.ran_before))
        if waiting is not None:
            work.destination = waiting.side
            work.complaints = StandardError(waiting.side.process)
        recorder.line(_header(run, request))
        recorder.foretell()
        try:
            return await self._carry_out(run, work)
        finally:
            guest.stop()
            if work.destination is not None:
                await work.destination.close()

    async def _carry_out(self, run: str, work: _Work) -> Outcome:
        try:
            migration = await self._prepare(run, work)
            ending = await self._migrate(work, migration)
        except BlockedError as error:
            ending = Ending("refused", why=_with_hint(error))
        except (VmferryError, QmpError) as error:
            ending = Ending("lost", why=_with_hint(error))
        settled = await self._hand_over(run, work, ending)
        if work.running.ran != work.parties.ran_before:
            did = "resumed" if work.running.ran else "stopped"
            self._say(f"the VM was {did} by somebody else while it moved, and is left so")
        complaint = _complaint(work)
        settled, problems = await tidy(work.parties, settled, work.source.side, work.destination)
        await work.guest.finish(settled.place)
        if self._request.verify:
            await work.guest.verify(settled.place, runs=work.running.ran)
        settled = await _as_it_is_now(work, settled)
        account = Account(run, self._request.policy, work.parties, ending, settled)
        problems += work.guest.problems
        outcome = account.outcome(work.recorder, work.cost, work.guest, problems, complaint)
        work.stage("done")
        work.recorder.flush()
        try:
            self._journal.finish(run, outcome.to_json())
        except JournalError as error:
            self._say(f"the outcome could not be recorded: {error.message}")
        return outcome

    def _say(self, message: str) -> None:
        self._tell(json.dumps({"message": message}))

    async def _prepare(self, run: str, work: _Work) -> QemuMigration:
        work.stage("prepare")
        source = work.source
        if source.instance is not None and source.instance.spec.is_testguest:
            work.guest.follow("source", source.instance.files)
        if isinstance(work.to, Local):
            started = await start_destination(source, self._inbox)
            party, work.destination = started.party, started.side
            files = InstanceFiles(Path(party.instance or ""))
            if source.instance is not None and source.instance.spec.is_testguest:
                work.guest.follow("destination", files)
            uri = f"unix:{files.folder / 'migration.sock'}"
            work.parties = replace(work.parties, destination=party, uri=uri)
            self._journal.set_parties(run, work.parties.to_json())
            await self._check(source, work.to, work.destination)
        if work.destination is None:
            self._say(BLIND)
        else:
            await make_ready(work.destination)
        await set_up(work.parties, source, work.destination, work.to)
        await work.guest.baseline()
        return QemuMigration(source.side, work.parties.uri, self._inbox)

    async def _migrate(self, work: _Work, migration: QemuMigration) -> Ending:
        if self._cancelled is not None:
            return Ending("cancelled", why=self._cancelled)
        work.stage("setup")
        work.migration = migration
        work.cost.begin()
        if self._request.pin_apart:
            self._say(work.cost.pinning())
        work.guest.begin()
        self._controller = Controller(migration, Fixed(self._request.limits), work.hear)
        mourning = asyncio.create_task(_mourn(work.destination, self._controller))
        try:
            ending = await self._controller.run()
            return Ending("lost", why=_DIED) if mourning.done() else ending
        finally:
            mourning.cancel()
            work.recorder.judge()
            await migration.close()

    async def _hand_over(self, run: str, work: _Work, ending: Ending) -> Settled:
        forward = ending.kind == "ready" or ending.status == "completed"
        work.stage("switchover" if forward else "undo")

        def hear() -> None:
            if work.migration is not None:
                for event in work.migration.drain():
                    work.hear(event)

        async def before(move: Move) -> None:
            hear()
            work.stage(move.value)
            if move is Move.RECORD_INTENT:
                ledger.ran = work.running.ran
                standing = work.migration.looked_at() if work.migration is not None else None
                if standing is not None:
                    work.hear(standing)
            if move is Move.QUIT_SOURCE and work.migration is not None:
                await _take_final_figures(work, work.migration)

        ledger = RunLedger(self._journal, run, work.parties)
        settled = await settle(
            Sides(work.source.side, work.destination),
            ledger,
            Goal.FORWARD if forward else Goal.BACK,
            InboxClock(self._inbox, hear),
            disks_unchanged=ledger.disks_unchanged,
            ran=lambda: work.running.ran,
            before=before,
            hurried=lambda: self._cancelled is not None,
        )
        hear()
        if settled.place == "source" and work.migration is not None:
            await _take_final_figures(work, work.migration)
        return settled


async def _mourn(destination: QemuSide | None, controller: Controller) -> None:
    """End the passes of a move whose destination has died, where the source does not notice: what
    lies between them may keep its connection open."""
    dead = False
    while not dead:
        dead = destination is not None and destination.alive() is Process.DEAD
        await asyncio.sleep(_NOTICE_SECONDS)
    controller.cancel(_DIED)


async def _as_it_is_now(work: _Work, settled: Settled) -> Settled:
    """What was settled, unless the VM has ended since: then it is nowhere."""
    at = {"source": work.source.side, "destination": work.destination}.get(settled.place)
    if at is None or not (await at.look()).dead:
        return settled
    return Settled("nowhere", f"the VM was at the {settled.place} and has ended since")


async def _take_final_figures(work: _Work, migration: QemuMigration) -> None:
    sample = await migration.final_sample()
    if sample is not None:
        work.hear(sample)


def _header(run: str, request: Request) -> dict[str, Any]:
    return {
        "vmferry": {
            "format": 1,
            "run": run,
            "vm": request.vm,
            "to": request.to,
            "limits": asdict(request.limits),
            "policy": request.policy,
            "versions": {"vmferry": __version__},
            "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
    }


def _complaint(work: _Work) -> str:
    """What the destination's QEMU itself said; it says it nowhere but on its standard error."""
    instance = work.parties.destination.loaded()
    if instance is not None:
        return instance.stderr()
    return work.complaints.said() if work.complaints is not None else ""


def _with_hint(error: Exception) -> str:
    hint = error.hint if isinstance(error, VmferryError) else None
    return f"{error} ({hint})" if hint else str(error)
