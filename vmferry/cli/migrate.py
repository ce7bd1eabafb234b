"""`vmferry migrate`: moves a running VM and shows it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    check_writable,
    duration,
    rate,
)
from vmferry.units import GIB, KIB, MIB

if TYPE_CHECKING:
    from vmferry.cli.display import Display
    from vmferry.errors import RefusedError
    from vmferry.move.run import Request
    from vmferry.precopy.outcome import Outcome
    from vmferry.precopy.progress import Estimate

EXIT_STATUS = {
    "completed": 0,
    "refused": 3,
    "abandoned": 4,
    "cancelled": 4,
    "failed": 5,
    "needs-recovery": 6,
}
NOWHERE = 6
CANCELLING = "cancelling: the VM stays at the source, unless it has begun to switch over"


class PolicyName(enum.StrEnum):
    FIXED = "fixed"


class Profile(enum.StrEnum):
    CLASSIC = "classic"


class Pinning(enum.StrEnum):
    AUTO = "auto"
    NEVER = "never"


CLASSIC_BANDWIDTH = 32 * MIB
MIN_BANDWIDTH, MAX_BANDWIDTH = 64 * KIB, 1024 * GIB
DOWNTIME_SECONDS = 0.3
# migration/options.c: MAX_MIGRATE_DOWNTIME_SECONDS
MAX_DOWNTIME_SECONDS = 2000.0


def migrate(
    vm: VmArgument,
    to: Destination,
    to_qmp: DestinationQmp = None,
    to_audit: DestinationAudit = None,
    policy: Annotated[PolicyName, typer.Option(help="Who steers.")] = PolicyName.FIXED,
    profile: Annotated[
        Profile | None, typer.Option(help="classic: 32 MiB/s and 300 ms, as of old.")
    ] = None,
    bandwidth: Annotated[
        int | None,
        typer.Option(parser=rate, metavar="RATE", help="At most this speed, such as 100MiB/s."),
    ] = None,
    downtime: Annotated[
        float,
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="QEMU's downtime limit: sending what is left may take this long, at the passes'"
            " speed.",
        ),
    ] = "300ms",  # type: ignore[assignment]
    deadline: Annotated[
        float | None,
        typer.Option(parser=duration, metavar="TIME", help="Abandon the move after this long."),
    ] = None,
    pin_migration: Annotated[
        Pinning,
        typer.Option(help="auto: keep migration threads off the vCPUs' cores where possible."),
    ] = Pinning.NEVER,
    verify: Annotated[
        bool, typer.Option("--verify", help="Have a test guest check all its pages afterwards.")
    ] = False,
    force: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Move although this check of `vmferry check` forbids it; repeat."
        ),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the recorded trace there.")
    ] = None,
    json: Json = False,
) -> int:
    """Move a running VM. It goes on at the source unless the move succeeds."""
    from vmferry.cli.display import make_display
    from vmferry.cli.output import Output
    from vmferry.errors import RefusedError
    from vmferry.move.run import Request
    from vmferry.policy.base import Limits

    check_to_audit(to_audit, to)
    _check(to_qmp, to, bandwidth, downtime, deadline, trace)
    _check_forced(force or [])
    if bandwidth is None and profile is Profile.CLASSIC:
        bandwidth = CLASSIC_BANDWIDTH
    milliseconds = round(downtime * 1000)
    request = Request(
        vm=vm,
        to=to,
        limits=Limits(
            max_downtime_ms=milliseconds,
            downtime_limit_ms=milliseconds,
            bandwidth=bandwidth or 0,
            deadline=deadline,
        ),
        to_qmp=absolute(to_qmp),
        to_audit=absolute(to_audit),
        policy=policy.value,
        pin_apart=pin_migration is Pinning.AUTO,
        verify=verify,
        force=tuple(force or ()),
    )
    try:
        outcome = carry_out(request, make_display(as_json=json), trace=trace).outcome
    except RefusedError as error:
        Output(as_json=json).record(_refused(request, error).to_json())
        raise
    if outcome["vm_runs_at"] in ("nowhere", "unknown"):
        return NOWHERE
    return EXIT_STATUS[outcome["status"]]


@dataclass(frozen=True, slots=True)
class Moved:
    """How a move ended, and the last judgement while it ran."""

    outcome: dict[str, Any]
    estimate: Estimate | None


def carry_out(request: Request, display: Display, *, trace: Path | None = None) -> Moved:
    """Have a guardian carry `request` out, and show it.

    Raises VmferryError where it was refused before anything was changed.
    """
    from vmferry.cli.guardian_client import GuardianDied, guarded
    from vmferry.cli.guardian_lines import settle_after_death, settle_earlier, show
    from vmferry.precopy.progress import Progress
    from vmferry.vm.address import parse_destination, parse_vm

    parse_destination(request.to)
    settle_earlier(parse_vm(request.vm).key)
    progress = Progress()
    outcome: dict[str, Any] | None = None
    try:
        for line in guarded(request, lambda: display.message(CANCELLING)):
            if line.get("event") == "outcome":
                outcome = line
            else:
                show(line, progress, display)
    except GuardianDied as death:
        outcome = settle_after_death(death, "move", display)
    finally:
        display.stop()
    if outcome is None:
        raise AssertionError("a guardian ended without an outcome")
    display.close(outcome)
    if trace is not None:
        _write_trace(str(outcome["run"]), trace)
    return Moved(outcome, progress.snapshot().estimate)


def _refused(request: Request, error: RefusedError) -> Outcome:
    """The outcome of a move that was not begun; it is no run."""
    from vmferry.precopy.outcome import Outcome

    return Outcome(
        run="",
        vm=request.vm,
        status="refused",
        vm_runs_at="source",
        policy=request.policy,
        total_ms=0.0,
        downtime_ms=None,
        bytes=0,
        resent_bytes=0,
        passes=(),
        guest=None,
        cost=None,
        why=error.message,
    )


def _check(
    to_qmp: Path | None,
    to: str,
    bandwidth: int | None,
    downtime: float,
    deadline: float | None,
    trace: Path | None,
) -> None:
    """What the options' own types cannot say. Raises UsageError."""
    from vmferry.errors import UsageError

    check_limits(bandwidth, downtime)
    if deadline is not None and deadline <= 0:
        raise UsageError("--deadline must be more than nothing")
    check_to_qmp(to_qmp, to)
    if trace is not None:
        check_writable("--trace", trace)


