"""What an audit says: for each fast path and level a verdict with its evidence, and what to do."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self


class Feature(enum.Enum):
    """The seven; the value is the name that users read and type."""

    NET_QUEUES = "net-queues"
    SCSI_QUEUES = "scsi-queues"
    ZERO_COPY = "zero-copy"
    PV_SPINLOCKS = "pv-spinlocks"
    LARGE_PAGES = "large-pages"
    CLOCK = "clock"
    MIGRATION_THREAD = "migration-thread"


class Level(enum.Enum):
    """Offered by the host, negotiated by the guest's driver, effective in measurement."""

    OFFERED = "offered"
    NEGOTIATED = "negotiated"
    EFFECTIVE = "effective"


class Verdict(enum.Enum):
    """From good to bad; `UNUSED`: the VM has nothing that this fast path could serve."""

    OK = "ok"
    UNUSED = "not used"
    UNTOLD = "cannot be told"
    BETTER = "could be better"
    MISCONFIGURED = "misconfigured"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where a fact was read, and what was there."""

    where: str
    value: str

    def __str__(self) -> str:
        return f"{self.where}: {self.value}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer. `check` names it for ever (kebab-case); `subject` is the device it is about, or
    empty. `what` and `why` are clauses without a full stop. `change` says exactly what to change
    and `cost` what that costs (a restart of the VM, CPU, safety); both are empty where all is well.
    A verdict of `UNTOLD` says in `change` what to start or run so that it can be told."""

    feature: Feature
    level: Level
    check: str
    verdict: Verdict
    what: str
    evidence: tuple[Evidence, ...]
    subject: str = ""
    why: str = ""
    change: str = ""
    cost: str = ""

    def to_json(self) -> dict[str, Any]:
        """`{"event": "finding", "format": 1, …}`."""
        return {
            "event": "finding",
            "format": 1,
            "feature": self.feature.value,
            "level": self.level.value,
            "check": self.check,
            "subject": self.subject or None,
            "verdict": self.verdict.value,
            "what": self.what,
            "evidence": [{"where": one.where, "value": one.value} for one in self.evidence],
            "why": self.why or None,
            "change": self.change or None,
            "cost": self.cost or None,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What `to_json` gave. Raises ValueError, which says what is wrong."""
        try:
            return cls(
                Feature(record["feature"]),
                Level(record["level"]),
                _text(record["check"]),
                Verdict(record["verdict"]),
                _text(record["what"]),
                tuple(
                    Evidence(_text(one["where"]), _text(one["value"])) for one in record["evidence"]
                ),
                *(_text(record[name] or "") for name in ("subject", "why", "change", "cost")),
            )
        except KeyError as error:
            raise ValueError(f"it has no {error}") from None
        except TypeError:
            raise ValueError("a value in it is of another kind") from None


def worst_of(findings: Iterable[Finding]) -> Finding | None:
    """The first of the worst. Beside a device that is right, one that could not use the fast path
    takes nothing away."""
    found = list(findings)
    told = [one for one in found if one.verdict is not Verdict.UNUSED] or found
    return max(told, key=lambda one: list(Verdict).index(one.verdict), default=None)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value
