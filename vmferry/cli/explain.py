"""`vmferry explain`: why a migration did what it did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vmferry.cli.options import Json
from vmferry.cli.output import Output

if TYPE_CHECKING:
    from vmferry.precopy.explain import Explanation

LAST = "last"


def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|TRACE",
            help="A number that `vmferry runs` shows, last, or the file of a recorded trace.",
        ),
    ],
    json: Json = False,
) -> None:
    """Tell why a migration did what it did, and what would help."""
    found = _of_run(what) if what == LAST or what.isdecimal() else _of_trace(what)
    output = Output(as_json=json)
    output.record(found.to_json())
    if not json:
        output.say("\n".join(found.text))


def _of_run(run: str) -> Explanation:
    from vmferry.journal import Journal
    from vmferry.precopy.explain import Explanation, explain
    from vmferry.precopy.trace import TraceError, read_trace

    with Journal.open() as journal:
        found = journal.run(run)
        lines = list(journal.lines(found.id))
    outcome = found.outcome or {}
    cost = outcome.get("cost") or {}
    try:
        trace = read_trace(lines, f"run {found.id}")
    except TraceError as error:
        told = "The migration has not begun to send yet."
        if found.outcome is not None:
            told = f"The migration did not begin to send: {outcome.get('why') or error.message}"
        return Explanation("unknown", (), (told,))
    return explain(trace, cost.get("migration_cpu_seconds"))


def _of_trace(what: str) -> Explanation:
    from vmferry.errors import UsageError
    from vmferry.precopy.explain import explain
    from vmferry.precopy.trace import read_trace

    try:
        if not what:
            raise FileNotFoundError
        with Path(what).open(encoding="utf-8-sig") as lines:
            return explain(read_trace(lines, what))
    except FileNotFoundError:
        raise UsageError(
            f"there is neither a run nor a file '{what}'",
            hint="`vmferry runs` lists the runs; `last` is the latest",
        ) from None
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {error.strerror}") from None
