"""`vmferry ls`: the VMs that vmferry runs."""

from __future__ import annotations

import asyncio

from vmferry.cli.options import Json
from vmferry.cli.output import Output, table
from vmferry.units import format_duration, format_size


def ls(as_json: Json = False) -> None:
    """List the VMs."""
    from vmferry.hypervisor.qemu.look import look_at_all

    output = Output(as_json=as_json)
    looks = asyncio.run(look_at_all())
    for look in looks:
        output.record(look.to_json())
    if as_json:
        return
    if not looks:
        output.note("no VM; `vmferry run SPEC.toml` starts one")
        return
    rows = [("NAME", "STATE", "PID", "VCPUS", "MEMORY", "UPTIME", "")]
    for look in looks:
        rows.append(
            (
                look.name,
                look.state,
                "-" if look.pid is None else str(look.pid),
                "-" if look.vcpus is None else str(look.vcpus),
                "-" if look.memory is None else format_size(look.memory),
                "-" if look.uptime is None else format_duration(look.uptime),
                look.busy or look.why or "",
            )
        )
    output.say(table(rows))
