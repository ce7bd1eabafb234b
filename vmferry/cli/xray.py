"""`vmferry xray FILE`: what is in a migration stream that was saved to a file."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from vmferry.cli.options import Json, check_writable
from vmferry.cli.output import Output, printable, table

if TYPE_CHECKING:
    from vmferry.precopy.xray import XRayResult

_CHUNK = 1024**2
_STANDARD_INPUT = "-"
_MAP_LINES = 24
# What compressors write first (RFC 1952, RFC 8878, the xz and LZ4 formats).
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zX": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}


def xray(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="What QEMU wrote: migrate exec:cat>FILE; - is standard input."
        ),
    ],
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="PAGE.html", help="Write a page with the heat map too."),
    ] = None,
    json: Json = False,
) -> None:
    """Look into a saved migration stream: what is zero, hot, wasted."""
    output = Output(as_json=json)
    if report is not None:
        check_writable("--report", report)
    result = read(file)
    if report is not None:
        from vmferry.report.xray_page import render_xray

        report.write_text(render_xray(result, printable(file)), "utf-8")
        output.note(f"the page is {report}")
    output.record({"event": "xray", **result.to_json()})
    if not json:
        _show(result, output)


def read(file: str) -> XRayResult:
    """The X-ray of a file, or of standard input. Raises UsageError."""
    from vmferry.errors import UsageError
    from vmferry.stream.items import Blocks, Pages, StreamError
    from vmferry.stream.reader import StreamReader
    from vmferry.stream.xray import XRay

    reader = StreamReader()
    found: XRay | None = None
    first = b""
    try:
        with _opened(file) as stream:
            while not reader.done and (data := stream.read(_CHUNK)):
                first = first or data[:4]
                for item in reader.feed(data):
                    if isinstance(item, Blocks):
                        found = XRay(sum(block.size for block in item.blocks), beside=False)
                    elif isinstance(item, Pages) and found is not None:
                        found.see(item)
        reader.close()
    except OSError as error:
        raise UsageError(f"'{file}' cannot be read: {error.strerror}") from None
    except StreamError as error:
        if not first:
            raise UsageError(f"'{file}' is empty") from None
        raise UsageError(f"'{file}': {error.message}", hint=_hint(first, error.hint)) from None
    if found is None:
        raise UsageError(f"'{file}' is a migration stream without memory")
    found.close()
    return found.result()


def _hint(first: bytes, other: str | None) -> str | None:
    """What to do with a file that begins so and is no stream."""
    for start, name in _COMPRESSED.items():
        if first.startswith(start):
            return f"it is compressed: `{name} -dc FILE | vmferry xray -`"
    return other


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if not file:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if file == _STANDARD_INPUT:
        if sys.stdin is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        yield sys.stdin.buffer
        return
    with Path(file).open("rb") as stream:
        yield stream


def _show(result: XRayResult, output: Output) -> None:
    from vmferry.report.xray_words import (
        PLAIN_SHADES,
        SHADES,
        findings,
        headline,
        heat_lines,
        rows_table,
    )

    output.say(headline(result))
    output.say("")
    heading, *rows = rows_table(result)
    output.say(table([[name.upper() for name in heading], *rows]))
    if sys.stdout.isatty():
        shades = SHADES if sys.stdout.encoding.lower().startswith("utf") else PLAIN_SHADES
        width = shutil.get_terminal_size().columns
        lines = heat_lines(result, width, _MAP_LINES, shades)
        output.say("\n".join(["", f"memory sent in each {result.by}, from left to right:", *lines]))
    found = findings(result)
    if found:
        output.say("\n".join(["", *found]))
