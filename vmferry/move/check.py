"""The preflight of one move: for `vmferry check`, and for `migrate` before it changes a setting.

For `vmferry check VM --to local` a second instance is started as the move would start it, looked
at, and ended again. A move looks at the very instance that is to take the VM.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from vmferry.errors import RefusedError, UsageError
from vmferry.fastpath.finding import Finding as Audited
from vmferry.hypervisor.qemu.instance import Instance
from vmferry.hypervisor.qemu.launch import LaunchError, launch
from vmferry.hypervisor.qemu.migration import EventInbox
from vmferry.hypervisor.qemu.orphans import end_orphans
from vmferry.hypervisor.qemu.qmp import QmpError
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.journal import Journal
from vmferry.move.prepare import (
    NOT_OURS,
    devices_taken,
    party_of,
    reach_source,
    seen_party,
    unsettled_run,
)
from vmferry.preflight.collect import Planned, collect
from vmferry.preflight.finding import Finding
from vmferry.preflight.registry import Preflight, run_checks
from vmferry.vm.address import Destination, Local, parse_destination, parse_vm
from vmferry.vm.lock import MoveLock

UNSEEN = "the destination cannot be seen without --to-qmp, the QMP socket of the QEMU there"
_END_SECONDS = 10.0


class BlockedError(RefusedError):
    """Conditions forbid the move; the message names all of them."""


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What `vmferry check` asks for."""

    vm: str
    to: str
    to_qmp: str | None = None
    to_audit: str | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """A destination that can be asked, or why there is none; and the audit of its host."""

    side: QemuSide | None = None
    unseen: str = ""
    start_problem: str = ""
    audit: tuple[Audited, ...] | None = None


async def read_to_audit(to_audit: str | None) -> tuple[Audited, ...] | None:
    """What `--to-audit` names, where it is given. Raises UsageError."""
    if to_audit is None:
        return None
    from vmferry.preflight.collect_audit import read_audit

    return await asyncio.to_thread(read_audit, Path(to_audit))


async def check(request: CheckRequest, journal: Journal) -> Preflight:
    """Every reason against a move, and nothing changed. Raises VmferryError."""
    address, to = parse_vm(request.vm), parse_destination(request.to)
    audit = await read_to_audit(request.to_audit)
    # A move at the same time would take our look for somebody else, and we its destination.
    with MoveLock.acquire(address.key, "check"):
        source = await reach_source(address, EventInbox())
        try:
            unsettled = unsettled_run(journal, address.key, source.party)
            if request.to_qmp is not None:
                seen = _waiting(Path(request.to_qmp), source.side)
            elif unsettled is not None and isinstance(to, Local):
                seen = _nobody(_Seen(unseen="an earlier move has to be settled first"))
            else:
                seen = _destination(source.instance, to)
            async with seen as destination:
                last = unsettled.id if unsettled is not None else ""
                seen_there = replace(destination, audit=audit)
                return await _preflight(source.name, source.side, to, seen_there, last)
        finally:
            await source.side.close()


async def check_before(
    vm: str,
    source: QemuSide,
    to: Destination,
    destination: QemuSide | None,
    audit: tuple[Audited, ...] | None,
) -> Preflight:
    """The same for a move whose sides are open, and whose VM no earlier move has left half-way.

    Raises RefusedError.
    """
    return await _preflight(vm, source, to, _Seen(destination, UNSEEN, audit=audit), "")


def refuse_blocked(preflight: Preflight, forced: Iterable[str]) -> None:
    """Raises BlockedError with every blocker that is not forced."""
    blockers = preflight.blockers(forced)
    if not blockers:
        return
    listed = "".join(f"\n  {one.name}: {one.answer.what}{_remedy(one)}" for one in blockers)
    forceable = " ".join(f"--force {one.name}" for one in blockers if one.forceable)
    count = "1 condition forbids" if len(blockers) == 1 else f"{len(blockers)} conditions forbid"
    raise BlockedError(
        f"{count} to move '{preflight.vm}'; nothing was touched:{listed}",
        hint="`vmferry check` tells more"
        + (f"; at your own risk: {forceable}" if forceable else ""),
    )


def _remedy(finding: Finding) -> str:
    return f"; {finding.answer.remedy}" if finding.answer.remedy else ""


async def _preflight(
    vm: str, source: QemuSide, to: Destination, seen: _Seen, unsettled: str
) -> Preflight:
    planned = Planned(
        vm, to, source, seen.side, seen.unseen, seen.start_problem, unsettled, seen.audit
    )
    try:
        return run_checks(await collect(planned))
    except QmpError as error:
        raise RefusedError(f"'{vm}' does not answer: {error}; nothing was touched") from None


@contextlib.asynccontextmanager
async def _nobody(seen: _Seen) -> AsyncIterator[_Seen]:
    yield seen


@contextlib.asynccontextmanager
async def _waiting(path: Path, source: QemuSide) -> AsyncIterator[_Seen]:
    """A QEMU that somebody else has made wait. Raises UsageError."""
    side = seen_party(path, source).side(recovering=False)
    try:
        await side.connect()
        yield _Seen(side)
    except QmpError as error:
        raise RefusedError(f"the destination cannot be reached: {error}") from None
    finally:
        await side.close()


@contextlib.asynccontextmanager
async def _destination(instance: Instance | None, to: Destination) -> AsyncIterator[_Seen]:
    if not isinstance(to, Local):
        yield _Seen(unseen=UNSEEN)
        return
    if instance is None:
        yield _Seen(unseen=f"the VM {NOT_OURS}", start_problem=f"the VM {NOT_OURS}")
        return
    if taken := devices_taken(instance.spec):
        yield _Seen(unseen="a second instance is not started", start_problem=taken)
        return
    end_orphans(instance.vm)
    try:
        second = await launch(instance.spec, incoming=True)
    except UsageError as error:
        why = error.message if isinstance(error, LaunchError) else str(error)
        yield _Seen(unseen="a second instance does not start", start_problem=why)
        return
    side = party_of(second).side(recovering=False)
    try:
        await side.connect()
        yield _Seen(side)
    except QmpError as error:
        raise RefusedError(f"a second instance cannot be reached: {error}") from None
    finally:
        try:
            await side.close()
        finally:
            second.process.kill()
            second.process.wait_dead(_END_SECONDS)
            second.remove()
