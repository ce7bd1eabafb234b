"""Where output goes: with `--json`, NDJSON alone on standard output; prose to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


class Output:
    """The two voices of a command: records for programs, prose for people."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def record(self, record: Mapping[str, Any]) -> None:
        """One line of NDJSON; nothing without `--json`."""
        if self.as_json:
            print(json.dumps(record), flush=True)

    def say(self, text: str) -> None:
        """The answer in prose: on standard output, or beside the records."""
        print(printable(text), file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def note(self, text: str) -> None:
        """Progress and what else is good to know."""
        print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` with control characters (but line feeds) written out: it may come from anywhere."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else _written_out(letter)
        for letter in text
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns, two spaces between them."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _written_out(letter: str) -> str:
    return letter.encode("unicode_escape", "backslashreplace").decode("ascii", "replace")
