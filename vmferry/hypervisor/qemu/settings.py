"""A QEMU's migration parameters and capabilities: saved before the first change, put back after.

A left-over limit would spoil somebody's next migration of the same VM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vmferry.hypervisor.qemu.qmp import QmpError

# What a move of ours rests on (docs/safety.md), and what would change its algorithm is put off.
NEEDED_AT_SOURCE = frozenset({"events", "return-path", "pause-before-switchover"})
# Without `late-block-activate` a destination locks the disks as soon as it has loaded. A source
# that then fails, because it was not told, runs on without its disks and aborts at its first write.
NEEDED_AT_DESTINATION = frozenset({"events", "return-path", "late-block-activate"})
# A rehearsal never pauses before the switchover: the vCPUs would stop first, and stay so. With
# `switchover-ack`, which nobody gives, they never stop at all (QEMU 8.1 and later).
NEEDED_IN_REHEARSAL = frozenset({"events", "return-path"})
WANTED_IN_REHEARSAL = frozenset({"switchover-ack"})
# Parameters that would make it something else than plain pre-copy, and what makes them harmless.
PLAIN_PARAMETERS = {"mode": "normal", "tls-creds": ""}


class Executor(Protocol):
    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """All migration parameters and capabilities of one QEMU at one moment."""

    parameters: dict[str, Any]
    capabilities: dict[str, bool]

    def to_json(self) -> dict[str, Any]:
        return {"parameters": self.parameters, "capabilities": self.capabilities}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        return cls(dict(data["parameters"]), dict(data["capabilities"]))


async def read_settings(qemu: Executor) -> Settings:
    """What is set now. Raises QmpError."""
    parameters = await qemu.execute("query-migrate-parameters")
    rows = await qemu.execute("query-migrate-capabilities")
    return Settings(parameters, {row["capability"]: bool(row["state"]) for row in rows})


async def set_capabilities(qemu: Executor, now: Settings, needed: frozenset[str]) -> None:
    """Switch exactly `needed` on. Raises QmpError that names what this QEMU does not offer."""
    missing = sorted(needed - now.capabilities.keys())
    if missing:
        raise QmpError(f"this QEMU does not offer {', '.join(missing)}")
    changes = [
        {"capability": name, "state": name in needed}
        for name, state in now.capabilities.items()
        if state != (name in needed)
    ]
    if changes:
        await qemu.execute("migrate-set-capabilities", {"capabilities": changes})


async def set_for_rehearsal(qemu: Executor, now: Settings) -> bool:
    """Set up plain pre-copy that does not switch over; says whether that is certain.

    Raises QmpError.
    """
    wanted = WANTED_IN_REHEARSAL & now.capabilities.keys()
    await set_capabilities(qemu, now, NEEDED_IN_REHEARSAL | wanted)
    parameters = {
        name: value
        for name, value in PLAIN_PARAMETERS.items()
        if now.parameters.get(name, value) != value
    }
    if parameters:
        await qemu.execute("migrate-set-parameters", parameters)
    return bool(wanted)


async def restore_settings(qemu: Executor, saved: Settings) -> None:
    """Put back what differs from `saved`. Raises QmpError."""
    now = await read_settings(qemu)
    capabilities = [
        {"capability": name, "state": state}
        for name, state in saved.capabilities.items()
        if now.capabilities.get(name) != state
    ]
    if capabilities:
        await qemu.execute("migrate-set-capabilities", {"capabilities": capabilities})
    parameters = {
        name: value for name, value in saved.parameters.items() if now.parameters.get(name) != value
    }
    if parameters:
        await qemu.execute("migrate-set-parameters", parameters)
