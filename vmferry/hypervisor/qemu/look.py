"""One look at a VM from outside, for `ls` and `status`: it changes nothing and never waits long."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vmferry.host.process import boot_id
from vmferry.host.sockets import peer_of
from vmferry.hypervisor.qemu.instance import Instance, list_instances
from vmferry.hypervisor.qemu.lifecycle import current_instance, lost_process
from vmferry.hypervisor.qemu.qmp import Qmp, QmpError, session
from vmferry.vm.lock import Holder, lock_holder
from vmferry.vm.registry import Vm, list_vms

LOOK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen. Sizes in bytes, uptime in seconds; None is "cannot be told".

    `state` is QEMU's run state; or `stopped` (QEMU ended in order), `crashed`, `silent` (QEMU
    lives and does not answer), `starting`, or `damaged` (what is recorded of it is not whole).
    """

    name: str
    state: str
    why: str | None = None
    pid: int | None = None
    instance: str | None = None
    folder: str | None = None
    memory: int | None = None
    resident: int | None = None
    vcpus: int | None = None
    uptime: float | None = None
    accelerator: str | None = None
    machine: str | None = None
    qemu: str | None = None
    migration: str | None = None
    busy: str | None = None

    def to_json(self) -> dict[str, Any]:
        """`{"event": "vm", "format": 1, …}`."""
        return {"event": "vm", "format": 1, **asdict(self)}


async def look_at(vm: Vm) -> Look:
    """A VM that vmferry runs. Never raises: what cannot be seen is part of the answer."""
    try:
        instance = current_instance(vm)
        holder = lock_holder(vm.name)
        if instance is None:
            return Look(vm.name, *_without_instance(vm, holder))
    except Exception as error:
        return Look(vm.name, "damaged", str(error))
    busy = None if holder is None else f"{holder.purpose} by process {holder.process.pid}"
    state, why, migration = await _state(instance)
    alive = instance.alive()
    spec = instance.spec
    return Look(
        name=vm.name,
        state=state,
        why=why,
        pid=instance.process.pid if alive else None,
        instance=instance.id,
        folder=str(instance.folder),
        memory=spec.memory.size,
        resident=instance.process.resident_bytes() if alive else None,
        vcpus=spec.cpu.count,
        uptime=instance.process.age() if alive else None,
        accelerator=spec.qemu.accelerator,
        machine=spec.qemu.machine,
        qemu=".".join(str(part) for part in instance.version),
        migration=migration,
        busy=busy,
    )


async def look_at_all() -> list[Look]:
    """Every VM that vmferry runs, by name; one that is just being started too."""
    names = {vm.name for vm in list_vms()} | {instance.vm for instance in list_instances()}
    return list(await asyncio.gather(*(look_at(Vm(name)) for name in sorted(names))))


async def look_at_socket(path: Path) -> Look:
    """A QEMU of somebody else, by its QMP socket. Raises QmpError."""
    async with session(path, LOOK_SECONDS) as qmp:
        name = (await qmp.execute("query-name")).get("name")
        version = (await qmp.execute("query-version"))["qemu"]
        state, migration = await _ask(qmp)
        memory = await qmp.execute("query-memory-size-summary")
        vcpus = await qmp.execute("query-cpus-fast")
        kvm = await qmp.execute("query-kvm")
    process = peer_of(path)
    return Look(
        name=name or f"qmp:{path}",
        state=state,
        pid=None if process is None else process.pid,
        memory=memory["base-memory"] + memory.get("plugged-memory", 0),
        resident=None if process is None else process.resident_bytes(),
        vcpus=len(vcpus),
        uptime=None if process is None else process.age(),
        accelerator="kvm" if kvm["enabled"] else None,
        qemu=f"{version['major']}.{version['minor']}.{version['micro']}",
        migration=migration,
    )


async def _state(instance: Instance) -> tuple[str, str | None, str | None]:
    """State, why, and the state of a migration."""
    if instance.alive():
        try:
            async with session(instance.files.observer_socket, LOOK_SECONDS) as qmp:
                state, migration = await _ask(qmp)
                return state, None, migration
        except QmpError as error:
            if instance.alive():
                return "silent", str(error), None
    if instance.process.boot != boot_id():
        return "crashed", "the host was started anew", None
    if instance.ended_by_itself():
        return "stopped", None, None
    last = instance.stderr().rpartition("\n")[2]
    return "crashed", last or "killed, without a word on its standard error", None


async def _ask(qmp: Qmp) -> tuple[str, str | None]:
    status = await qmp.execute("query-status")
    migration = await qmp.execute("query-migrate")
    return str(status["status"]), migration.get("status")


def _without_instance(vm: Vm, holder: Holder | None) -> tuple[str, str]:
    if holder is not None:
        return "starting", f"{holder.purpose} by process {holder.process.pid}"
    if any(instance.vm == vm.name and instance.alive() for instance in list_instances()):
        return "damaged", f"its start was not finished; `vmferry stop {vm.name}` ends it"
    if vm.current() is None:
        return "damaged", "it has no instance"
    lost = lost_process(vm)
    if lost is not None:
        why = f"process {lost.pid} runs, but its folder has gone"
        return "silent", f"{why}; `vmferry stop {vm.name} --force` ends it"
    return "crashed", "the record of its instance has gone; the host may have been started anew"
