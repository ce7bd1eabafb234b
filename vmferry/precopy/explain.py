"""Why a migration did what it did: in words with numbers, from its recording.

Where the time of one that completed went and how near it was to not converging; of one that does
not converge the causes and the smallest single change with which it would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vmferry.errors import UsageError
from vmferry.precopy.causes import (
    Cause,
    causes_of,
    describe_dip,
    fixed_downtime,
    hovering_words,
    speed_cause,
)
from vmferry.precopy.completed import describe_completed, post_copy_words
from vmferry.precopy.evidence import Evidence, evidence_of
from vmferry.precopy.forecast import Forecast, Remedy, forecast_many
from vmferry.precopy.remedies import describe_remedies, remedies_of
from vmferry.precopy.trace import Trace
from vmferry.units import format_duration, format_share, format_size

Verdict = Literal["converged", "converges", "does-not-converge", "uncertain", "unknown"]

_TITLES = {
    "bandwidth-cap": "Bandwidth cap",
    "sender-cpu": "CPU of the sender",
    "slow-destination": "Slow link or destination",
    "slow-path": "Speed",
    "throttle-at-end": "Throttle",
    "fixed-downtime": "Fixed part of the downtime",
    "network-dip": "Network dip",
    "working-set": "Working set",
}
_ENDED = {
    "cancelled": "was cancelled",
    "cancelling": "was being cancelled",
    "failed": "failed",
    "completed": "completed",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """`opening` says what happened, `reasons` why: sentences. See `Cause` for `share`."""

    verdict: Verdict
    opening: tuple[str, ...]
    reasons: tuple[str, ...]
    causes: tuple[Cause, ...] = ()
    remedies: tuple[Remedy, ...] = ()

    @property
    def text(self) -> tuple[str, ...]:
        """All of it, a paragraph a line."""
        return self.opening + self.reasons

    def to_json(self) -> dict[str, Any]:
        """`{"format": 1, "verdict", "causes", "remedies", "text"}`."""
        return {
            "format": 1,
            "verdict": self.verdict,
            "causes": [cause.to_json() for cause in self.causes],
            "remedies": [remedy.to_json() for remedy in self.remedies],
            "text": list(self.text),
        }


def explain(trace: Trace, migration_cpu_seconds: float | None = None) -> Explanation:
    """Explain a recorded migration, over or not.

    `migration_cpu_seconds` is what the migration threads of the source ran, None where nobody
    measured it. Never raises for want of figures: what cannot be told is said to be so.
    """
    try:
        evidence = evidence_of(trace)
    except UsageError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Explanation("unknown", (), (f"Nothing can be told: {error.message}{hint}.",))
    busy = None
    if migration_cpu_seconds is not None and evidence.seconds > 0:
        busy = min(migration_cpu_seconds / evidence.seconds, 1.0)
    if evidence.status == "completed":
        return _completed(evidence, busy)
    opening = (_opening(evidence), *post_copy_words(evidence))
    case = evidence.case
    if case is None:
        return Explanation("unknown", opening, _in_pass_1(evidence))
    hover = evidence.hover
    if hover is None:
        forecast = forecast_many([case])[0]
        if forecast.verdict != "does-not-converge":
            told = _converging_words(evidence, forecast)
            dips = _dip_words(evidence)
            return Explanation(forecast.verdict, opening, (told, forecast.why, *dips))
    return _not_converging(evidence, opening, busy)


def _converging_words(evidence: Evidence, forecast: Forecast) -> str:
    ended = _is_over(evidence)
    it = "the move" if _is_rehearsal(evidence) else "it"
    if forecast.verdict == "uncertain":
        odds = f"the odds {'were' if ended else 'are'} {format_share(forecast.p_converge)}"
        return f"Its passes so far leave it uncertain whether {it} would converge: {odds}."
    seconds = forecast.total_ms.p50 / 1000 if forecast.total_ms else 0.0
    if _is_rehearsal(evidence):
        return f"The move would converge, in about {format_duration(seconds)}."
    told = "It would have converged" if ended else "It will converge"
    rest = seconds - evidence.seconds
    return f"{told} {'in about another ' + format_duration(rest) if rest >= 0.1 else 'at once'}."


def _is_over(evidence: Evidence) -> bool:
    """Whether its passes are."""
    return evidence.status in _ENDED or evidence.post_copy_at is not None


def _is_rehearsal(evidence: Evidence) -> bool:
    return evidence.trace.header.get("policy") == "rehearse"


def _not_converging(
    evidence: Evidence, opening: tuple[str, ...], busy: float | None
) -> Explanation:
    case, hover = evidence.case, evidence.hover
    assert case is not None
    remedies = remedies_of(case, hover.dirty if hover is not None else None)
    causes = causes_of(evidence, case, remedies, busy)
    ended = _is_over(evidence)
    went = "It would not have converged: " if ended else "It will not converge as it goes: "
    if _is_rehearsal(evidence):
        went = "The move would not converge: "
    if hover is not None:
        went += f"{hovering_words(hover)}, and found no way down."
    else:
        went += "by what its passes have shown, they settle above what the downtime limit allows."
    reasons = [went, *(_cause_words(cause) for cause in causes), *describe_remedies(case, remedies)]
    return Explanation("does-not-converge", opening, tuple(reasons), tuple(causes), tuple(remedies))


def _completed(evidence: Evidence, busy: float | None) -> Explanation:
    opening, reasons = describe_completed(evidence)
    causes: list[Cause] = []
    remedies: Sequence[Remedy] = ()
    hover = max(evidence.hovers, key=lambda one: one.last - one.first, default=None)
    before = evidence.until(hover.end) if hover is not None else None
    if hover is not None and before is not None and before.case is not None:
        case = before.case
        remedies = remedies_of(replace(case, standing=None), hover.dirty)
        seen = replace(before, hovers=(hover,))
        causes = causes_of(seen, case, remedies, busy, evidence.switchover_speed)
        share = format_share((hover.end - hover.start) / max(evidence.seconds, hover.end))
        reasons = [
            *reasons,
            f"For {share} of the time it did not converge: {hovering_words(hover)}."
            f" {_end_of(evidence)}",
            *(_cause_words(cause) for cause in causes),
            *describe_remedies(case, remedies),
        ]
    elif evidence.case is not None:
        cause = speed_cause(evidence, evidence.case, None, busy, evidence.switchover_speed)
        fixed = fixed_downtime(evidence, evidence.case)
        causes = [cause] + ([fixed] if fixed is not None else [])
        reasons = [*reasons, *(_cause_words(one) for one in causes), *_dip_words(evidence)]
    return Explanation("converged", opening, tuple(reasons), tuple(causes), tuple(remedies))


def _end_of(evidence: Evidence) -> str:
    if evidence.most_throttle > 0:
        return "The throttle then slowed the guest until it did."
    if evidence.post_copy_at is not None:
        return "Post-copy then ended the passes."
    return (
        "It ended only as the guest then wrote less, or because of a change from outside: under"
        " that load, it would have gone on."
    )


def _opening(evidence: Evidence) -> str:
    last = evidence.last
    happened = _ENDED.get(evidence.status)
    took = format_duration(evidence.seconds)
    where = f"in pass {last.sync_count}" if last.sync_count else "before pass 1"
    sent = f"{format_size(last.transferred)} had been sent"
    if _is_rehearsal(evidence):
        return f"After {took} the rehearsal was {where}; {sent}."
    if happened is None:
        return f"After {took} the migration is {where}; {sent} so far."
    error = f" QEMU said: {evidence.error.rstrip('.')}." if evidence.error else ""
    return f"The migration {happened} after {took}, {where}; {sent}.{error}"


def _in_pass_1(evidence: Evidence) -> tuple[str, ...]:
    if evidence.last.sync_count > 1:
        return (f"Whether it converges cannot be told: {evidence.why_no_case}.",)
    last = evidence.last
    return (
        "Pass 1 was not over: what the guest rewrites shows at the end of a pass, so whether it"
        f" converges was not known yet. {format_size(last.remaining)} of"
        f" {format_size(last.total)} were left, zero pages among them.",
    )


def _cause_words(cause: Cause) -> str:
    share = ""
    if cause.share is not None and cause.name != "working-set":
        whole = "all" if cause.share >= 0.995 else format_share(cause.share)
        share = f" (withholds {whole} of the speed that it would take)"
    return f"{_TITLES[cause.name]}{share}: {' '.join(cause.evidence)}"


def _dip_words(evidence: Evidence) -> list[str]:
    usual = evidence.usual_speed
    return [f"{_TITLES['network-dip']}: {describe_dip(dip, usual)}" for dip in evidence.dips()[:3]]
