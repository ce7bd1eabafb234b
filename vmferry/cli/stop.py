"""`vmferry stop VM`: end a VM."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from vmferry.cli.options import Json, VmNameArgument
from vmferry.cli.output import Output


def stop(
    vm: VmNameArgument,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="End it like a pulled plug: what the guest has not written to disk is lost.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """End a VM and forget it.

    It is asked to shut down, as by its power button; a test guest is quit at once.
    """
    from vmferry.hypervisor.qemu.lifecycle import stop_vm

    output = Output(as_json=as_json)
    done = asyncio.run(stop_vm(vm, force=force))
    output.record({"event": "stopped", "format": 1, "name": vm, "how": done})
    output.say(done)
