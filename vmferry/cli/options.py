"""Options and arguments that several commands share, and quantities with units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from vmferry.units import UnitError, parse_duration, parse_rate, parse_size

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

Json = Annotated[bool, typer.Option("--json", help="Print NDJSON on standard output.")]
VmArgument = Annotated[
    str, typer.Argument(metavar="VM", help="A name that `vmferry ls` shows, or qmp:PATH.")
]
VmNameArgument = Annotated[
    str, typer.Argument(metavar="VM", help="A name that `vmferry ls` shows.")
]
