"""What an audit finds on both hosts: this one's is made here, the destination's comes in a file.

Loading the audit's judges takes 0.1 s: who seldom needs this imports it when needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vmferry.errors import UsageError
from vmferry.fastpath.audit import THIS_HOST, Request, audit
from vmferry.fastpath.finding import Finding
from vmferry.fastpath.judges import JUDGES

_FORMAT = 1
# A hundred times that of a host with many IOMMUs.
_MOST_BYTES = 4 << 20
_HOW = "on the destination's host: vmferry audit --host --json > FILE; bring the file here"


class _Wrong(Exception):
    """What is wrong with the text."""


async def audit_here() -> tuple[Finding, ...]:
    """What the audit of this host finds, without a window."""
    return (await audit(Request(host=True), JUDGES)).findings


def read_audit(path: Path) -> tuple[Finding, ...]:
    """What `vmferry audit --host --json` found, from a file with its output. Raises UsageError."""
    try:
        if not path.is_file():  # a pipe would keep us waiting
            raise UsageError(f"--to-audit: {path} is not there or no file", hint=_HOW)
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--to-audit: {path} cannot be read: {error.strerror}") from None
    try:
        return _findings(text)
    except _Wrong as wrong:
        raise UsageError(f"--to-audit: {path} is no audit of a host: {wrong}", hint=_HOW) from None


def _findings(text: bytes) -> tuple[Finding, ...]:
    """Lines that do not look like JSON are passed over: login shells greet."""
    if not text.strip():
        raise _Wrong("it is empty")
    if len(text) > _MOST_BYTES:
        raise _Wrong(f"it has more than {_MOST_BYTES >> 20} MiB")
    lines = text.decode(errors="replace").splitlines()
    found: list[Finding] = []
    last: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("{"):
            last = _record(line, number)
            if last["event"] == "finding":
                found.append(_finding(last, number))
    if not last:
        raise _Wrong("it has no line of JSON")
    if last["event"] != "audit":
        raise _Wrong("its last line, the one for all of the audit, is missing")
    if last.get("subject") != THIS_HOST:
        raise _Wrong(f"what was audited is {str(last.get('subject'))[:80]!r}")
    return tuple(found)


def _record(line: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise _Wrong(f"line {number} is no JSON") from None
    if record.get("event") not in ("finding", "audit"):
        raise _Wrong(f"line {number} is of another command")
    if record.get("format") != _FORMAT:
        told = str(record.get("format"))[:20]
        raise _Wrong(f"its format is {told}, and this vmferry reads {_FORMAT}: take one version")
    return record  # type: ignore[no-any-return]


def _finding(record: dict[str, Any], number: int) -> Finding:
    try:
        return Finding.from_json(record)
    except ValueError as error:
        raise _Wrong(f"line {number}: {str(error)[:120]}") from None
