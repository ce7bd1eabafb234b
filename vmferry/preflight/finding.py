"""What a check says: a verdict, and for the person who reads it what, where, why and what to do."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vmferry.preflight.facts import Facts, UntoldError


class Verdict(enum.Enum):
    """`BLOCKER`: the move would fail, or the guest would not be the same after it. `WARNING`: it
    can go through, at a price or a risk that is named."""

    OK = "ok"
    WARNING = "warning"
    BLOCKER = "blocker"
    UNTOLD = "cannot be told"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where a fact was read, and what was there."""

    where: str
    source: str
    destination: str = ""

    def __str__(self) -> str:
        if not self.destination:
            return f"{self.where}: {self.source}"
        return f"{self.where}: source {self.source}, destination {self.destination}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one check found. `what` is a clause without a full stop."""

    verdict: Verdict
    what: str
    evidence: tuple[Evidence, ...] = ()
    remedy: str = ""


def fine(what: str, *evidence: Evidence) -> Answer:
    return Answer(Verdict.OK, what, evidence)


def warning(what: str, *evidence: Evidence, remedy: str) -> Answer:
    return Answer(Verdict.WARNING, what, evidence, remedy)


def blocker(what: str, *evidence: Evidence, remedy: str) -> Answer:
    return Answer(Verdict.BLOCKER, what, evidence, remedy)


@dataclass(frozen=True, slots=True)
class Check:
    """One condition: its name (which `--force` takes), why it matters, and how it is decided.

    One that is not `forceable` says that the move could not even begin.
    """

    name: str
    why: str
    decide: Callable[[Facts], Answer]
    forceable: bool = True

    def __call__(self, facts: Facts) -> Finding:
        try:
            answer = self.decide(facts)
        except UntoldError as untold:
            answer = Answer(Verdict.UNTOLD, str(untold))
        except Exception as error:
            # It must not keep anybody's VM from moving.
            answer = Answer(Verdict.UNTOLD, f"by a bug in vmferry: {type(error).__name__}: {error}")
        return Finding(self.name, self.why, self.forceable, answer)


@dataclass(frozen=True, slots=True)
class Finding:
    """A check and its answer."""

    name: str
    why: str
    forceable: bool
    answer: Answer

    @property
    def verdict(self) -> Verdict:
        return self.answer.verdict

    def to_json(self) -> dict[str, Any]:
        """`{"event": "check", "format": 1, …}`."""
        return {
            "event": "check",
            "format": 1,
            "name": self.name,
            "verdict": self.verdict.value,
            "what": self.answer.what,
            "evidence": [
                {"where": one.where, "source": one.source, "destination": one.destination or None}
                for one in self.answer.evidence
            ],
            "why": self.why,
            "remedy": self.answer.remedy or None,
            "forceable": self.forceable,
        }


def check(name: str, why: str, *, forceable: bool = True) -> Callable[..., Check]:
    """Make a Check of the function that decides it."""

    def make(decide: Callable[[Facts], Answer]) -> Check:
        return Check(name, why, decide, forceable)

    return make
