"""`vmferry check`: whether a VM may move to a place, with every reason at once; nothing moves."""

from __future__ import annotations

import asyncio
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from vmferry.cli.options import (
    Destination,
    DestinationAudit,
    DestinationQmp,
    Json,
    VmArgument,
    absolute,
    check_to_audit,
    check_to_qmp,
)
from vmferry.cli.output import Output

if TYPE_CHECKING:
    from vmferry.preflight.finding import Finding
    from vmferry.preflight.registry import Preflight

FORBIDDEN = 3
_WIDTH = 100
_INDENT = "    "


def check(
    vm: VmArgument,
    to: Destination,
    to_qmp: DestinationQmp = None,
    to_audit: DestinationAudit = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show the evidence of what is right as well.")
    ] = False,
    json: Json = False,
) -> int:
    """Say what is against a move: every reason, with its evidence and remedy. Nothing changes."""
    from vmferry.journal import Journal
    from vmferry.move.check import CheckRequest
    from vmferry.move.check import check as check_move

    check_to_qmp(to_qmp, to)
    check_to_audit(to_audit, to)
    request = CheckRequest(vm, to, absolute(to_qmp), absolute(to_audit))
    with Journal.open() as journal:
        preflight = asyncio.run(check_move(request, journal))
    output = Output(as_json=json)
    for finding in preflight.findings:
        output.record(finding.to_json())
    output.record(preflight.to_json())
    if not json:
        output.say(described(preflight, everything=everything))
    return 0 if preflight.to_json()["may_move"] else FORBIDDEN


def described(preflight: Preflight, *, everything: bool) -> str:
    """All findings for people, the worst first; of what is right the names alone."""
    from vmferry.preflight.finding import Verdict

    parts = []
    for verdict in (Verdict.BLOCKER, Verdict.WARNING, Verdict.UNTOLD, Verdict.OK):
        findings = preflight.of(verdict)
        if verdict in (Verdict.BLOCKER, Verdict.WARNING) or everything:
            parts += [_in_full(finding) for finding in findings]
        elif verdict is Verdict.UNTOLD:
            parts += _untold(findings)
        elif findings:
            names = ", ".join(finding.name for finding in findings)
            parts.append(_wrapped(f"ok: {names}", ""))
    return "\n".join([*parts, _summary(preflight)])


def _in_full(finding: Finding) -> str:
    answer = finding.answer
    lines = [f"{finding.verdict.value.upper()} {finding.name}: {answer.what}"]
    lines += [_wrapped(f"read: {one}", _INDENT) for one in answer.evidence]
    lines.append(_wrapped(f"why: {finding.why}", _INDENT))
    if answer.remedy:
        lines.append(_wrapped(f"do: {answer.remedy}", _INDENT))
    return "\n".join(lines)


def _untold(findings: tuple[Finding, ...]) -> list[str]:
    """One paragraph for each reason that something cannot be told."""
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        reasons.setdefault(finding.answer.what, []).append(finding.name)
    return [
        _wrapped(f"CANNOT BE TOLD {', '.join(names)}: {reason}", "")
        for reason, names in reasons.items()
    ]


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _summary(preflight: Preflight) -> str:
    from vmferry.preflight.finding import Verdict

    counts = {verdict: len(preflight.of(verdict)) for verdict in Verdict}
    told = ", ".join(
        f"{counts[verdict]} {word}"
        for verdict, word in (
            (Verdict.BLOCKER, "blocker" if counts[Verdict.BLOCKER] == 1 else "blockers"),
            (Verdict.WARNING, "warning" if counts[Verdict.WARNING] == 1 else "warnings"),
            (Verdict.UNTOLD, "cannot be told"),
            (Verdict.OK, "ok"),
        )
        if counts[verdict]
    )
    may = "may move" if not counts[Verdict.BLOCKER] else "may not move"
    return f"'{preflight.vm}' {may} to {preflight.to}: {told}."
