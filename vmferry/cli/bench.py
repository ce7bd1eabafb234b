"""`vmferry bench`: off against on, in guests of its own on this host."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from vmferry.cli.output import Output, table
from vmferry.errors import UsageError

bench = typer.Typer(
    help="Measure what a fast path brings on this host, in guests of its own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@bench.callback()
def _common() -> None:
    """Its commands have names even while there is one of them."""


@bench.command()
def fastpath(
    name: Annotated[str, typer.Argument(help="Which of the seven: net-queues, scsi-queues, …")],
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="How often each case.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long each load.")] = 3.0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the rows here; those in it are not run again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Rows as NDJSON.")] = False,
) -> None:
    """One fast path off and on, in turn, on this host. It starts guests and loads the host."""
    from vmferry.fastpath.bench.rows import Rows
    from vmferry.fastpath.bench.run import report, run, versions
    from vmferry.fastpath.benchmarks import BENCHMARKS

    benchmark = BENCHMARKS.get(name)
    if benchmark is None:
        raise UsageError(f"there is no fast path '{name}'; there are {', '.join(BENCHMARKS)}")
    output = Output(as_json=as_json)
    try:
        rows = Rows(out, heard=lambda row: output.record({"event": "row", "format": 1, **row}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{out} does not hold rows of this benchmark: {error}") from None
    asyncio.run(run(benchmark, rows, repeats, seconds, output.note))
    told = [versions(), "", table(report(benchmark, rows)), ""]
    told += [*benchmark.prove(rows), f"Not shown here: {benchmark.limits}."]
    output.say("\n".join([f"{benchmark.name}: {benchmark.question}", *told]))
