"""How a judge says what it found, so that no finding lacks a part.

`out.at(level, check, subject)` is the place of an answer, and `.ok(…)`, `.wrong(…)` and so on the
answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vmferry.fastpath.finding import Evidence, Feature, Finding, Level, Verdict

RESTART = "a full stop and start of the VM: a reboot inside keeps the same QEMU"
NAME_A_VM = "vmferry audit VM"


def saw(where: str, value: object) -> Evidence:
    """What was read at `where`: on/off for booleans, "none" for nothing, lists with commas."""
    if value is None:
        return Evidence(where, "could not be read")
    if isinstance(value, bool):
        return Evidence(where, "on" if value else "off")
    if isinstance(value, str):
        return Evidence(where, value or "none")
    if isinstance(value, Iterable):
        return Evidence(where, ", ".join(str(one) for one in value) or "none")
    return Evidence(where, str(value))


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer belongs: feature, level, the check's name, and the device."""

    found: list[Finding]
    feature: Feature
    level: Level
    check: str
    subject: str

    def ok(self, what: str, *evidence: Evidence) -> None:
        """It is as it should be, and this is how one can see it."""
        self._add(Verdict.OK, what, evidence)

    def unused(self, what: str, *evidence: Evidence) -> None:
        """There is nothing here that this fast path could serve."""
        self._add(Verdict.UNUSED, what, evidence)

    def untold(self, what: str, *evidence: Evidence, change: str, why: str = "") -> None:
        """`change`: what to start or run, exactly, so that it can be told."""
        self._add(Verdict.UNTOLD, what, evidence, why, change)

    def better(self, what: str, *evidence: Evidence, why: str, change: str, cost: str) -> None:
        """It works, and more could be had."""
        self._add(Verdict.BETTER, what, evidence, why, change, cost)

    def wrong(self, what: str, *evidence: Evidence, why: str, change: str, cost: str) -> None:
        """It does not do what somebody set it up for, or it harms."""
        self._add(Verdict.MISCONFIGURED, what, evidence, why, change, cost)

    def _add(
        self,
        verdict: Verdict,
        what: str,
        evidence: tuple[Evidence, ...],
        why: str = "",
        change: str = "",
        cost: str = "",
    ) -> None:
        place = (self.feature, self.level, self.check)
        self.found.append(Finding(*place, verdict, what, evidence, self.subject, why, change, cost))


class Findings:
    """Collects the findings of one feature."""

    def __init__(self, feature: Feature) -> None:
        self._feature = feature
        self.found: list[Finding] = []

    def at(self, level: Level, check: str, subject: str = "") -> Place:
        """`subject` is the device, empty where there is none."""
        return Place(self.found, self._feature, level, check, subject)


def look_inside(no_guest: str) -> tuple[str, str]:
    """Why nobody looked into the guest, and how to."""
    reason = no_guest or "nobody looked into the guest"
    return (
        reason,
        "look inside too: --guest-via 'ssh root@VM python3 -', --guest-agent SOCKET, or in it "
        "vmferry audit --guest",
    )


def counted(count: int, noun: str) -> str:
    """1 queue, 2 queues."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
