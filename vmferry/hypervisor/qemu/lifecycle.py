"""Starts and stops a VM: its instance, its record and its name together."""

from __future__ import annotations

import asyncio
import contextlib

from vmferry.errors import NeedsRecoveryError, UsageError, VmferryError
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.instance import Instance, list_instances, load_instance, read_tail
from vmferry.hypervisor.qemu.launch import LaunchError, launch
from vmferry.hypervisor.qemu.networks import release_bridges
from vmferry.hypervisor.qemu.orphans import process_in
from vmferry.hypervisor.qemu.qmp import QmpError, session
from vmferry.vm.lock import MoveLock
from vmferry.vm.registry import DamagedError, Vm, create, lookup
from vmferry.vm.spec import VmSpec

READY_SECONDS = 180.0
POWERDOWN_SECONDS = 60.0
_QUIT_SECONDS = 10.0
_POLL_SECONDS = 0.05


class StillRunsError(VmferryError):
    """The guest did not shut down; the VM runs on."""

    exit_status = 5


async def start_vm(spec: VmSpec) -> Instance:
    """Start a VM under its name and return when it runs: a test guest, when its writer does.

    Otherwise nothing is left behind. Raises UsageError where the name is in use, LaunchError with
    QEMU's own words, RefusedError while somebody else starts, stops or moves it.
    """
    with MoveLock.acquire(spec.name, "run"):
        old = _instances_of(spec.name)
        for instance in old:
            if instance.alive():
                raise UsageError(
                    f"VM '{spec.name}' already runs (process {instance.process.pid})",
                    hint=f"`vmferry stop {spec.name}` ends it; or give the new one another name",
                )
        lost = lost_process(Vm(spec.name))
        if lost is not None:
            raise UsageError(
                f"VM '{spec.name}' already runs (process {lost.pid}), but its folder has gone",
                hint=f"`vmferry stop {spec.name} --force` ends it",
            )
        started = await launch(spec)
        vm = Vm(spec.name)
        try:
            if spec.is_testguest:
                await _wait_until_ready(started)
            vm = create(started.spec)
            vm.set_current(started.folder)
        except BaseException:
            await _end(started)
            started.remove()
            release_bridges(started.spec)
            raise
        for instance in old:
            instance.remove()
            release_bridges(instance.spec)
        return started


async def stop_vm(name: str, *, force: bool = False) -> str:
    """End a VM and forget it; returns a sentence on what was done.

    A test guest is quit at once, another guest is asked by ACPI to shut down. With `force` QEMU is
    told to quit, and killed where it does not answer. Raises UsageError where there is no such VM,
    StillRunsError, NeedsRecoveryError after an unfinished move, and RefusedError during one.
    """
    if not _instances_of(name):
        lookup(name)
    with MoveLock.acquire(name, "stop"):
        instances = _instances_of(name)
        lost = lost_process(Vm(name))
        if lost is not None and not force:
            raise StillRunsError(
                f"'{name}' (process {lost.pid}) cannot be asked to shut down: its folder has gone",
                hint=_force_hint(name),
            )
        if lost is not None:
            lost.kill()
            await asyncio.to_thread(lost.wait_dead, _QUIT_SECONDS)
        if not instances:
            vm = lookup(name)
            with contextlib.suppress(DamagedError):
                release_bridges(vm.spec())
            vm.remove()
            if lost is not None:
                return f"'{name}': QEMU was killed, as its folder had gone"
            return f"'{name}' had no instance any more; its record is removed"
        alive = [instance for instance in instances if instance.alive()]
        if len(alive) > 1 and not force:
            raise NeedsRecoveryError(
                f"'{name}' has {len(alive)} instances: a move of it was not finished",
                hint="`vmferry recover` settles it",
            )
        done = f"'{name}' had ended already; its record is removed"
        for instance in alive:
            if force or instance.spec.is_testguest:
                done = f"'{name}': {await _end(instance)}"
            else:
                await _power_down(instance)
                done = f"'{name}' has shut down"
        for instance in instances:
            instance.remove()
            release_bridges(instance.spec)
        Vm(name).remove()
        return done


def current_instance(vm: Vm) -> Instance | None:
    """The instance that has the VM's name, dead or alive; None where its record has gone."""
    folder = vm.current()
    return None if folder is None else load_instance(folder)


def lost_process(vm: Vm) -> ProcessId | None:
    """The QEMU of the current instance where that one's folder has gone: the end of a session may
    take XDG_RUNTIME_DIR away."""
    folder = vm.current()
    if folder is None or load_instance(folder) is not None:
        return None
    return process_in(folder, vm.name)


def _instances_of(name: str) -> list[Instance]:
    """Also the current one where that is in the runtime folder of another login."""
    found = [instance for instance in list_instances() if instance.vm == name]
    current = current_instance(Vm(name))
    if current is not None and all(instance.folder != current.folder for instance in found):
        found.append(current)
    return found


async def _wait_until_ready(instance: Instance) -> None:
    end = asyncio.get_running_loop().time() + READY_SECONDS
    while True:
        console = read_tail(instance.files.console_log)
        if "vmferry-guest ready" in console:
            return
        problem = None
        for line in console.splitlines():
            if "vmferry-guest error:" in line:
                problem = f"the test guest says: {line.partition('error:')[2].strip()}"
            elif "Kernel panic" in line:
                problem = f"the test guest panicked: {line.strip()}"
        if not instance.alive():
            problem = "QEMU ended while the test guest booted"
        elif asyncio.get_running_loop().time() > end:
            problem = f"the test guest was not ready within {READY_SECONDS:g} s"
        if problem is not None:
            raise LaunchError(f"'{instance.vm}' did not start: {problem}", instance.stderr())
        await asyncio.sleep(_POLL_SECONDS)


async def _power_down(instance: Instance) -> None:
    state = ""
    try:
        async with session(instance.files.control_socket) as qmp:
            state = (await qmp.execute("query-status"))["status"]
            await qmp.execute("system_powerdown")
    except QmpError as error:
        raise StillRunsError(
            f"'{instance.vm}' cannot be asked to shut down: {error}", hint=_force_hint(instance.vm)
        ) from None
    if await asyncio.to_thread(instance.process.wait_dead, POWERDOWN_SECONDS):
        return
    raise StillRunsError(
        f"'{instance.vm}' was asked to shut down and still runs after {POWERDOWN_SECONDS:g} s "
        f"(it was {state})",
        hint=_force_hint(instance.vm),
    )


def _force_hint(name: str) -> str:
    return (
        f"`vmferry stop {name} --force` ends it like a pulled plug: what the guest has not yet "
        "written to its disks is lost"
    )


async def _end(instance: Instance) -> str:
    """Tell QEMU to quit, which writes out its own disk caches; kill it where it does not."""
    with contextlib.suppress(QmpError):
        async with session(instance.files.control_socket) as qmp:
            await qmp.execute("quit")
    if await asyncio.to_thread(instance.process.wait_dead, _QUIT_SECONDS):
        return "QEMU was told to quit"
    instance.process.kill()
    await asyncio.to_thread(instance.process.wait_dead, _QUIT_SECONDS)
    return "QEMU did not answer and was killed"
