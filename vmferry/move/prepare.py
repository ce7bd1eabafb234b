"""Before `migrate`: finds the source, makes sure that it may move, and has a destination wait."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vmferry.errors import NeedsRecoveryError, RefusedError, UsageError, VmferryError
from vmferry.host.process import ProcessId
from vmferry.host.sockets import peer_of
from vmferry.hypervisor.qemu.instance import Instance, list_instances, load_instance
from vmferry.hypervisor.qemu.launch import launch
from vmferry.hypervisor.qemu.migration import EventInbox
from vmferry.hypervisor.qemu.qmp import QmpError, QmpGone
from vmferry.hypervisor.qemu.ram_trap import trap_problem
from vmferry.hypervisor.qemu.settings import (
    NEEDED_AT_DESTINATION,
    NEEDED_AT_SOURCE,
    read_settings,
    set_capabilities,
)
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.journal import Journal, Run
from vmferry.move.parties import Parties, Party, writable_disks
from vmferry.preflight.checks.state import IDLE_MIGRATIONS, MAY_MOVE
from vmferry.vm.address import Destination, Local, QmpAddress, VmAddress
from vmferry.vm.registry import lookup
from vmferry.vm.spec import VmSpec

NOT_OURS = "was not started by vmferry, so it cannot start a second one like it"
# One of these is on the command line of each QEMU with a QMP socket, whatever its program's name.
_QEMU_WORDS = frozenset({"-qmp", "--qmp", "-qmp-pretty", "-mon", "--mon", "-readconfig"})


@dataclass(frozen=True, slots=True)
class Reached:
    """The VM where it is now, with an open session; whether it may move was not looked at."""

    name: str
    party: Party
    side: QemuSide
    instance: Instance | None


@dataclass(frozen=True, slots=True)
class Source:
    """The VM where it is now, with an open session."""

    name: str
    key: str
    party: Party
    side: QemuSide
    instance: Instance | None
    ran_before: bool
    disks: tuple[str, ...]
    # Why its guest would lose writes in a migration; empty where it would not.
    ram_trap: str = ""


@dataclass(frozen=True, slots=True)
class Destined:
    """A QEMU that waits for the VM, with an open session."""

    party: Party
    side: QemuSide


def refuse_unsettled(journal: Journal, vm: str, party: Party | None = None) -> None:
    """Raises NeedsRecoveryError where an earlier move of this VM was left half-way.

    `party` finds it under another name too, that of another socket.
    """
    left = unsettled_run(journal, vm, party)
    if left is not None:
        raise NeedsRecoveryError(
            f"run {left.id} of '{left.vm}' was left half-way; nothing was touched",
            hint="`vmferry recover` settles it",
        )


def unsettled_run(journal: Journal, vm: str, party: Party | None = None) -> Run | None:
    """The last move of this VM that was left half-way."""
    process = party.process if party is not None else None
    left = [
        run
        for run in journal.unsettled()
        if run.vm == vm or (process is not None and run.parties["source"]["process"] == process)
    ]
    return left[-1] if left else None


async def reach_source(address: VmAddress, inbox: EventInbox) -> Reached:
    """Connect to the VM. Raises UsageError or RefusedError."""
    party, instance, name = _source_party(address)
    side = party.side(recovering=False, on_event=lambda message: inbox.take("source", message))
    try:
        await side.connect()
    except QmpError as error:
        await side.close()
        raise _unreachable(name, instance, error) from None
    return Reached(name, party, side, instance)


async def open_source(address: VmAddress, inbox: EventInbox) -> Source:
    """Connect to the VM and see that it may move. Raises UsageError or RefusedError."""
    reached = await reach_source(address, inbox)
    try:
        return await _look_at_source(address, reached)
    except QmpError as error:
        await reached.side.close()
        raise _unreachable(reached.name, reached.instance, error) from None
    except VmferryError:
        await reached.side.close()
        raise


async def _look_at_source(address: VmAddress, reached: Reached) -> Source:
    name, side = reached.name, reached.side
    view = await side.look()
    if not view.answers:
        raise RefusedError(f"'{name}' does not answer on its QMP socket; nothing was touched")
    if view.migration not in IDLE_MIGRATIONS:
        raise RefusedError(
            f"a migration of '{name}' that somebody else has begun is {view.migration}; "
            "nothing was touched"
        )
    if view.runstate not in MAY_MOVE:
        raise RefusedError(
            f"'{name}' is {view.runstate}; only a VM that runs or is paused can move"
        )
    settings = (await read_settings(side)).to_json()
    return Source(
        name=name,
        key=address.key,
        party=replace(reached.party, settings=settings),
        side=side,
        instance=reached.instance,
        ran_before=view.running,
        disks=await writable_disks(side),
        ram_trap=await _ram_trap(side),
    )


def _qemu_at(path: Path) -> ProcessId | None:
    """The process of the QEMU that listens there; None where nobody does who can be told.

    Raises RefusedError where another program does: it passes on what it is told (ssh, socat), or
    has opened the socket for QEMU. What becomes of it would be taken for what becomes of the VM.
    """
    process = peer_of(path)
    other = _other_program(process)
    if process is None or not other:
        return process
    raise RefusedError(
        f"who listens at {path} is no QEMU, but process {process.pid}: {other}",
        hint="name a QMP socket of the QEMU itself, on the host where it runs",
    )


def _other_program(process: ProcessId | None) -> str:
    """The program of a process that is no QEMU; empty where it is one, or that cannot be told."""
    words = process.words() if process is not None else []
    if not words or "qemu" in Path(words[0]).name or not _QEMU_WORDS.isdisjoint(words):
        return ""
    return words[0]


def _source_party(address: VmAddress) -> tuple[Party, Instance | None, str]:
    if isinstance(address, QmpAddress):
        process = _qemu_at(address.path)
        for one in list_instances():
            if one.process == process:
                # It has one lock, and one name that passes with it.
                raise UsageError(
                    f"{address.path} belongs to '{one.vm}', which vmferry runs",
                    hint=f"name it '{one.vm}'",
                )
        identity = process.to_json() if process is not None else None
        return Party(socket=str(address.path), process=identity), None, address.key
    vm = lookup(address.name)
    folder = vm.current()
    instance = load_instance(folder) if folder is not None else None
    if instance is None or not instance.alive():
        raise UsageError(
            f"VM '{vm.name}' does not run", hint=f"`vmferry status {vm.name}` tells more"
        )
    return party_of(instance), instance, vm.name


def party_of(instance: Instance) -> Party:
    """The party that an instance of ours is."""
    return Party(instance=str(instance.folder), process=instance.process.to_json())


def _unreachable(name: str, instance: Instance | None, error: QmpError) -> VmferryError:
    said = instance.stderr() if instance is not None else ""
    message = f"'{name}' cannot be reached: {error}" + (f"; {said}" if said else "")
    return UsageError(message) if isinstance(error, QmpGone) else RefusedError(message)


async def _ram_trap(side: QemuSide) -> str:
    version = (await side.execute("query-version"))["qemu"]
    kvm = (await side.execute("query-kvm"))["enabled"]
    memory = (await side.execute("query-memory-size-summary"))["base-memory"]
    numbers = (version["major"], version["minor"], version["micro"])
    return trap_problem(memory, "kvm" if kvm else "tcg", numbers)


def refuse_unlike(source: Source, to: Destination) -> None:
    """Raises UsageError or RefusedError where a second instance like the source cannot be
    started."""
    if not isinstance(to, Local):
        return
    if source.instance is None:
        raise UsageError(
            f"'{source.name}' {NOT_OURS}",
            hint="start a QEMU with the same arguments and -incoming, and name it: --to unix:PATH",
        )
    taken = devices_taken(source.instance.spec)
    if taken:
        raise RefusedError(f"'{source.name}' cannot move: {taken}; nothing was touched")


def devices_taken(spec: VmSpec) -> str:
    """Why a second instance on this host cannot have the VM's devices; empty where it can."""
    if not spec.passthrough:
        return ""
    devices = ", ".join(device.host for device in spec.passthrough)
    return f"it has {devices} of this host, which a second instance cannot have beside it"


