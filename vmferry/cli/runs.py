"""`vmferry runs`: the moves that the journal knows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmferry.cli.options import Json, known_key
from vmferry.cli.output import Output, printable, table
from vmferry.units import format_duration, format_size

if TYPE_CHECKING:
    from vmferry.journal import Run

HEADINGS = ("RUN", "STARTED", "VM", "POLICY", "STATUS", "TOTAL", "DOWNTIME", "PASSES", "SENT")
UNKNOWN = "-"


def runs(
    vm: Annotated[
        str | None, typer.Argument(metavar="VM", help="Only this VM's; otherwise everybody's.")
    ] = None,
    json: Json = False,
) -> None:
    """List the moves so far, the newest last."""
    from vmferry.journal import Journal

    output = Output(as_json=json)
    with Journal.open() as journal:
        found = journal.runs(known_key(vm, journal) if vm is not None else None)
    for run in found:
        output.record(record_of(run))
    if json:
        return
    if not found:
        output.note("no run yet" if vm is None else f"no run of '{vm}' yet")
        return
    output.say(table([HEADINGS, *(_row(run) for run in found)]))


def record_of(run: Run) -> dict[str, Any]:
    """A run for programs."""
    return {
        "event": "run",
        "format": 1,
        "run": run.id,
        "vm": run.vm,
        "started_at": run.started_at,
        "policy": run.policy,
        "limits": run.limits,
        "step": run.last_step.value,
        "outcome": run.outcome,
    }


def _row(run: Run) -> tuple[str, ...]:
    outcome = run.outcome or {}
    total, downtime = outcome.get("total_ms"), outcome.get("downtime_ms")
    sent = outcome.get("bytes")
    return (
        run.id,
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_at)),
        printable(run.vm),
        run.policy,
        str(outcome.get("status", "no outcome")),
        UNKNOWN if total is None else format_duration(total / 1000),
        UNKNOWN if downtime is None else format_duration(downtime / 1000),
        str(len(outcome["passes"])) if outcome else UNKNOWN,
        UNKNOWN if sent is None else format_size(sent),
    )
