"""All checks, and what they say together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vmferry.preflight.checks import (
    cpu,
    destination,
    devices,
    hosts,
    machine,
    memory,
    network,
    state,
    storage,
)
from vmferry.preflight.facts import Facts
from vmferry.preflight.finding import Check, Finding, Verdict

CHECKS: tuple[Check, ...] = (
    *state.CHECKS,
    *destination.CHECKS,
    *machine.CHECKS,
    *cpu.CHECKS,
    *memory.CHECKS,
    *devices.CHECKS,
    *storage.CHECKS,
    *network.CHECKS,
    *hosts.CHECKS,
)


@dataclass(frozen=True, slots=True)
class Preflight:
    """What all checks found for one planned move, in the order of `CHECKS`."""

    vm: str
    to: str
    findings: tuple[Finding, ...]

    def of(self, verdict: Verdict) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.verdict is verdict)

    def blockers(self, forced: Iterable[str] = ()) -> tuple[Finding, ...]:
        """The blockers but those that `forced` names; one that cannot be forced stays."""
        names = frozenset(forced)
        return tuple(
            one for one in self.of(Verdict.BLOCKER) if not (one.forceable and one.name in names)
        )

    def to_json(self) -> dict[str, Any]:
        """The last line of `vmferry check --json`."""
        return {
            "event": "preflight",
            "format": 1,
            "vm": self.vm,
            "to": self.to,
            "may_move": not self.of(Verdict.BLOCKER),
            "blockers": [one.name for one in self.of(Verdict.BLOCKER)],
            "warnings": [one.name for one in self.of(Verdict.WARNING)],
            "cannot_be_told": [one.name for one in self.of(Verdict.UNTOLD)],
            "ok": [one.name for one in self.of(Verdict.OK)],
        }


def run_checks(facts: Facts) -> Preflight:
    """Every check, whatever another says: all reasons at once."""
    return Preflight(facts.vm, facts.to, tuple(one(facts) for one in CHECKS))
