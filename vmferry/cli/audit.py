"""`vmferry audit`: are the seven fast paths offered, negotiated and effective?"""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vmferry.cli.options import Json, duration

if TYPE_CHECKING:
    from vmferry.cli.output import Output
    from vmferry.fastpath.audit import Audit
    from vmferry.fastpath.finding import Feature
    from vmferry.fastpath.guest_access import GuestAccess

SHORTEST, LONGEST = 0.1, 60.0


def audit(
    vm: Annotated[
        str | None,
        typer.Argument(metavar="VM", help="A name that `vmferry ls` shows, or qmp:PATH."),
    ] = None,
    host: Annotated[bool, typer.Option("--host", help="Only what this host offers.")] = False,
    guest: Annotated[
        bool, typer.Option("--guest", help="This machine is the guest: look from inside.")
    ] = False,
    guest_via: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Look inside by it, as 'ssh root@vm python3 -'."),
    ] = None,
    guest_report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `guest_audit.py --json` printed inside."),
    ] = None,
    guest_agent: Annotated[
        Path | None,
        typer.Option(metavar="SOCKET", help="Look inside by QEMU's guest agent."),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this fast path; may be given again."),
    ] = None,
    window: Annotated[
        float, typer.Option(parser=duration, metavar="TIME", help="Measure for so long.")
    ] = "1s",  # type: ignore[assignment]
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also what only root can see and costs the host a moment."),
    ] = False,
    json: Json = False,
) -> int:
    """Find out whether a VM is on KVM's fast paths.

    Nothing is changed. Exit status: 0, or 7 where something is misconfigured.
    """
    from vmferry.cli.output import Output
    from vmferry.fastpath.audit import Request
    from vmferry.fastpath.audit import audit as carry_out
    from vmferry.fastpath.judges import JUDGES

    _check_target(vm, host=host, guest=guest)
    request = Request(
        vm=vm,
        host=host,
        guest=guest,
        access=_access(guest_via, guest_report, guest_agent, host=host),
        window=_window(window),
        deep=_deep(deep, vm),
        features=_features(feature),
    )
    found = asyncio.run(carry_out(request, JUDGES))
    _show(found, Output(as_json=json))
    return found.exit_status


def _show(found: Audit, output: Output) -> None:
    from vmferry.cli.bugs import keep_bug
    from vmferry.cli.output import table
    from vmferry.report.audit_words import describe, rows

    for finding in found.findings:
        output.record(finding.to_json())
    output.record(found.to_json())
    if not output.as_json:
        output.say(table(rows(found)))
        output.say("\n".join(describe(found)))
    if found.bugs:
        place = keep_bug("\n".join(found.bugs))
        where = f": the details are in {place}" if place is not None else f"\n{found.bugs[0]}"
        output.note(f"vmferry: a check failed, which is a bug in vmferry{where}")


def _check_target(vm: str | None, *, host: bool, guest: bool) -> None:
    from vmferry.errors import UsageError

    if (vm is not None) + host + guest != 1:
        raise UsageError(
            "say what to audit: a VM, --host or --guest",
            hint="`vmferry ls` shows the VMs; qmp:PATH names any QEMU by its QMP socket",
        )


def _access(
    via: str | None, report: Path | None, agent: Path | None, *, host: bool
) -> GuestAccess | None:
    from vmferry.errors import UsageError
    from vmferry.fastpath.guest_access import ByAgent, ByCommand, ByFile

    if sum(one is not None for one in (via, report, agent)) > 1:
        raise UsageError("give one of --guest-via, --guest-report and --guest-agent")
    if host and (via is not None or report is not None or agent is not None):
        raise UsageError("--host looks into no guest")
    if via is not None:
        try:
            words = shlex.split(via)
        except ValueError as error:
            raise UsageError(f"--guest-via is no command: {error}") from None
        if not words:
            raise UsageError("--guest-via needs a command, as 'ssh root@vm python3 -'")
        return ByCommand(tuple(words))
    if report is not None:
        return ByFile(report)
    return None if agent is None else ByAgent(agent)


def _window(seconds: float) -> float:
    from vmferry.errors import UsageError

    if not SHORTEST <= seconds <= LONGEST:
        raise UsageError(f"--window must be between {SHORTEST:g}s and {LONGEST:g}s")
    return seconds


def _deep(wanted: bool, vm: str | None) -> bool:
    from vmferry.errors import UsageError

    if wanted and vm is None:
        raise UsageError("--deep is for a VM")
    return wanted


def _features(names: list[str] | None) -> tuple[Feature, ...]:
    from vmferry.errors import UsageError
    from vmferry.fastpath.finding import Feature

    known = {one.value: one for one in Feature}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise UsageError(f"'{unknown[0]}' is no fast path; they are {', '.join(known)}")
    return tuple(one for one in Feature if not names or one.value in names)
