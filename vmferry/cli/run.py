"""`vmferry run SPEC`: start a VM."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from vmferry.cli.options import Json
from vmferry.cli.output import Output


def run(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A VM specification (TOML).")],
    as_json: Json = False,
) -> None:
    """Start a VM; returns when it runs."""
    from vmferry.hypervisor.qemu.lifecycle import start_vm
    from vmferry.hypervisor.qemu.resolve import resolve
    from vmferry.vm.spec import load_spec

    output = Output(as_json=as_json)
    resolved = resolve(load_spec(spec))
    vm = resolved.spec
    if vm.is_testguest:
        output.note("booting the test guest (it is built first where it is not yet)")
    instance = asyncio.run(start_vm(vm))
    for reason in resolved.reasons:
        output.note(reason)
    output.record(
        {
            "event": "started",
            "format": 1,
            "name": vm.name,
            "pid": instance.process.pid,
            "instance": instance.id,
            "folder": str(instance.folder),
            "reasons": list(resolved.reasons),
        }
    )
    output.say(f"'{vm.name}' runs (process {instance.process.pid}, {vm.qemu.accelerator})")
