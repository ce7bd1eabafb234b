"""`vmferry rehearse`: would this VM's move converge, and how? Answered without moving it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmferry.cli.migrate import check_limits
from vmferry.cli.options import Json, VmArgument, duration, rate

if TYPE_CHECKING:
    from vmferry.cli.display import Display
    from vmferry.rehearsal.request import RehearsalRequest

EXIT_STATUS = {"converges": 0, "does-not-converge": 7, "uncertain": 8}
FAILED, NEEDS_RECOVERY, INTERRUPTED = 5, 6, 130
CANCELLING = "cancelling: the VM stays where it is"


def rehearse(
    vm: VmArgument,
    bandwidth: Annotated[
        int | None,
        typer.Option(parser=rate, metavar="RATE", help="The move's speed, such as 100MiB/s."),
    ] = None,
    downtime: Annotated[
        float,
        typer.Option(parser=duration, metavar="TIME", help="The VM may stand still this long."),
    ] = "300ms",  # type: ignore[assignment]
    seconds: Annotated[
        float,
        typer.Option("--for", parser=duration, metavar="TIME", help="Take at most this long."),
    ] = "60s",  # type: ignore[assignment]
    watch: Annotated[
        float | None,
        typer.Option(
            parser=duration, metavar="TIME", help="Rehearse again and again over this time."
        ),
    ] = None,
    every: Annotated[
        float,
        typer.Option(parser=duration, metavar="TIME", help="With --watch: begin so often."),
    ] = "15min",  # type: ignore[assignment]
    json: Json = False,
) -> int:
    """Find out whether a move would converge, without moving.

    The VM's memory is copied to nowhere, under its load. Exit status: 0 the move would converge,
    7 it would not, 8 uncertain.
    """
    from vmferry.cli.display import make_display
    from vmferry.cli.output import Output
    from vmferry.cli.rehearse_watch import rehearse_over
    from vmferry.errors import UsageError
    from vmferry.policy.base import Limits
    from vmferry.rehearsal.request import RehearsalRequest

    check_limits(bandwidth, downtime)
    if seconds <= 0:
        raise UsageError("--for must be more than nothing")
    if watch is not None and every < seconds:
        raise UsageError("--every must be at least as long as --for")
    if watch is not None and bandwidth is None:
        raise UsageError("--watch needs a --bandwidth: at full speed it would harm the guest")
    milliseconds = round(downtime * 1000)
    limits = Limits(
        max_downtime_ms=milliseconds, downtime_limit_ms=milliseconds, bandwidth=bandwidth or 0
    )
    request = RehearsalRequest(vm, limits, seconds)
    if watch is not None:
        return rehearse_over(request, watch, every, Output(as_json=json))
    return carry_out(request, make_display(as_json=json)).status


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """The exit status, the outcome, and what was found, if it came so far."""

    status: int
    outcome: Mapping[str, Any]
    found: Mapping[str, Any] | None


def carry_out(request: RehearsalRequest, display: Display) -> Rehearsed:
    """Have a guardian carry `request` out, and show it.

    Raises VmferryError where it was refused before anything was changed.
    """
    from vmferry.cli.guardian_client import GuardianDied, guarded
    from vmferry.cli.guardian_lines import settle_after_death, settle_earlier, show
    from vmferry.cli.output import table
    from vmferry.precopy.progress import Progress
    from vmferry.report.rehearsal_words import describe_rehearsal, forecast_rows
    from vmferry.vm.address import parse_vm

    settle_earlier(parse_vm(request.vm).key)
    progress = Progress()
    outcome: dict[str, Any] | None = None
    found: dict[str, Any] | None = None
    xray: dict[str, Any] | None = None
    cancelled = False

    def cancelling() -> None:
        nonlocal cancelled
        cancelled = True
        display.message(CANCELLING)

    try:
        for line in guarded(request, cancelling):
            if line.get("event") == "outcome":
                outcome = line
            elif "rehearsal" in line:
                found = line["rehearsal"]
            elif "xray" in line:
                xray = line["xray"]
            else:
                show(line, progress, display)
    except GuardianDied as death:
        outcome = settle_after_death(death, "rehearsal", display)
    finally:
        display.stop()
    if outcome is None:
        raise AssertionError("a guardian ended without an outcome")
    if found is not None:
        display.record({"event": "rehearsal", "run": outcome["run"], "vm": outcome["vm"], **found})
    display.close(outcome)
    if found is not None:
        display.message("\n".join(describe_rehearsal(found, xray)))
        if rows := forecast_rows(found):
            display.message(table(rows))
            display.message(f"`vmferry plan {request.vm}` shows what else would do.")
    return Rehearsed(_status(outcome, found, cancelled=cancelled), outcome, found)


def _status(outcome: Mapping[str, Any], found: Mapping[str, Any] | None, *, cancelled: bool) -> int:
    if outcome["status"] == "needs-recovery" or outcome["vm_runs_at"] != "source":
        return NEEDS_RECOVERY
    if cancelled:
        return INTERRUPTED
    if found is None or outcome["status"] != "cancelled":
        return FAILED
    return EXIT_STATUS[found["verdict"]]
