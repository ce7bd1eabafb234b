"""Ways into a guest for guest_audit.py: a command, a file, QEMU's guest agent, or we are inside.

Every way has a time limit and none changes the guest: the program goes in on standard input, reads,
prints one line and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from vmferry.fastpath.facts import GuestFacts
from vmferry.fastpath.guest_agent import AgentError, run_by_agent
from vmferry.fastpath.guest_report import BadReportError, facts_of

# A software host's guest takes ten seconds to start Python and measure its clock.
TIME_LIMIT = 45.0
_MOST_BYTES = 16 << 20
_TOLD = 600
_POLL_SECONDS = 0.02
_REST_SECONDS = 0.5


class GuestUntold(Exception):
    """Nobody could look into the guest: `reason` says why, and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ByCommand:
    """A command that runs Python in the guest on its standard input (`ssh root@vm python3 -`)."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ByFile:
    """What `guest_audit.py --json` printed in the guest."""

    path: Path


@dataclass(frozen=True, slots=True)
class ByAgent:
    """The host's end of the socket of QEMU's guest agent; it serves one client at a time."""

    socket: Path
    python: str = "python3"


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """We are in the guest."""


GuestAccess: TypeAlias = ByCommand | ByFile | ByAgent | ThisMachine


async def read_guest(
    access: GuestAccess, seconds: float, time_limit: float = TIME_LIMIT
) -> GuestFacts:
    """Look into the guest for `seconds`; `time_limit` comes on top. Raises GuestUntold."""
    limit = seconds + time_limit
    match access:
        case ByFile(path):
            return _facts(await asyncio.to_thread(_file, path), str(path))
        case ByCommand(words):
            return _facts(await _command(words, seconds, limit), shlex.join(words))
        case ByAgent(path, python):
            return _facts(await _agent(path, python, seconds, limit), f"the guest agent at {path}")
        case ThisMachine():
            # A process of its own: the program runs a few bytes of machine code.
            words = (sys.executable, "-I", "-")
            return _facts(await _command(words, seconds, limit), "guest_audit.py")


def program(seconds: float) -> str:
    """The text of guest_audit.py, which needs no arguments: a shell on the way could lose them."""
    source = (resources.files("vmferry.fastpath") / "guest_audit.py").read_text()
    arguments = ["guest_audit.py", "--json", "--seconds", f"{seconds:g}"]
    return f"import sys; sys.argv[:] = {arguments!r}\n{source}"


def _facts(text: str, origin: str) -> GuestFacts:
    try:
        return facts_of(text)
    except BadReportError as error:
        raise GuestUntold(f"what {origin} gave is no report of guest_audit.py: {error}") from None


def _file(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would keep us waiting
            raise GuestUntold(f"{path} is not there or no file: {_HOW_TO_MAKE}")
        with path.open(errors="replace") as file:
            return file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise GuestUntold(f"{path} cannot be read: {error.strerror}") from None


_HOW_TO_MAKE = "run `python3 guest_audit.py --json > FILE` in the guest and bring the file here"


async def _command(words: tuple[str, ...], seconds: float, limit: float) -> str:
    """Standard output of the command with the program on its standard input."""
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # ends with all its children, and cannot ask for a password
        )
    except (OSError, ValueError, IndexError, TypeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise GuestUntold(f"the command '{shlex.join(words)}' does not start: {said}") from None
    try:
        async with asyncio.timeout(limit):
            out, err = await _told(process, program(seconds).encode())
    except TimeoutError:
        raise GuestUntold(
            f"the command '{shlex.join(words)}' gave no answer within {limit:g} s and was ended; "
            "try it by hand: it must run Python in the guest, without asking for anything"
        ) from None
    finally:
        await _end(process)
    if process.returncode != 0:
        raise GuestUntold(
            f"the command '{shlex.join(words)}' ended with {process.returncode}: {_last(err)}"
        )
    return out.decode(errors="replace")


async def _told(process: asyncio.subprocess.Process, source: bytes) -> tuple[bytes, bytes]:
    """What the command wrote until it ended. Not until its outputs are closed: what ssh leaves in
    the background for later connections keeps them open."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    pieces = (bytearray(), bytearray())
    readers = [
        asyncio.create_task(_read(stream, taken))
        for stream, taken in zip((process.stdout, process.stderr), pieces, strict=True)
    ]
    try:
        with contextlib.suppress(ConnectionError):  # it ended without reading: its status tells
            process.stdin.write(source)
            await process.stdin.drain()
        process.stdin.close()
        await _ended(process)
        await asyncio.wait(readers, timeout=_REST_SECONDS)
    finally:
        for reader in readers:
            reader.cancel()
    return bytes(pieces[0]), bytes(pieces[1])


async def _read(stream: asyncio.StreamReader, taken: bytearray) -> None:
    while data := await stream.read(1 << 16):
        if len(taken) < _MOST_BYTES:  # else a command that never stops would fill our memory
            taken += data


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Before Python 3.12.4 wait() waits for closed outputs too."""
    while process.returncode is None:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_SECONDS)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError, TimeoutError):
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await asyncio.wait_for(_ended(process), _REST_SECONDS)
    # Its pipes too, which what it left in the background may hold.
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


async def _agent(path: Path, python: str, seconds: float, limit: float) -> str:
    try:
        async with asyncio.timeout(limit):
            return await run_by_agent(path, [python, "-"], program(seconds))
    except TimeoutError:
        raise GuestUntold(
            f"the guest agent at {path} answers, but the look into the guest was not over within "
            f"{limit:g} s: try it again when the guest has less to do"
        ) from None
    except AgentError as error:
        raise GuestUntold(f"the guest agent at {path}: {error}") from None


def _last(said: bytes) -> str:
    text = said.decode(errors="replace").strip()
    return f"…{text[-_TOLD:]}" if len(text) > _TOLD else text or "it said nothing"
