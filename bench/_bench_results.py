"""What a benchmark has measured so far: one JSON object a line, kept over interruptions."""

from __future__ import annotations

import argparse
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from vmferry import __version__
from vmferry.fastpath.bench import rows

Row = rows.Row


class Results(rows.Rows):
    """The rows of one benchmark, by their `key`, in the order in which they were measured."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(file)

    def __getitem__(self, key: str) -> Row:
        return self._rows[key]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def once(self, key: str, measure: Callable[[], Row]) -> Row:
        """The row, measured now if it is not there yet."""
        if key not in self:
            self.add({"key": key, **measure()})
        return self._rows[key]


def open_results(description: str | None, name: str) -> Results:
    """Parse the one option that every benchmark has and open its file of results."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("bench-results"),
        metavar="FOLDER",
        help=f"where {name}.jsonl is kept; runs that are in it are not measured again",
    )
    return Results(parser.parse_args().out / f"{name}.jsonl")


def versions() -> str:
    """What was measured on what: a line to print beside the figures."""
    told = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True)
    qemu = told.stdout.splitlines()[0].removeprefix("QEMU emulator version ")
    return f"vmferry {__version__}, QEMU {qemu}, Linux {platform.release()}"
