"""What an audit found, in words: the table of the seven, then each finding that asks for something.

The worst comes first. What cannot be told is last, and grouped by what to start or run so that it
can be told.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from vmferry.fastpath.audit import Audit
from vmferry.fastpath.finding import Finding, Level, Verdict

WIDTH = 100
NO_QUESTION = "-"
_HEADINGS = ("FAST PATH", *(level.name for level in Level))
_STANDS_STILL = (
    "the VM is paused: let it run (QMP `cont`) and audit again, since it does nothing to measure"
)
_SHOWN = (Verdict.MISCONFIGURED, Verdict.BETTER)


def rows(audit: Audit) -> list[tuple[str, ...]]:
    """The headings, and a row for each fast path with its verdict at each level."""
    table: list[tuple[str, ...]] = [_HEADINGS]
    for feature in audit.features:
        verdicts = (audit.verdict(feature, level) for level in Level)
        table.append(
            (feature.value, *(NO_QUESTION if one is None else one.value for one in verdicts))
        )
    return table


def describe(audit: Audit) -> list[str]:
    """The lines below the table."""
    lines: list[str] = []
    for verdict in _SHOWN:
        for finding in audit.findings:
            if finding.verdict is verdict:
                lines += ["", *_finding(finding)]
    lines += _untold([one for one in audit.findings if one.verdict is Verdict.UNTOLD])
    if audit.facts.vm is not None and audit.facts.vm.running is False:
        lines += ["", _STANDS_STILL]
    return [*lines, "", summary(audit)]


def summary(audit: Audit) -> str:
    """One sentence: how many of what."""
    counts = [
        (len({_key(one) for one in audit.findings if one.verdict is verdict}), verdict.value)
        for verdict in (*_SHOWN, Verdict.UNTOLD)
    ]
    told = ", ".join(f"{count} {word}" for count, word in counts if count)
    return f"{audit.subject}: {told or 'everything is as it should be'}"


def _finding(finding: Finding) -> list[str]:
    place = f"{finding.feature.value}, {finding.level.value}"
    if finding.subject:
        place += f", {finding.subject}"
    lines = [f"{finding.verdict.value}: {place} ({finding.check})", *_wrapped("", finding.what)]
    lines += [f"  seen: {one}" for one in finding.evidence]
    for label, text in (("why", finding.why), ("change", finding.change), ("cost", finding.cost)):
        if text:
            lines += _wrapped(f"{label}: ", text)
    return lines


def _untold(findings: list[Finding]) -> list[str]:
    """What cannot be told, by what would let it be told, and by the reason."""
    groups: dict[str, dict[tuple[object, ...], list[Finding]]] = {}
    for finding in findings:
        reason = (finding.what, finding.why, finding.evidence)
        groups.setdefault(finding.change, {}).setdefault(reason, []).append(finding)
    lines: list[str] = []
    for change, reasons in groups.items():
        lines += ["", f"{Verdict.UNTOLD.value}:"]
        for alike in reasons.values():
            first = alike[0]
            why = f" ({first.why})" if first.why else ""
            lines += _wrapped("", f"{_places(alike)}: {first.what}{why}")
            lines += [f"    seen: {one}" for one in first.evidence]
        if change:
            lines += _wrapped("to tell: ", change)
    return lines


def _places(findings: list[Finding]) -> str:
    """`clock negotiated and effective; net-queues offered of net0`."""
    levels: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        levels.setdefault((finding.feature.value, finding.subject), []).append(finding.level.value)
    return "; ".join(
        f"{feature} {' and '.join(dict.fromkeys(named))}" + (f" of {subject}" if subject else "")
        for (feature, subject), named in levels.items()
    )


def _wrapped(label: str, text: str) -> Iterable[str]:
    return textwrap.wrap(
        f"{label}{text}",
        WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _key(finding: Finding) -> tuple[object, ...]:
    return (finding.feature, finding.level, finding.check, finding.subject)
