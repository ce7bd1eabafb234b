"""What a benchmark has measured so far, one JSON object a line, and medians of it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Rows:
    """Rows by their `key`. Those of a file are kept over interruptions; a cut line is dropped.

    `heard` is called with each row that comes.
    """

    def __init__(
        self, file: Path | None = None, heard: Callable[[Row], None] = lambda _: None
    ) -> None:
        self._file = file
        self._heard = heard
        self._rows: dict[str, Row] = {}
        if file is not None and file.exists():
            whole, _, cut = file.read_text().rpartition("\n")
            self._rows = {row["key"]: row for row in map(json.loads, whole.splitlines())}
            if cut:
                file.write_text(whole + "\n" if whole else "")

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def add(self, row: Row) -> None:
        """Keep a row, on disk too where there is a file."""
        self._rows[row["key"]] = row
        self._heard(row)
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def of(self, case: str) -> list[Row]:
        return [row for row in self._rows.values() if row["case"] == case]

    def __len__(self) -> int:
        return len(self._rows)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several measurements and their quartiles."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None where there is none."""
        known = sorted(values)
        if not known:
            return None
        if len(known) == 1:
            return cls(known[0], known[0], known[0], 1)
        low, median, high = statistics.quantiles(known, n=4, method="inclusive")
        return cls(median, low, high, len(known))

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)}–{short(self.high)})"


def change(base: Spread, other: Spread) -> str:
    """By how much the median changed; that it cannot be told where the quartiles overlap."""
    if not base.median:
        return "from nothing"
    told = f"{100 * (other.median / base.median - 1):+.0f} %"
    if min(base.n, other.n) < 3:
        return f"{told} (too few runs to rely on)"
    if base.low <= other.high and other.low <= base.high:
        return f"{told} (no clear difference: the quartiles overlap)"
    return told


def short(value: float) -> str:
    """Three digits that say something, large numbers whole."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(rows: Iterable[Row], figure: str) -> Spread | None:
    """The spread of a figure over the rows that have it."""
    return Spread.of(row[figure] for row in rows if row.get(figure) is not None)
