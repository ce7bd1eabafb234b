"""Options and arguments that several commands share, and quantities with units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from vmferry.units import UnitError, parse_duration, parse_rate, parse_size

if TYPE_CHECKING:
    from vmferry.journal import Journal

T = TypeVar("T")


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` as a typer parser: its message reaches the user."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except UnitError as error:
            raise typer.BadParameter(str(error)) from None

    return convert


size = _checked(parse_size)
rate = _checked(parse_rate)
duration = _checked(parse_duration)


def known_key(vm: str, journal: Journal) -> str:
    """What the journal calls a VM. Raises UsageError where there is neither the VM nor a run."""
    from vmferry.errors import UsageError
    from vmferry.vm.address import VmName, parse_vm
    from vmferry.vm.registry import lookup

    address = parse_vm(vm)
    if not journal.runs(address.key):
        if isinstance(address, VmName):
            lookup(address.name)
        elif not address.path.exists():
            raise UsageError(f"there is no socket {address.path}")
    return address.key


def check_writable(option: str, path: Path) -> None:
    """See that a file can be written there, before anything is done for it. Raises UsageError."""
    from vmferry.errors import UsageError

    try:
        existed = path.exists()
        with path.open("a"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be written: {error.strerror}") from None


def absolute(path: Path | None) -> str | None:
    """The path for another process, which may be in another folder."""
    return None if path is None else str(path.absolute())


def check_to_qmp(to_qmp: Path | None, to: str) -> None:
    """See that --to-qmp is a socket, and goes with --to. Raises UsageError."""
    from vmferry.errors import UsageError

    if to_qmp is not None and to == "local":
        raise UsageError("--to-qmp goes with tcp: and unix:, where a QEMU already waits")
    if to_qmp is not None:
        try:
            found = to_qmp.is_socket()
        except OSError as error:
            raise UsageError(f"--to-qmp: {to_qmp}: {error.strerror}") from None
        if not found:
            raise UsageError(f"--to-qmp: {to_qmp} is not a socket")


def check_to_audit(to_audit: Path | None, to: str) -> None:
    """See that --to-audit goes with --to. Raises UsageError."""
    from vmferry.errors import UsageError

    if to_audit is not None and to == "local":
        raise UsageError("--to-audit is for another host, and --to local is this one")


Json = Annotated[bool, typer.Option("--json", help="Print NDJSON on standard output.")]
VmArgument = Annotated[
    str, typer.Argument(metavar="VM", help="A name that `vmferry ls` shows, or qmp:PATH.")
]
VmNameArgument = Annotated[
    str, typer.Argument(metavar="VM", help="A name that `vmferry ls` shows.")
]
Destination = Annotated[
    str,
    typer.Option(
        "--to", metavar="DEST", help="local, tcp:HOST:PORT or unix:PATH, where a QEMU waits."
    ),
]
DestinationQmp = Annotated[
    Path | None,
    typer.Option("--to-qmp", metavar="PATH", help="The QMP socket of the QEMU that waits at DEST."),
]
DestinationAudit = Annotated[
    Path | None,
    typer.Option(
        "--to-audit",
        metavar="FILE",
        help="What `vmferry audit --host --json` printed on the destination's host.",
    ),
]
