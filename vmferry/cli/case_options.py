"""What `forecast` and `plan` share: one of VM, --curve and --trace makes the case to forecast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vmferry.cli.options import duration, rate

if TYPE_CHECKING:
    from vmferry.cli.output import Output
    from vmferry.journal.curves import KeptCurve
    from vmferry.move.measured import Measured
    from vmferry.precopy.case import Case, Setting

DEFAULT_LIMIT_SECONDS = 0.3
LEAST_SECONDS, MOST_SECONDS = 1.0, 60.0

OptionalVm = Annotated[
    str | None,
    typer.Argument(metavar="VM", help="A name that `vmferry ls` shows, or qmp:PATH."),
]
CurveOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A dirty curve instead of a VM.")
]
TraceOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A recorded trace instead of a VM.")
]
AfterPass = Annotated[
    int | None,
    typer.Option(metavar="K", help="Cut the trace after pass K and forecast from there."),
]
Bandwidth = Annotated[
    int | None,
    typer.Option(parser=rate, metavar="RATE", help="At most this speed, such as 100MiB/s."),
]
Downtime = Annotated[
    float | None,
    typer.Option(parser=duration, metavar="TIME", help="QEMU's downtime limit, such as 300ms."),
]
To = Annotated[
    str,
    typer.Option(metavar="DEST", help="Where the VM shall go: local, tcp:HOST:PORT or unix:PATH."),
]
Measure = Annotated[
    bool,
    typer.Option(
        "--measure",
        help="Measure now what the VM dirties, by QEMU's calc-dirty-rate: in seconds, and less"
        " certain than `vmferry rehearse`.",
    ),
]
MeasureFor = Annotated[
    float | None,
    typer.Option(
        "--for", parser=duration, metavar="TIME", help="With --measure: at most this long [8s]."
    ),
]


@dataclass(frozen=True, slots=True)
class Asked:
    """The options as given."""

    vm: str | None
    curve: Path | None
    trace: Path | None
    after_pass: int | None
    bandwidth: int | None
    downtime: float | None
    to: str = "local"
    measure: bool = False
    seconds: float | None = None


def measured(asked: Asked, output: Output) -> Measured:
    """The case that was asked about. Raises UsageError, and RefusedError where it is not to be
    measured now."""
    from vmferry.cli.migrate import check_limits
    from vmferry.errors import UsageError
    from vmferry.move.measured import Measured

    if sum(one is not None for one in (asked.vm, asked.curve, asked.trace)) != 1:
        raise UsageError("give one of VM, --curve FILE and --trace FILE")
    if asked.after_pass is not None and asked.trace is None:
        raise UsageError("--after-pass goes with --trace")
    if asked.after_pass is not None and asked.after_pass < 1:
        raise UsageError("--after-pass takes the number of a pass, from 1 on")
    check_limits(
        asked.bandwidth, DEFAULT_LIMIT_SECONDS if asked.downtime is None else asked.downtime
    )
    _check_measure(asked)
    if asked.vm is not None:
        return _of_vm(asked.vm, asked, output)
    if asked.curve is not None:
        return Measured(
            _of_curve(asked.curve, asked),
            f"the dirty curve is {asked.curve}; the speeds are what is usual",
        )
    assert asked.trace is not None
    return _of_trace(asked.trace, asked)


def _check_measure(asked: Asked) -> None:
    """--measure and --for. Raises UsageError."""
    from vmferry.errors import UsageError

    if asked.measure and asked.vm is None:
        raise UsageError("--measure goes with a VM")
    if asked.to != "local" and asked.vm is None:
        raise UsageError("--to goes with a VM: a file has its speeds, or none")
    if asked.seconds is not None and not asked.measure:
        raise UsageError("--for goes with --measure")
    if asked.seconds is not None and not LEAST_SECONDS <= asked.seconds <= MOST_SECONDS:
        raise UsageError(f"--for must be between {LEAST_SECONDS:g}s and {MOST_SECONDS:g}s")


def _of_vm(vm: str, asked: Asked, output: Output) -> Measured:
    from vmferry.cli.options import known_key
    from vmferry.journal import Journal
    from vmferry.move.measured import case_of_vm
    from vmferry.vm.address import parse_destination

    destination = parse_destination(asked.to)
    with Journal.open() as journal:
        key = known_key(vm, journal)
        new = _measure(vm, asked, output) if asked.measure else None
        return case_of_vm(journal, key, destination, _setting(asked), new)


def _measure(vm: str, asked: Asked, output: Output) -> KeptCurve:
    """Measure the VM now, and keep it for later forecasts. Raises UsageError, RefusedError."""
    import asyncio
    import time

    from vmferry.hypervisor.qemu.dirty_rate import MEASURE_SECONDS
    from vmferry.journal.curves import KeptCurve, curves_file, keep_curve
    from vmferry.move.measure import measure_vm
    from vmferry.units import format_duration
    from vmferry.vm.address import parse_vm

    seconds = MEASURE_SECONDS if asked.seconds is None else asked.seconds
    output.note(f"measuring '{vm}' for at most {format_duration(seconds)}; it runs on meanwhile")
    address = parse_vm(vm)
    began = time.monotonic()
    profile = asyncio.run(measure_vm(address, seconds))
    kept = KeptCurve(address.key, time.time(), time.monotonic() - began, profile)
    try:
        keep_curve(kept)
    except OSError as error:
        output.note(f"the curve could not be kept in {curves_file()}: {error.strerror}")
    return kept


def _of_curve(path: Path, asked: Asked) -> Case:
    from vmferry.errors import UsageError
    from vmferry.precopy.case import Case, Link
    from vmferry.precopy.profile import DirtyProfile
    from vmferry.precopy.speeds import UNKNOWN, burst_of

    profile = DirtyProfile.parse(_text(path, "--curve"), str(path))
    if not profile.points:
        raise UsageError(
            f"{path}: 'points' is empty, so nothing tells what the guest dirties",
            hint="a guest that dirties nothing has a point of 0 bytes",
        )
    return Case(profile, _setting(asked), Link(UNKNOWN, burst_of(UNKNOWN)))


def _of_trace(path: Path, asked: Asked) -> Measured:
    from vmferry.move.measured import Measured
    from vmferry.precopy.case_of import case_of, cut
    from vmferry.precopy.speeds import look_at
    from vmferry.precopy.trace import read_trace

    # Not by splitlines(): to it a text inside the JSON may hold line ends too.
    trace = read_trace(_text(path, "--trace").split("\n"), str(path))
    if asked.after_pass is not None:
        trace = cut(trace, asked.after_pass)
    case = case_of(trace, name=str(path))
    setting = case.setting
    if asked.bandwidth is not None:
        setting = replace(setting, bandwidth=asked.bandwidth)
    if asked.downtime is not None:
        setting = replace(setting, downtime_limit_ms=round(asked.downtime * 1000))
    reached = look_at(trace.items).reached
    return Measured(replace(case, setting=setting), f"all figures are from {path}", reached)


def _setting(asked: Asked) -> Setting:
    from vmferry.precopy.case import Setting

    limit = DEFAULT_LIMIT_SECONDS if asked.downtime is None else asked.downtime
    return Setting(bandwidth=asked.bandwidth or 0, downtime_limit_ms=round(limit * 1000))


def _text(path: Path, option: str) -> str:
    from vmferry.errors import UsageError

    try:
        # Some editors put a mark before the first letter.
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{option}: {path} is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be read: {error.strerror}") from None
