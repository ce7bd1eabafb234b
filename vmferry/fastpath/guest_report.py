"""What guest_audit.py printed, as facts: nothing of it is believed before its shape was checked."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from vmferry.fastpath.facts import GuestFacts

_FORMAT = 1
_LONGEST = 16 << 20
_FACTS = TypeAdapter(GuestFacts)


class BadReportError(ValueError):
    """The text is no report of guest_audit.py; the message says where it is wrong."""


def facts_of(text: str) -> GuestFacts:
    """The facts in the last line of `text` that is a report. Raises BadReportError.

    Other lines are passed over: login shells greet, and a file may hold a whole `audit --json`.
    """
    if len(text) > _LONGEST:
        raise BadReportError(f"it has {len(text)} characters; a report has at most {_LONGEST}")
    lines = [line for line in text.splitlines() if line.lstrip().startswith("{")]
    if not lines:
        raise BadReportError("it has no line of JSON")
    reports = [told for told in map(_told, lines) if told.get("event") == "guest"]
    if not reports:
        _parsed(lines[-1])  # says what is wrong with it, if it is no JSON
        raise BadReportError('none of its lines has "event": "guest"')
    return _facts(reports[-1])


def _told(line: str) -> dict[str, Any]:
    try:
        return _parsed(line)
    except BadReportError:
        return {}


def _parsed(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BadReportError(f"it is no JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _facts(report: dict[str, Any]) -> GuestFacts:
    if report.get("format") != _FORMAT:
        raise BadReportError(
            f"its format is {report.get('format')!r}; this vmferry reads format {_FORMAT}"
        )
    try:
        facts = _FACTS.validate_json(json.dumps(report), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise BadReportError(f"{where}: {first['msg']}") from None
    if facts.cpus < 1 or facts.window < 0:
        raise BadReportError(f"it counts {facts.cpus} CPUs in {facts.window:g} s")
    return facts


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word} is too large")
    return value
