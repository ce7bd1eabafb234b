"""`vmferry run SPEC`: start a VM."""

from __future__ import annotations

import asyncio
import enum
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vmferry.cli.options import Json
from vmferry.cli.output import Output

if TYPE_CHECKING:
    from vmferry.fastpath.facts import HostFacts
    from vmferry.vm.spec import VmSpec


class PrintAs(enum.Enum):
    """What `--print` prints."""

    QEMU = "qemu"
    LIBVIRT = "libvirt"


def run(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A VM specification (TOML).")],
    print_as: Annotated[
        PrintAs | None,
        typer.Option(
            "--print", help="Print QEMU's command line or libvirt's XML for it, and start nothing."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a VM, with the fast paths set up for this host; returns when it runs."""
    from vmferry.fastpath.collect_host import read_host
    from vmferry.fastpath.configure import configure
    from vmferry.fastpath.show import as_libvirt, as_qemu
    from vmferry.hypervisor.qemu.binary import spreading_models
    from vmferry.hypervisor.qemu.lifecycle import start_vm
    from vmferry.hypervisor.qemu.resolve import resolve
    from vmferry.vm.spec import load_spec

    output = Output(as_json=as_json)
    resolved = resolve(load_spec(spec))
    if print_as is None:
        _wake_what_is_needed(resolved.spec)
    host = read_host()
    if print_as is not None:
        host = _as_if_woken(host)
    configured = configure(resolved.spec, host, spreading_models(resolved.spec.qemu.binary or ""))
    vm = configured.spec
    reasons = [*resolved.reasons, *map(str, configured.reasons)]
    told = {"reasons": reasons, "fast_paths": [one.to_json() for one in configured.reasons]}
    if print_as is not None:
        _note(output, reasons)
        text = as_qemu(configured) if print_as is PrintAs.QEMU else as_libvirt(configured, host)
        output.record({"event": "printed", "format": 1, "text": text, **told})
        if not as_json:
            output.say(text)
        return
    if vm.is_testguest:
        output.note("booting the test guest (it is built first where it is not yet)")
    instance = asyncio.run(start_vm(vm))
    _note(output, reasons)
    output.record(
        {
            "event": "started",
            "format": 1,
            "name": vm.name,
            "pid": instance.process.pid,
            "instance": instance.id,
            "folder": str(instance.folder),
            **told,
        }
    )
    output.say(f"'{vm.name}' runs (process {instance.process.pid}, {vm.qemu.accelerator})")


def _note(output: Output, reasons: list[str]) -> None:
    for reason in reasons:
        output.note(reason)


def _wake_what_is_needed(vm: VmSpec) -> None:
    """The kernel loads vhost-net when its device is opened, which a look at the host does not."""
    from vmferry.host.taps import wake_vhost

    if vm.qemu.accelerator == "kvm" and any(nic.has_queues for nic in vm.nic):
        wake_vhost()


def _as_if_woken(host: HostFacts) -> HostFacts:
    """What is printed wakes nothing, and is what would be started."""
    from vmferry.fastpath.collect_host import ASLEEP
    from vmferry.fastpath.net_queues.configure import VHOST

    if host.devices.get(VHOST) != ASLEEP or not os.access(VHOST, os.R_OK | os.W_OK):
        return host
    return replace(host, devices={**host.devices, VHOST: ""})
