"""Runs one benchmark: its cases in turn, again and again, so that a busy machine hits all alike."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmferry import __version__
from vmferry.errors import RefusedError
from vmferry.fastpath.bench.guest import GuestFailedError, accelerator
from vmferry.fastpath.bench.rows import Row, Rows, spread
from vmferry.host import paths
from vmferry.hypervisor.qemu.binary import find_binary

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a case is measured with: a fresh folder, and how long each load runs."""

    folder: Path
    seconds: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value: its key in the rows, and what it is, with its unit."""

    key: str
    title: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One feature, off against on.

    `problem` says why it cannot run on this host (empty where it can); `measure` gives the figures
    of one case; `limits` what this kind of machine cannot show; `prove` the effect in words.
    """

    name: str
    question: str
    cases: tuple[str, ...]
    figures: tuple[Figure, ...]
    problem: Callable[[], str]
    measure: Callable[[str, Setting], Awaitable[Row]]
    limits: str
    prove: Callable[[Rows], Sequence[str]]


async def run(benchmark: Benchmark, rows: Rows, repeats: int, seconds: float, say: Say) -> None:
    """Measure what is missing in `rows`. Raises RefusedError where it cannot run here."""
    problem = benchmark.problem()
    if problem:
        raise RefusedError(
            f"the benchmark {benchmark.name} cannot run on this host: {problem}",
            hint="the lab has hosts on which it can: `./dev bench fastpath`",
        )
    count = len(benchmark.cases)
    for repeat in range(repeats):
        for place in range(count):
            case = benchmark.cases[(repeat + place) % count]
            key = f"{repeat}/{case}"
            if key in rows:
                continue
            row = await _measured(benchmark, case, seconds, say)
            rows.add({"key": key, "case": case, **row})
            say(f"{key}: {one_line(benchmark, row)}")


async def _measured(benchmark: Benchmark, case: str, seconds: float, say: Say) -> Row:
    """A row. A guest that failed is tried once more: in a KVM host that is itself in software they
    hang now and then (docs/lab.md)."""
    try:
        return await _once(benchmark, case, seconds)
    except GuestFailedError as error:
        say(f"{case}: {error.message}; it is tried once more")
        return await _once(benchmark, case, seconds)


async def _once(benchmark: Benchmark, case: str, seconds: float) -> Row:
    with tempfile.TemporaryDirectory(dir=paths.runtime_dir(), prefix="bench-") as work:
        return await benchmark.measure(case, Setting(Path(work), seconds))


def one_line(benchmark: Benchmark, row: Row) -> str:
    """The figures of one row."""
    told = [
        f"{one.title} {row[one.key]}" for one in benchmark.figures if row.get(one.key) is not None
    ]
    return ", ".join(told) or str(row.get("why", "nothing"))


def report(benchmark: Benchmark, rows: Rows) -> list[list[str]]:
    """A table: a column for each case, a row for each figure with its median and quartiles."""
    table = [["", *benchmark.cases]]
    for figure in benchmark.figures:
        cells = [spread(rows.of(case), figure.key) for case in benchmark.cases]
        if any(cells):
            table.append([figure.title, *("–" if cell is None else str(cell) for cell in cells)])
    table.append(["runs", *(str(len(rows.of(case))) for case in benchmark.cases)])
    return table


def versions() -> str:
    """What was measured on what."""
    version = ".".join(map(str, find_binary(None).version))
    by = accelerator()
    return f"vmferry {__version__}, QEMU {version} with {by}, Linux {platform.release()}"
