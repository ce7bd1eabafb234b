"""The story of a run in words, for a terminal; the sentences are the verdict's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmferry.precopy.outcome import Outcome
from vmferry.precopy.verdict import describe, describe_passes
from vmferry.report.facts import facts, headline
from vmferry.report.recording import Recording


def story(outcome: Mapping[str, Any]) -> str:
    """How a run ended; why it did not converge is in the outcome itself."""
    return _indented(describe(Outcome.from_json(outcome)))


def unfinished_story(recording: Recording) -> str:
    """How far a run without an outcome has come."""
    lines = [headline(facts(recording, None)), *describe_passes(recording.tracker.passes)]
    explanation = recording.explanation()
    if explanation is not None:
        lines += explanation.reasons
    lines.append("If nothing moves it any more, `vmferry recover` settles it.")
    return _indented(lines)


def _indented(lines: list[str]) -> str:
    return "\n".join(lines).replace("\n", "\n  ")
