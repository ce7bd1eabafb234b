"""What a rehearsal found: its verdict, how it ended, and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vmferry.controller import Ending
from vmferry.handover import STOPPED_BY_MIGRATION
from vmferry.move.prepare import Source
from vmferry.policy.rehearse import Answer, Rehearse
from vmferry.precopy.forecast import Forecast
from vmferry.precopy.forecast_words import odds
from vmferry.precopy.outcome import Outcome
from vmferry.rehearsal.learnt import Learnt
from vmferry.rehearsal.request import RehearsalRequest
from vmferry.rehearsal.stream_end import StreamEnd

FORMAT = 1
IN_WORDS = {
    "converges": "the move would converge",
    "does-not-converge": "the move would not converge",
    "uncertain": "it is uncertain whether the move would converge",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, why it is so, the ending that the outcome tells of, and whether QEMU had begun
    to switch over."""

    answer: Answer
    why: str
    ending: Ending
    switchover: bool = False


def stopped_by_others(runstate: str, never_stops: bool) -> bool:
    """Whether a VM that stopped meanwhile, and has this runstate now, was not stopped by QEMU to
    switch over: a user, a disk error or the guest itself did it."""
    return never_stops or runstate not in STOPPED_BY_MIGRATION | {"running"}


def verdict_of(
    policy: Rehearse, ending: Ending, stream_end: StreamEnd | None, paused: bool = False
) -> Verdict:
    """What the policy, the controller and the sink tell together.

    `paused`: if the VM stopped, it was not QEMU that did it (`stopped_by_others`). Where QEMU did,
    it was to switch over: it may have been cancelled before the sink was told.
    """
    how = stream_end.how if stream_end is not None else None
    stopped_by_qemu = policy.stopped and not paused and ending.kind == "abandoned"
    # What a VM that stands still leaves to send tells nothing of it at work.
    switched = how == "switchover" and not (policy.stopped and paused)
    if switched or stopped_by_qemu:
        why = "QEMU found little enough left to switch over"
        return replace(_verdict("converges", why), switchover=True)
    if how == "unreadable" and stream_end is not None:
        return _failed(policy, f"the stream could not be read: {stream_end.why}")
    if ending.kind in ("abandoned", "cancelled"):
        return _verdict(policy.answer, ending.why)
    if ending.kind == "ended" and ending.status == "cancelled":
        return _verdict(policy.answer, "somebody else cancelled the migration")
    if stream_end is None and ending.kind == "ended":
        return _failed(policy, "the sink died")
    return _failed(policy, ending.why or f"the migration {ending.status or 'ended'} at the source")


def foretold(verdict: Verdict, forecasts: Sequence[Forecast]) -> Verdict:
    """The verdict of the planned move's forecast, where the passes themselves did not decide."""
    if not forecasts or verdict.switchover or verdict.ending.kind != "cancelled":
        return verdict
    planned = forecasts[0]
    why = f"{verdict.why}, and so the odds are {odds(planned.p_converge)}"
    return _verdict(planned.verdict, why)


def _verdict(answer: Answer, why: str) -> Verdict:
    return Verdict(answer, why, Ending("cancelled", why=f"a rehearsal: {IN_WORDS[answer]}; {why}"))


def _failed(policy: Rehearse, why: str) -> Verdict:
    return Verdict(policy.answer, why, Ending("lost", why=f"a rehearsal that failed: {why}"))


@dataclass(frozen=True, slots=True)
class Findings:
    """All that is told and kept of one rehearsal."""

    request: RehearsalRequest
    source: Source
    never_stops: bool
    verdict: Verdict
    outcome: Outcome
    stream_end: StreamEnd | None
    learnt: Learnt

    def lines(self) -> dict[str, Any]:
        """By kind, what is appended to the recorded trace; the summary last."""
        found: dict[str, Any] = {}
        if self.stream_end is not None and self.stream_end.xray is not None:
            found["xray"] = dict(self.stream_end.xray)
        if self.learnt.profile is not None:
            found["profile"] = self.learnt.profile.to_json()
        told = self.learnt.forecasts
        found["rehearsal"] = {
            **self._summary(),
            "slowdown": round(self.learnt.slowdown, 4),
            "profile": found.get("profile"),
            "forecast": told[0].to_json() if told else None,
            "others": [_briefly(one) for one in told[1:]],
        }
        return found

    def _summary(self) -> dict[str, Any]:
        cost = self.outcome.cost
        return {
            "format": FORMAT,
            "verdict": self.verdict.answer,
            "why": self.verdict.why,
            "seconds": self.outcome.total_ms / 1000,
            "limits": self.request.to_json()["rehearse"]["limits"],
            "never_stops": self.never_stops,
            "reached_switchover": self.verdict.switchover,
            "work_loss_percent": cost.work_loss_percent if cost is not None else None,
            "vcpu_run_delay_percent": cost.vcpu_run_delay_percent if cost is not None else {},
            "not_measured": self._not_measured(),
            "warnings": self._warnings(),
        }

    def _not_measured(self) -> list[str]:
        """What a move with the VM's own settings would have and a rehearsal has not."""
        settings = self.source.party.settings or {"parameters": {}, "capabilities": {}}
        found = []
        if settings["parameters"].get("tls-creds"):
            found.append("tls")
        if settings["capabilities"].get("multifd"):
            found.append("multifd")
        return found

    def _warnings(self) -> list[str]:
        warnings = list(self.stream_end.problems) if self.stream_end is not None else []
        if self.source.ram_trap:
            warnings.append(f"the figures are too low: {self.source.ram_trap}")
        return warnings


def _briefly(forecast: Forecast) -> dict[str, Any]:
    """A forecast without the inputs that it shares with the first."""
    told = forecast.to_json()
    kept = ("bandwidth", "downtime_limit_ms")
    told["given"] = {key: forecast.given[key] for key in kept}
    return told
