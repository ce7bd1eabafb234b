"""What this QEMU offers for a migration: asked, never concluded from its version."""

from __future__ import annotations

from dataclasses import dataclass

from vmferry.hypervisor.qemu.qmp import Qmp


@dataclass(frozen=True, slots=True)
class Features:
    """Names of migration capabilities, migration parameters and QMP commands."""

    capabilities: frozenset[str]
    parameters: frozenset[str]
    commands: frozenset[str]


async def read_features(qmp: Qmp) -> Features:
    """Ask the QEMU behind `qmp`. Raises QmpError."""
    capabilities = await qmp.execute("query-migrate-capabilities")
    commands = await qmp.execute("query-commands")
    schema = await qmp.execute("query-qmp-schema")
    return Features(
        capabilities=frozenset(one["capability"] for one in capabilities),
        parameters=_arguments(schema, "migrate-set-parameters"),
        commands=frozenset(one["name"] for one in commands),
    )


def _arguments(schema: list[dict[str, object]], command: str) -> frozenset[str]:
    """The names of a command's arguments; the schema refers to types by number."""
    by_name = {entity["name"]: entity for entity in schema}
    arguments = by_name[by_name[command]["arg-type"]]
    members = arguments["members"]
    assert isinstance(members, list)
    return frozenset(member["name"] for member in members)
