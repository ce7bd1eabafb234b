"""`./dev lab`: one or two KVM hosts in software, from nothing or in seconds."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lab import image as images
from lab import lab as labs
from lab import places, process, record, terminal
from lab.errors import LAB_FAILED, LabError
from lab.lab import Lab
from lab.machine import Options
from vmferry.errors import UsageError, VmferryError
from vmferry.units import (
    UnitError,
    format_duration,
    format_network_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)

INTERRUPTED = 130
BROKEN_PIPE = 141
_LATE = 124  # as of timeout(1)
_ROOM = (
    "the lab needs some gigabytes in ~/.cache and ~/.local/state (XDG_CACHE_HOME, XDG_STATE_HOME); "
    "`./dev lab clean` frees what was built"
)
T = TypeVar("T")


def main() -> None:
    """Run the command that `sys.argv` gives, and exit with its status."""
    # What ends us politely leaves nothing behind either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = _carry_out(sys.argv[1:])
        sys.stdout.flush()
    except VmferryError as error:
        say(error.message)
        if error.hint:
            sys.stderr.write(f"  {error.hint}\n")
        status = LAB_FAILED if isinstance(error, LabError) else error.exit_status
    except KeyboardInterrupt:
        say("interrupted")
        status = INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        status = BROKEN_PIPE
    except OSError as error:
        # While it builds and packs, any write may fail.
        where = f": {error.filename}" if error.filename else ""
        say(f"{error.strerror or error}{where}")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.stderr.write(f"  {_ROOM}\n")
        status = LAB_FAILED
    sys.exit(status)


def _forget_output() -> None:
    """Whoever read it has left; without this Python complains when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Progress and prose are no output."""
    sys.stderr.write(f"lab: {text}\n")
    sys.stderr.flush()


def _carry_out(words: list[str]) -> int:
    arguments = _parser().parse_args(words)
    command: Callable[[argparse.Namespace], int] = arguments.carry_out
    return command(arguments)


def _build(_: argparse.Namespace) -> int:
    image = images.build(say)
    say(f"the lab is built: {image.folder}")
    return 0


def _up(arguments: argparse.Namespace) -> int:
    # Here, where Ctrl-C stops it at once.
    images.build(say)
    options = Options(
        vtd=arguments.vtd, cpus=arguments.cpus, memory=arguments.memory, append=arguments.append
    )
    lab = asyncio.run(labs.start(places.COMMON, arguments.hosts, options, say))
    for host in lab.hosts:
        sys.stdout.write(f"{host.name}  {host.address}\n")
    return 0


def _down(_: argparse.Namespace) -> int:
    if not labs.down(places.COMMON):
        say("no lab was up")
    return 0


def _status(_: argparse.Namespace) -> int:
    labs.sweep()
    image = images.find()
    sys.stdout.write(f"built: {image.folder if image else 'no'}\n")
    known = record.load(places.COMMON)
    if known is None:
        sys.stdout.write("no lab is up\n")
        return 0
    options = known.options
    sys.stdout.write(
        f"up: {len(known.hosts)} of {options.cpus} CPUs and {format_size(options.memory_bytes)}"
        f"{', with VT-d' if options.vtd else ''}{f', {options.append}' if options.append else ''}"
        f"{'' if known.ready else '; it is being started, or its `up` was killed'}\n"
    )
    for host in Lab.attach().hosts if known.ready else ():
        state = "has ended (`./dev lab down`, then `up`)"
        if host.alive():
            taken = format_size(host.qemu.resident_bytes() or 0)
            state = f"up for {format_duration(host.qemu.age())}, takes {taken}"
        sys.stdout.write(f"{host.name}  {host.address}  {state}\n   {host.files.console}\n")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    host = Lab.attach().host(arguments.host)
    stdin = terminal.read_input
    match arguments.words:
        case ["-c", script, *words]:
            pass
        case ["-", *words]:
            script, stdin = _script("-"), terminal.no_input
        case [name, *words] if name != "-c":
            script = _script(name)
        case _:
            raise UsageError(
                "run what?", hint="run HOST FILE, or - for standard input, or -c with the script"
            )
    request = {"script": script, "words": words, "seconds": arguments.timeout or None}
    ended = host.agent.converse(request, stdin, _pass_on, lambda _: None)
    if ended.late:
        say(f"the script was ended after {format_duration(arguments.timeout)}")
        return _LATE
    return ended.status if ended.status >= 0 else 128 - ended.status


def _shell(arguments: argparse.Namespace) -> int:
    host = Lab.attach().host(arguments.host)
    return terminal.shell(host.agent)


def _put(arguments: argparse.Namespace) -> int:
    host = Lab.attach().host(arguments.host)
    asyncio.run(host.put(arguments.source, arguments.target or arguments.source.name))
    return 0


def _get(arguments: argparse.Namespace) -> int:
    host = Lab.attach().host(arguments.host)
    asyncio.run(host.get(arguments.source, arguments.target))
    return 0


def _link(arguments: argparse.Namespace) -> int:
    rate = None if arguments.rate in ("unlimited", "off") else _quantity(_rate, arguments.rate)
    delay = arguments.delay[1:] if arguments.delay[:1] == ["delay"] else arguments.delay
    if len(delay) > 1:
        raise UsageError("link RATE [delay TIME], as in: link 500Mbit delay 2ms")
    seconds = _quantity(parse_duration, delay[0]) if delay else 0.0
    asyncio.run(Lab.attach().link(rate, seconds))
    speed = "unlimited" if rate is None else f"at most {format_network_rate(rate)}"
    say(f"the link between the hosts: {speed}, {format_duration(seconds)} of delay each way")
    return 0


def _clean(_: argparse.Namespace) -> int:
    # Also those of tests and benchmarks run from what was built.
    running = any(process.of_folder(places.runtime(places.COMMON).parent))
    if running or record.load(places.COMMON) is not None:
        raise UsageError(
            "a lab is up",
            hint="`./dev lab down` ends it; one of a test or benchmark ends with that",
        )
    say(f"{format_size(images.clean())} freed")
    return 0


def _script(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text()
    except OSError as error:
        raise UsageError(f"cannot read the script {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} is no script: it is not text") from None


def _pass_on(data: bytes, of_errors: bool) -> None:
    stream = sys.stderr if of_errors else sys.stdout
    try:
        stream.buffer.write(data)
        stream.buffer.flush()
    except BrokenPipeError:
        # Not a trouble of the agent's, which is what an OSError would be taken for.
        _forget_output()
        raise SystemExit(BROKEN_PIPE) from None


def _rate(text: str) -> int:
    return parse_rate(f"{text}/s" if text.lower().endswith("bit") else text)


def _quantity(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except UnitError as error:
        raise UsageError(str(error)) from None


def _size(text: str) -> int:
    return _quantity(parse_size, text)


def _duration(text: str) -> float:
    return _quantity(parse_duration, text)


def _parser() -> argparse.ArgumentParser:
    width = shutil.get_terminal_size().columns
    parser = argparse.ArgumentParser(
        prog="./dev lab",
        description="One or two KVM hosts in software, with nested guests; see docs/lab.md.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=min(width, 100)),
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, carry_out: Callable[..., int], help: str) -> Any:
        one = commands.add_parser(name, help=help, description=help)
        one.set_defaults(carry_out=carry_out)
        return one

    command("build", _build, "build what hosts boot from; `up` does it by itself")
    up = command("up", _up, "start the hosts")
    up.add_argument("--hosts", type=int, choices=(1, 2), default=1)
    up.add_argument("--vtd", action="store_true", help="with an Intel IOMMU, e1000e and NVMe")
    up.add_argument("--cpus", type=int, choices=range(1, 9), metavar="N", default=2)
    up.add_argument("--memory", type=_size, default=0, metavar="SIZE", help="of each host")
    up.add_argument("--append", default="", metavar="WORDS", help="more words for their kernel")
    command("down", _down, "end the hosts and remove all that they wrote")
    command("status", _status, "what is up")
    shell = command("shell", _shell, "a root shell on a host")
    shell.add_argument("host", metavar="HOST")
    run = command("run", _run, "run a script on a host; the status is the script's, 255 the lab's")
    run.add_argument("--timeout", type=_duration, default=0.0, metavar="TIME")
    run.add_argument("host", metavar="HOST")
    run.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="SCRIPT [ARGUMENT …]",
        help="a file, - for standard input, or -c TEXT",
    )
    put = command("put", _put, "copy a file or a folder onto a host")
    put.add_argument("host", metavar="HOST")
    put.add_argument("source", type=Path, metavar="FILE")
    put.add_argument("target", nargs="?", metavar="PATH", help="there; relative to /root")
    get = command("get", _get, "copy a file from a host")
    get.add_argument("host", metavar="HOST")
    get.add_argument("source", metavar="PATH")
    get.add_argument("target", nargs="?", type=Path, default=Path(), metavar="FILE")
    link = command("link", _link, "limit the network between the hosts: 500Mbit delay 2ms")
    link.add_argument("rate", metavar="RATE", help="or unlimited")
    link.add_argument("delay", nargs="*", metavar="delay TIME", help="each way")
    command("clean", _clean, "remove all that was built")
    return parser
