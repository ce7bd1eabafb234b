"""`vmferry status VM`: one look at one VM."""

from __future__ import annotations

import asyncio

from vmferry.cli.options import Json, VmArgument
from vmferry.cli.output import Output, table
from vmferry.errors import UsageError
from vmferry.units import format_duration, format_size


def status(vm: VmArgument, as_json: Json = False) -> None:
    """Show one VM, also during a move."""
    from vmferry.hypervisor.qemu.look import Look, look_at, look_at_socket
    from vmferry.hypervisor.qemu.qmp import QmpError
    from vmferry.vm.address import QmpAddress, parse_vm
    from vmferry.vm.registry import lookup

    output = Output(as_json=as_json)
    address = parse_vm(vm)
    look: Look
    if isinstance(address, QmpAddress):
        try:
            look = asyncio.run(look_at_socket(address.path))
        except QmpError as error:
            raise UsageError(str(error)) from None
    else:
        look = asyncio.run(look_at(lookup(address.name)))
    output.record(look.to_json())
    if as_json:
        return
    uptime = None if look.uptime is None else format_duration(look.uptime)
    memory = None if look.memory is None else format_size(look.memory)
    resident = None if look.resident is None else format_size(look.resident)
    facts = (
        ("name", look.name),
        ("state", look.state),
        ("why", look.why),
        ("busy", look.busy),
        ("migration", look.migration),
        ("process", look.pid),
        ("uptime", uptime),
        ("vCPUs", look.vcpus),
        ("memory", memory),
        ("QEMU's memory", resident),
        ("accelerator", look.accelerator),
        ("machine", look.machine),
        ("QEMU", look.qemu),
        ("instance", look.instance),
        ("folder", look.folder),
    )
    output.say(table([(word, str(fact)) for word, fact in facts if fact is not None]))
