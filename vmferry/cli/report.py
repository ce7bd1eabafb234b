"""`vmferry report`: one run as an HTML page."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from vmferry.cli.options import Json
from vmferry.cli.output import Output
from vmferry.cli.show import RunArgument


def report(
    run: RunArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to write it, else vmferry-run-RUN.html."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write a page with the pictures of a run.

    It is one HTML file, readable without a network.
    """
    path = write_report(run, output)
    out = Output(as_json=json)
    out.record({"event": "report", "format": 1, "file": str(path)})
    if not json:
        out.say(str(path))


def write_report(run: str, path: Path | None = None) -> Path:
    """Write the page of a run and return where it is. Raises UsageError."""
    from vmferry.errors import UsageError
    from vmferry.journal import Journal
    from vmferry.report.page import render

    with Journal.open() as journal:
        found = journal.run(run)
        page = render((json_module.loads(line) for line in journal.lines(found.id)), found.outcome)
    path = (path or Path(f"vmferry-run-{found.id}.html")).absolute()
    try:
        path.write_text(page, "utf-8")
    except OSError as error:
        raise UsageError(f"--output: {path} cannot be written: {error.strerror}") from None
    return path