async def start_destination(source: Source, inbox: EventInbox) -> Destined:
    """A second instance on this host, stopped and waiting. Raises LaunchError or QmpError."""
    if source.instance is None:
        raise ValueError(f"vmferry did not start '{source.name}'")
    instance = await launch(source.instance.spec, incoming=True)
    try:
        return await _look_at_destination(party_of(instance), inbox)
    except BaseException:
        instance.process.kill()
        instance.process.wait_dead(1.0)
        instance.remove()
        raise


async def open_waiting(to_qmp: Path, source: Source, inbox: EventInbox) -> Destined:
    """A QEMU of somebody else that waits, not changed yet. Raises UsageError or RefusedError."""
    party = waiting_party(to_qmp, source.side)
    try:
        return await _look_at_destination(party, inbox)
    except QmpError as error:
        raise RefusedError(f"the destination cannot be reached: {error}") from None


def waiting_party(to_qmp: Path, source: QemuSide) -> Party:
    """The QEMU at that socket, as a destination. Raises UsageError or RefusedError."""
    return _party_at(to_qmp, _qemu_at(to_qmp), source)


def seen_party(to_qmp: Path, source: QemuSide) -> Party:
    """The same for a look alone, by a socket that may be another host's, passed on by ssh or socat:
    what becomes of QEMU's process is then not to be seen. Raises UsageError."""
    process = peer_of(to_qmp)
    party = _party_at(to_qmp, process, source)
    return replace(party, process=None) if _other_program(process) else party


def _party_at(to_qmp: Path, process: ProcessId | None, source: QemuSide) -> Party:
    if process is None:
        raise UsageError(f"--to-qmp: nobody answers at {to_qmp}")
    if process == source.process:
        raise UsageError(f"--to-qmp names the VM itself: {to_qmp}")
    return Party(socket=str(to_qmp), process=process.to_json())


async def _look_at_destination(party: Party, inbox: EventInbox) -> Destined:
    side = party.side(recovering=False, on_event=lambda message: inbox.take("destination", message))
    try:
        await side.connect()
        view = await side.look()
        if view.runstate != "inmigrate":
            raise RefusedError(
                f"the destination at {side.path} does not wait for a VM: it is "
                f"{view.runstate or 'silent'}",
                hint="start it with -incoming",
            )
        settings = await read_settings(side)
    except BaseException:
        await side.close()
        raise
    return Destined(replace(party, settings=settings.to_json()), side)


async def make_ready(side: QemuSide) -> None:
    """Set what a destination needs. Raises QmpError."""
    # While it waits this only has the effect of -S: it must not start by itself.
    await side.execute("stop")
    await set_capabilities(side, await read_settings(side), NEEDED_AT_DESTINATION)


async def set_up(
    parties: Parties, source: Source, destination: QemuSide | None, to: Destination
) -> None:
    """Set what the move rests on, and have a destination of ours listen. Raises QmpError."""
    await set_capabilities(source.side, await read_settings(source.side), NEEDED_AT_SOURCE)
    if isinstance(to, Local) and destination is not None:
        arguments: dict[str, Any] = {"uri": parties.uri}
        await destination.execute("migrate-incoming", arguments)
