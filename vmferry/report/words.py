"""The story of a run in words, for a terminal; the sentences are the verdict's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vmferry.precopy.outcome import CostRecord, GuestRecord, Outcome, PassRecord
from vmferry.precopy.verdict import describe, describe_convergence, describe_passes
from vmferry.report.facts import facts, headline
from vmferry.report.recording import Recording


def story(outcome: Mapping[str, Any]) -> str:
    """How a run ended; why it did not converge is in the outcome itself."""
    return _indented(describe(_outcome(outcome)))


def unfinished_story(recording: Recording) -> str:
    """How far a run without an outcome has come."""
    lines = [headline(facts(recording, None)), *describe_passes(recording.tracker.passes)]
    estimate = recording.estimate()
    if estimate is not None:
        lines += describe_convergence(estimate)
    lines.append("If nothing moves it any more, `vmferry recover` settles it.")
    return _indented(lines)


def _indented(lines: list[str]) -> str:
    return "\n".join(lines).replace("\n", "\n  ")


def _outcome(data: Mapping[str, Any]) -> Outcome:
    """The outcome that `to_json` wrote; keys of a later version are passed over."""
    values = _known(Outcome, data)
    values["passes"] = tuple(
        PassRecord(**{**_known(PassRecord, one), "estimated": tuple(one["estimated"])})
        for one in data["passes"]
    )
    if data["guest"] is not None:
        values["guest"] = GuestRecord(**_known(GuestRecord, data["guest"]))
    if data["cost"] is not None:
        values["cost"] = CostRecord(**_known(CostRecord, data["cost"]))
    return Outcome(**values)


def _known(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in data.items() if name in names}
