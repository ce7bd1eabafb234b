"""The few numbers that a run is judged by, from its outcome or, without one, from its trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmferry.precopy.sample import ENDED
from vmferry.report.recording import Recording
from vmferry.units import format_duration

# The status of a run that has no outcome and whose migration has not ended.
UNDER_WAY = "under way"
REHEARSED = {
    "converges": "would converge",
    "does-not-converge": "would not converge",
    "uncertain": "may or may not converge",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """Milliseconds and bytes; None is "not known".

    `verdict` is what a rehearsal answered, empty where it gave no answer or the run is a move.
    """

    vm: str
    run: str
    rehearsed: bool
    verdict: str
    status: str
    vm_runs_at: str
    total_ms: float | None
    promised_ms: float | None
    downtime_ms: float | None
    gap_ms: float | None
    bytes: int | None
    resent_bytes: int | None
    downtime_bytes: int | None
    passes: tuple[Mapping[str, Any], ...]
    why: str


def facts(recording: Recording, outcome: Mapping[str, Any] | None) -> Facts:
    """What is known of the run; an outcome goes before the trace."""
    last = recording.last_sample
    known: Mapping[str, Any] = outcome or {}
    guest = known.get("guest") or {}
    passes = known.get("passes")
    found = recording.rehearsal or {}
    return Facts(
        vm=str(known.get("vm") or recording.header.get("vm") or ""),
        run=str(known.get("run") or recording.header.get("run") or ""),
        rehearsed=recording.header.get("policy") == "rehearse" or bool(found),
        verdict=str(found.get("verdict") or ""),
        status=str(known.get("status") or _status(recording)),
        vm_runs_at=str(known.get("vm_runs_at") or ""),
        total_ms=_first(known.get("total_ms"), last and (last.total_time_ms or last.t * 1000)),
        promised_ms=recording.promised_downtime_ms,
        downtime_ms=_first(known.get("downtime_ms"), last and last.downtime_ms),
        gap_ms=guest.get("gap_ms"),
        bytes=_first(known.get("bytes"), last and last.transferred),
        resent_bytes=known.get("resent_bytes"),
        downtime_bytes=last.downtime_bytes if last and last.downtime_bytes else None,
        passes=tuple(passes or map(dataclasses.asdict, recording.tracker.passes)),
        why=_why(str(known.get("why") or ""), str(found.get("why") or "")),
    )


def headline(facts: Facts) -> str:
    """What happened, in one sentence."""
    vm = f"VM {facts.vm}" if facts.vm else "the VM"
    took = "" if facts.total_ms is None else format_duration(facts.total_ms / 1000)
    where = {
        "source": "It runs on at the source.",
        "destination": "It runs at the destination.",
        "nowhere": "It runs nowhere.",
        "unknown": "Where it runs is not known.",
    }.get(facts.vm_runs_at, "")
    after = f" after {took}" if took else ""
    what = f"The {'rehearsal' if facts.rehearsed else 'move'} of {vm}"
    if facts.status == "cancelled" and facts.verdict in REHEARSED:
        return f"Rehearsal: a move of {vm} {REHEARSED[facts.verdict]}."
    match facts.status:
        case "completed":
            return f"{vm[0].upper()}{vm[1:]} moved" + (f" in {took}." if took else ".")
        case "abandoned":
            return f"{what} was abandoned{after}. {where}".strip()
        case "cancelled":
            return f"{what} was cancelled{after}. {where}".strip()
        case "refused":
            return f"{what} was refused. {where}".strip()
        case "failed":
            return f"{what} failed{after}. {where}".strip()
        case "needs-recovery":
            return f"{what} is not settled: run `vmferry recover`. {where}".strip()
        case _:
            return f"{what} is under way or was cut short: no outcome is recorded."


def _status(recording: Recording) -> str:
    last = recording.last_sample
    return last.status if last is not None and last.status in ENDED else UNDER_WAY


def _why(told: str, rehearsed: str) -> str:
    """What the outcome tells, without the answer of a rehearsal, which is the headline."""
    _, why, rest = told.partition(rehearsed) if rehearsed else ("", "", "")
    return why + rest or told


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
