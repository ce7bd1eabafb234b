"""What `forecast` and `plan` share: one of VM, --curve and --trace makes the case to forecast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vmferry.cli.options import duration, rate

if TYPE_CHECKING:
    from vmferry.move.measured import Measured
    from vmferry.precopy.case import Case, Setting

DEFAULT_LIMIT_SECONDS = 0.3

OptionalVm = Annotated[
    str | None,
    typer.Argument(metavar="[VM]", help="A name that `vmferry ls` shows, or qmp:PATH."),
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
    typer.Option(metavar="DEST", help="local, tcp:HOST:PORT or unix:PATH: whose speed it has."),
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


def measured(asked: Asked) -> Measured:
    """The case that was asked about. Raises UsageError."""
    from vmferry.cli.migrate import check_limits
    from vmferry.errors import UsageError
    from vmferry.move.measured import Measured

    if sum(one is not None for one in (asked.vm, asked.curve, asked.trace)) != 1:
        raise UsageError("give one of VM, --curve FILE and --trace FILE")
    if asked.after_pass is not None and asked.trace is None:
        raise UsageError("--after-pass goes with --trace")
    if asked.after_pass is not None and asked.after_pass < 1:
        raise UsageError("--after-pass takes the number of a pass, from 1 on")
    check_limits(asked.bandwidth, asked.downtime or DEFAULT_LIMIT_SECONDS)
    if asked.vm is not None:
        return _of_vm(asked.vm, asked)
    if asked.curve is not None:
        return Measured(_of_curve(asked.curve, asked), f"the dirty curve is {asked.curve}")
    assert asked.trace is not None
    return Measured(_of_trace(asked.trace, asked), f"all figures are from {asked.trace}")


def _of_vm(vm: str, asked: Asked) -> Measured:
    from vmferry.cli.options import known_key
    from vmferry.journal import Journal
    from vmferry.move.measured import case_of_vm
    from vmferry.vm.address import parse_destination

    destination = parse_destination(asked.to)
    with Journal.open() as journal:
        return case_of_vm(journal, known_key(vm, journal), destination, _setting(asked))


def _of_curve(path: Path, asked: Asked) -> Case:
    from vmferry.precopy.case import Case, Link
    from vmferry.precopy.profile import DirtyProfile
    from vmferry.precopy.speeds import UNKNOWN, burst_of

    profile = DirtyProfile.parse(_text(path, "--curve"), str(path))
    return Case(profile, _setting(asked), Link(UNKNOWN, burst_of(UNKNOWN)))


def _of_trace(path: Path, asked: Asked) -> Case:
    from vmferry.precopy.case_of import case_of, cut
    from vmferry.precopy.trace import read_trace

    trace = read_trace(_text(path, "--trace").splitlines(), str(path))
    if asked.after_pass is not None:
        trace = cut(trace, asked.after_pass)
    case = case_of(trace, name=str(path))
    setting = case.setting
    if asked.bandwidth is not None:
        setting = replace(setting, bandwidth=asked.bandwidth)
    if asked.downtime is not None:
        setting = replace(setting, downtime_limit_ms=round(asked.downtime * 1000))
    return replace(case, setting=setting)


def _setting(asked: Asked) -> Setting:
    from vmferry.precopy.case import Setting

    limit = DEFAULT_LIMIT_SECONDS if asked.downtime is None else asked.downtime
    return Setting(bandwidth=asked.bandwidth or 0, downtime_limit_ms=round(limit * 1000))


def _text(path: Path, option: str) -> str:
    from vmferry.errors import UsageError

    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{option}: {path} is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be read: {error.strerror}") from None
