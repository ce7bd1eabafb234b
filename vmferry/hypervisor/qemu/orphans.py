"""QEMU processes that nobody accounts for: their starter died before it could record them."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from vmferry.host.paths import instances_dir
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.instance import load_instance
from vmferry.vm.registry import Vm

_END_SECONDS = 2.0


def end_orphans(vm: str) -> int:
    """End what is left of a VM's started but never used destinations; returns how many.

    Call it with the VM's lock held and no move of it unsettled: then only its current instance has
    a right to be.
    """
    current = Vm(vm).current()
    ended = 0
    for folder in sorted(instances_dir().iterdir()):
        if current is not None and folder.resolve() == current.resolve():
            continue
        instance = load_instance(folder)
        if instance is not None:
            if instance.vm == vm:
                _end(instance.process)
                shutil.rmtree(folder, ignore_errors=True)
                ended += 1
        elif (process := process_in(folder, vm)) is not None:
            _end(process)
            shutil.rmtree(folder, ignore_errors=True)
            ended += 1
    return ended


def _end(process: ProcessId) -> None:
    process.kill()
    process.wait_dead(_END_SECONDS)


def process_in(folder: Path, vm: str) -> ProcessId | None:
    """The QEMU of `vm` whose command line names the folder: it has no record yet, or no more."""
    name = f"guest={vm},".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            command_line = (entry / "cmdline").read_bytes()
            if bytes(folder) + b"/" in command_line and name in command_line:
                return ProcessId.of(int(entry.name))
    return None
