"""`vmferry show`: one run in words, or its recorded trace."""

from __future__ import annotations

import json as json_module
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from vmferry.cli.options import Json
from vmferry.cli.output import Output
from vmferry.cli.runs import record_of

if TYPE_CHECKING:
    from vmferry.journal import Journal, Run

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A number that `vmferry runs` shows, or last.")
]


def show(
    run: RunArgument,
    trace: Annotated[
        bool, typer.Option("--trace", help="Print the recorded trace instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Tell how a move went, or print its recorded trace."""
    from vmferry.journal import Journal

    output = Output(as_json=json)
    with Journal.open() as journal:
        found = journal.run(run)
        if trace:
            for line in journal.lines(found.id):
                sys.stdout.write(f"{line}\n")
            return
        if json:
            output.record(record_of(found))
            return
        output.say(_heading(found))
        output.say(_story(journal, found))


def _heading(run: Run) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started_at))
    return f"run {run.id}, {when}, policy {run.policy}, last step: {run.last_step.value}"


def _story(journal: Journal, run: Run) -> str:
    from vmferry.report.recording import Recording
    from vmferry.report.words import story, unfinished_story

    if run.outcome is not None:
        return story(run.outcome)
    return unfinished_story(Recording.read(json_module.loads(one) for one in journal.lines(run.id)))
