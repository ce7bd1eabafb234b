"""`vmferry rehearse`: would this VM's move converge, and how? Answered without moving it."""

from __future__ import annotations

from collections.abc import Mapping
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
        typer.Option("--for", parser=duration, metavar="TIME", help="At most this long."),
    ] = "60s",  # type: ignore[assignment]
    json: Json = False,
) -> int:
    """Find out whether a move would converge: copy the VM's memory to nowhere, under its load."""
    from vmferry.cli.display import make_display
    from vmferry.errors import UsageError
    from vmferry.policy.base import Limits
    from vmferry.rehearsal.request import RehearsalRequest

    check_limits(bandwidth, downtime)
    if seconds <= 0:
        raise UsageError("--for must be more than nothing")
    milliseconds = round(downtime * 1000)
    limits = Limits(
        max_downtime_ms=milliseconds, downtime_limit_ms=milliseconds, bandwidth=bandwidth or 0
    )
    return carry_out(RehearsalRequest(vm, limits, seconds), make_display(as_json=json))


def carry_out(request: RehearsalRequest, display: Display) -> int:
    """Have a guardian carry `request` out, and show it; returns the exit status.

    Raises VmferryError where it was refused before anything was changed.
    """
    from vmferry.cli.guardian_client import GuardianDied, guarded
    from vmferry.cli.guardian_lines import settle_after_death, settle_earlier, show
    from vmferry.precopy.progress import Progress
    from vmferry.report.rehearsal_words import describe_rehearsal
    from vmferry.vm.address import parse_vm

    settle_earlier(parse_vm(request.vm).key)
    progress = Progress(request.limits.downtime_limit_ms)
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
    return _status(outcome, found, cancelled=cancelled)


def _status(outcome: Mapping[str, Any], found: Mapping[str, Any] | None, *, cancelled: bool) -> int:
    if outcome["status"] == "needs-recovery" or outcome["vm_runs_at"] != "source":
        return NEEDS_RECOVERY
    if cancelled:
        return INTERRUPTED
    if found is None or outcome["status"] != "cancelled":
        return FAILED
    return EXIT_STATUS[found["verdict"]]