def _check_forced(names: list[str]) -> None:
    """See that --force names checks that may be forced. Raises UsageError."""
    from vmferry.errors import UsageError
    from vmferry.preflight.registry import CHECKS

    forceable = {check.name: check.forceable for check in CHECKS}
    for name in names:
        if name not in forceable:
            raise UsageError(
                f"--force: there is no check '{name}'",
                hint="`vmferry check VM --to DEST` names those that say no",
            )
        if not forceable[name]:
            raise UsageError(f"--force: without '{name}' a move cannot even begin")


def check_limits(bandwidth: int | None, downtime: float) -> None:
    """Bytes a second and seconds, as QEMU takes them. Raises UsageError."""
    from vmferry.errors import UsageError

    if bandwidth is not None and not MIN_BANDWIDTH <= bandwidth <= MAX_BANDWIDTH:
        raise UsageError("--bandwidth must be between 64KiB/s and 1TiB/s")
    if not 0.001 <= downtime <= MAX_DOWNTIME_SECONDS:
        raise UsageError("--downtime must be between 1ms and 2000s")


def _write_trace(run: str, path: Path) -> None:
    from vmferry.errors import UsageError
    from vmferry.journal import Journal

    with Journal.open() as journal:
        try:
            path.write_text("".join(f"{line}\n" for line in journal.lines(run)))
        except OSError as error:
            raise UsageError(
                f"--trace: {path} cannot be written: {error.strerror}",
                hint=f"the run is recorded: `vmferry show {run} --trace`",
            ) from None
