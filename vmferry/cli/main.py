"""The door of the command line: which commands there are, and what becomes of an error.

A command module imports what is heavy inside its function, so that `vmferry --help` is quick.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Annotated

import typer
from typer.exceptions import TyperException

from vmferry import __version__
from vmferry.cli.audit import audit
from vmferry.cli.bench import bench
from vmferry.cli.bugs import keep_bug
from vmferry.cli.check import check
from vmferry.cli.console import console
from vmferry.cli.demo import demo
from vmferry.cli.explain import explain
from vmferry.cli.forecast import forecast
from vmferry.cli.ls import ls
from vmferry.cli.migrate import migrate
from vmferry.cli.output import printable
from vmferry.cli.plan import plan
from vmferry.cli.probe import probe
from vmferry.cli.recover import recover
from vmferry.cli.rehearse import rehearse
from vmferry.cli.report import report
from vmferry.cli.run import run
from vmferry.cli.runs import runs
from vmferry.cli.show import show
from vmferry.cli.status import status
from vmferry.cli.stop import stop
from vmferry.cli.xray import xray
from vmferry.errors import VmferryError

INTERRUPTED = 130
BROKEN_PIPE = 141
BUG = 1
# What the machine refuses is no bug of ours.
_MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE)

app = typer.Typer(
    name="vmferry",
    help="Moves running KVM virtual machines between hosts.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    demo,
    run,
    ls,
    status,
    console,
    stop,
    check,
    rehearse,
    forecast,
    plan,
    probe,
    migrate,
    recover,
    runs,
    show,
    explain,
    report,
    xray,
    audit,
):
    app.command()(command)
app.add_typer(bench, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vmferry {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command that `sys.argv` gives, and exit with its status."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command; returns its exit status and lets no exception out."""
    try:
        result = app(arguments, prog_name="vmferry", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except VmferryError as error:
        _complain(error.message, error.hint)
        return error.exit_status
    except TyperException as error:
        _complain(*_in_our_words(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
            where = f": {error.filename}" if error.filename else ""
            _complain(f"{error.strerror}{where}", None)
            _drop_output()
            return BUG
        _report_bug(error)
        return BUG


def _in_our_words(error: TyperException) -> tuple[str, str]:
    """What was wrong, without the parser's own jargon, and where the right use is shown."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "vmferry"
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    return message, f"`{command} --help` shows how to use it"


def _drop_output() -> None:
    """What is still in the buffer must not raise again when Python exits."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, hint: str | None) -> None:
    print(f"vmferry: {printable(message)}", file=sys.stderr)
    if hint:
        print(f"  {printable(hint)}", file=sys.stderr)


def _report_bug(error: Exception) -> None:
    text = "".join(traceback.format_exception(error))
    place = keep_bug(text)
    if place is None:
        print(printable(text), file=sys.stderr)
        _complain("this is a bug in vmferry", None)
        return
    _complain(
        f"this is a bug in vmferry: {type(error).__name__}: {error}", f"the details are in {place}"
    )
