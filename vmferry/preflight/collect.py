"""Puts the facts of one planned move together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from vmferry.fastpath.finding import Finding
from vmferry.hypervisor.qemu.qmp import QmpError
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.preflight.collect_host import read_host
from vmferry.preflight.collect_listener import is_here, listens_at
from vmferry.preflight.collect_qemu import read_qemu, with_all_features
from vmferry.preflight.facts import Audits, Facts, Qemu
from vmferry.vm.address import Destination, Local


@dataclass(frozen=True, slots=True)
class Planned:
    """A move that somebody plans. `destination` is an open session with the QEMU that would take
    the VM, or None where it cannot be seen, for the reason `unseen`. `audit` is what an audit of
    the destination's host found, where there is one."""

    vm: str
    to: Destination
    source: QemuSide
    destination: QemuSide | None = None
    unseen: str = ""
    start_problem: str = ""
    unsettled: str = ""
    audit: tuple[Finding, ...] | None = None


async def collect(planned: Planned) -> Facts:
    """Ask both sides and this host. Raises QmpError where the source does not answer."""
    reading = asyncio.create_task(_destination(planned))
    try:
        source = await read_qemu(planned.source, planned.source.process)
    finally:
        # It must not go on asking, and open a session that its owner has closed.
        destination, unseen = await reading
    side = planned.destination
    if side is not None and destination is not None and _words(source) != _words(destination):
        source = await with_all_features(planned.source, source)
        destination = await with_all_features(side, destination)
    pids = [one.process.pid if one and one.process else None for one in (source, destination)]
    here = await asyncio.to_thread(is_here, planned.to)
    listener = await asyncio.to_thread(listens_at, planned.to, here, *pids)
    same_host = _same_host(here, source, destination)
    return Facts(
        vm=planned.vm,
        to="local" if isinstance(planned.to, Local) else planned.to.uri,
        source=source,
        destination=destination,
        unseen=unseen,
        host=await asyncio.to_thread(read_host),
        local=isinstance(planned.to, Local),
        start_problem=planned.start_problem,
        listens=listener.found,
        listens_why=listener.where,
        listens_itself=listener.itself,
        unsettled=planned.unsettled,
        same_host=same_host,
        audits=None if same_host else await _audits(planned),
    )


async def _destination(planned: Planned) -> tuple[Qemu | None, str]:
    side = planned.destination
    if side is None:
        return None, planned.unseen
    try:
        return await read_qemu(side, side.process), ""
    except QmpError as error:
        return None, f"the destination does not answer: {error}"
    except Exception as error:
        return None, f"by a bug in vmferry: {type(error).__name__}: {error}"


async def _audits(planned: Planned) -> Audits | None:
    if planned.audit is None:
        return None
    from vmferry.preflight.collect_audit import audit_here

    return Audits(await audit_here(), planned.audit)


def _words(qemu: Qemu) -> frozenset[str]:
    return qemu.cpu.words if qemu.cpu is not None else frozenset()


def _same_host(here: bool, source: Qemu, destination: Qemu | None) -> bool | None:
    if not here:
        return False
    if destination is None or source.process is None or destination.process is None:
        return None
    return True
