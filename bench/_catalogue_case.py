"""One case of the catalogue: how a set-up is made for real, its load, and what must be found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmferry.fastpath.finding import Level, Verdict

ALARMS = (Verdict.MISCONFIGURED, Verdict.BETTER)


@dataclass(frozen=True, slots=True)
class Expected:
    """A finding: the check's name, its level and verdict, and a pattern in its evidence."""

    check: str
    level: Level
    verdict: Verdict
    evidence: str

    def fits(self, finding: Mapping[str, Any]) -> bool:
        """Whether this is the finding, as `audit --json` gives it."""
        shown = "\n".join(f"{one['where']}: {one['value']}" for one in finding["evidence"])
        return (
            finding["check"] == self.check
            and finding["level"] == self.level.value
            and finding["verdict"] == self.verdict.value
            and re.search(self.evidence, shown) is not None
        )


@dataclass(frozen=True, slots=True)
class Lab:
    """Which lab a case needs."""

    vtd: bool = False
    cpus: int = 2
    append: str = ""


@dataclass(frozen=True, slots=True)
class Guest:
    """A nested guest, in the words of `labguest start`. `queues` makes a vhost card on br0; `qemu`
    are further arguments."""

    smp: int = 2
    memory: str = "384M"
    cpu: str = "host"
    accel: str = "kvm"
    queues: int = 0
    append: str = ""
    qemu: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """`before` runs on the host before the guest starts, `outside` there when it is up (`$QMP` is
    its socket, `$PID` its QEMU), `inside` in the guest, `after` on the host at the end. `load` is
    the name of one of LOADS. `target`: what is audited: vm, host or guest. Where nothing is
    expected, the set-up is right, and any alarm is a false one."""

    name: str
    expected: tuple[Expected, ...] = ()
    guest: Guest | None = Guest()
    load: str = "none"
    before: str = ""
    outside: str = ""
    inside: str = ""
    after: str = ""
    target: str = "vm"
    deep: bool = False
    lab: Lab = Lab()

    @property
    def right(self) -> bool:
        return not self.expected


def problems(case: Case, findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an audit's answer lacks, or alarms that it should not raise."""
    if not case.right:
        missing = [one for one in case.expected if not any(map(one.fits, findings))]
        return [
            f"not found: {one.check} ({one.level.value}, {one.verdict.value})" for one in missing
        ]
    alarms = [one for one in findings if one["verdict"] in [each.value for each in ALARMS]]
    return [f"false alarm: {one['check']} ({one['level']}): {one['what']}" for one in alarms]


def better(check: str, level: Level, evidence: str) -> Expected:
    return Expected(check, level, Verdict.BETTER, evidence)


def wrong(check: str, level: Level, evidence: str) -> Expected:
    return Expected(check, level, Verdict.MISCONFIGURED, evidence)
