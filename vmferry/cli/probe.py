"""`vmferry probe`: how fast the network to a destination is, without a VM."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from vmferry.cli.options import Json, duration, rate
from vmferry.cli.output import Output
from vmferry.units import GIB, format_duration, format_network_rate, format_size

if TYPE_CHECKING:
    from vmferry.host.throughput import Report
    from vmferry.vm.address import Destination

# Whichever comes first ends a probe: on a slow network the time, on a fast one the bytes.
SECONDS, MOST_BYTES = 3.0, 4 * GIB
LONGEST_SECONDS = 60.0
WAIT_SECONDS = 300.0
NOT_QEMU = (
    "This is the network alone. QEMU's passes run at the slower of this and of QEMU's own sender, "
    "which is held by one core: a move or a rehearsal shows it."
)


def probe(
    to: Annotated[
        str | None,
        typer.Option(metavar="DEST", help="local or tcp:HOST:PORT, as for `vmferry migrate`."),
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="What `vmferry probe --listen` printed at DEST.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--for",
            parser=duration,
            metavar="TIME",
            help="Send this long [3s]; with --listen: wait [5min].",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(parser=rate, metavar="RATE", help="At most this speed.")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST[:PORT]", help="Wait here, at the destination, for one probe."),
    ] = None,
    json: Json = False,
) -> None:
    """Measure the network to a destination, for forecasts.

    It takes a few seconds. No QEMU is touched: at the destination `vmferry probe --listen HOST`
    waits on a port of its own.
    """
    from vmferry.errors import UsageError

    output = Output(as_json=json)
    if (to is None) == (listen is None):
        raise UsageError("give either --to DEST or, at the destination, --listen HOST")
    if listen is not None:
        if token is not None or limit is not None:
            raise UsageError("--token and --limit belong to the side that sends, with --to")
        if seconds is not None and seconds <= 0:
            raise UsageError("--for must be more than nothing")
        _listen(listen, WAIT_SECONDS if seconds is None else seconds, output)
        return
    if seconds is None:
        seconds = SECONDS
    if not 0.5 <= seconds <= LONGEST_SECONDS:
        raise UsageError(f"--for must be between 0.5s and {LONGEST_SECONDS:g}s")
    if limit is not None and limit <= 0:
        raise UsageError("--limit must be more than nothing")
    _send(str(to), token, seconds, limit or 0, output)


def _send(to: str, token: str | None, seconds: float, limit: int, output: Output) -> None:
    from vmferry.errors import UsageError
    from vmferry.journal.probes import Probe, keep_probe, probes_file
    from vmferry.move.speeds import place_of
    from vmferry.precopy.speeds import speed_of_probe
    from vmferry.vm.address import parse_destination

    destination = parse_destination(to)
    report = _report(destination, token, seconds, limit)
    try:
        windows = [(window.seconds, window.bytes) for window in report.windows]
        speed, limited = speed_of_probe(windows, limit)
    except ValueError:
        raise UsageError(
            f"too little arrived in {format_duration(seconds)} to tell the speed",
            hint="give it more time with --for",
        ) from None
    found = Probe(place_of(destination), time.time(), speed, limited, report.seconds, report.bytes)
    try:
        keep_probe(found)
    except OSError as error:
        output.note(f"the probe could not be kept in {probes_file()}: {error.strerror}")
    output.record({"event": "probe", **found.to_json()})
    least = "at least " if limited else ""
    output.say(f"{found.place}: {least}{format_network_rate(speed.p50)}")
    if limited:
        output.say("  --limit held it, so the network may be faster")
    else:
        low, high = format_network_rate(speed.p10), format_network_rate(speed.p90)
        output.say(f"  eight times in ten between {low} and {high}")
    cost = f"{format_size(report.bytes)} in {format_duration(report.seconds)}"
    output.say(f"  cost: {cost}\n{NOT_QEMU}")


def _report(destination: Destination, token: str | None, seconds: float, limit: int) -> Report:
    from vmferry.errors import UsageError
    from vmferry.host.throughput import Token, send_through_this_machine, send_to
    from vmferry.vm.address import Local, Tcp

    if isinstance(destination, Local):
        if token is not None:
            raise UsageError("--to local needs no --token")
        return send_through_this_machine(seconds, limit, MOST_BYTES)
    if not isinstance(destination, Tcp):
        raise UsageError("a probe goes to local or to tcp:HOST:PORT")
    if token is None:
        raise UsageError(
            "--to tcp: needs --token",
            hint=f"start `vmferry probe --listen {destination.host}` at the destination; "
            "it prints one",
        )
    parsed = Token.parse(token)
    if parsed.port == destination.port:
        raise UsageError(
            f"port {destination.port} is where a QEMU waits for the move; a probe there could end "
            "it, so the probe needs a port of its own",
            hint="start `vmferry probe --listen HOST` without a port at the destination",
        )
    return send_to(destination.host, parsed, seconds, limit, MOST_BYTES)


def _listen(where: str, seconds: float, output: Output) -> None:
    from vmferry.host.throughput import Listener

    host, port = _host_and_port(where)
    with Listener(host, port) as listener:
        output.record({"event": "listening", "format": 1, "token": str(listener.token)})
        output.say(
            f"waiting {format_duration(seconds)} for one probe; at the source:\n"
            f"  vmferry probe --to tcp:HOST:PORT --token {listener.token}\n"
            "with HOST and PORT as for the move: the probe does not use that port"
        )
        report = listener.serve(seconds)
    received = f"{format_size(report.bytes)} in {format_duration(report.seconds)}"
    output.record({"event": "received", "bytes": report.bytes, "seconds": report.seconds})
    output.say(f"received {received}")


def _host_and_port(where: str) -> tuple[str, int]:
    """`HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`; port 0 is "choose one"."""
    from vmferry.errors import UsageError
    from vmferry.vm.address import Tcp, parse_destination

    bare = where.endswith("]") or ":" not in where
    try:
        # As a destination is written, so that both sides take the same names.
        found = parse_destination(f"tcp:{where}:1" if bare else f"tcp:{where}")
    except UsageError:
        raise UsageError("--listen takes HOST or HOST:PORT, with IPv6 as [ADDRESS]:PORT") from None
    assert isinstance(found, Tcp)
    return found.host, 0 if bare else found.port
