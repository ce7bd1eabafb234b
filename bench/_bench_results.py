"""What a benchmark has measured so far: one JSON object a line, kept over interruptions."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vmferry import __version__

Row = dict[str, Any]


class Results:
    """The rows of one benchmark, by their `key`, in the order in which they were measured."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._rows: dict[str, Row] = {}
        if file.exists():
            # A line that was cut short when the benchmark was stopped is measured again.
            whole, _, cut = file.read_text().rpartition("\n")
            self._rows = {row["key"]: row for row in map(json.loads, whole.splitlines())}
            if cut:
                file.write_text(whole + "\n" if whole else "")

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> Row:
        return self._rows[key]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def once(self, key: str, measure: Callable[[], Row]) -> Row:
        """The row, measured now if it is not there yet."""
        if key not in self._rows:
            row = {"key": key, **measure()}
            with self._file.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self._rows[key] = row
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
