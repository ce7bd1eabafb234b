"""How fast a connection carries bytes: a sender for a few seconds, a receiver that keeps the time.

A QEMU that waits with -incoming ends when a stranger's connection closes, whether it sent anything
or not. So a sender goes only where it has a token for, which the receiver makes for the port that
it holds itself. Both prove that they know the token's secret before a byte counts, so nobody
else's connection does.

Run as a program with the number of an inherited socket, this is the receiver of a probe on one
machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise

from vmferry.errors import UsageError

_GREETING = b"vmferry-probe 1 "
_WINDOW_SECONDS = 0.1
_BLOCK = 1024 * 1024
# A burst lasts this long where the sender is limited.
_BURST_SECONDS = 0.02
_HANDSHAKE_SECONDS = 2.0
_GREETING_SECONDS = 10.0
_STALL_SECONDS = 20.0
_LONGEST_LINE = 64 * 1024
_TOKEN = re.compile(r"([0-9]{1,5})-([0-9a-f]{32})", re.ASCII)


class ProbeError(UsageError):
    """The other end is not there, is no probe, or was lost."""


@dataclass(frozen=True, slots=True)
class Token:
    """Where a receiver listens, and the secret that it shares with the one sender it waits for."""

    port: int
    secret: str

    def __str__(self) -> str:
        return f"{self.port}-{self.secret}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises UsageError."""
        match = _TOKEN.fullmatch(text)
        if match is None or not 1 <= int(match[1]) <= 65535:
            raise UsageError(
                "this is not a token of `vmferry probe --listen`",
                hint="copy it from what that command prints at the destination",
            )
        return cls(int(match[1]), match[2])


@dataclass(frozen=True, slots=True)
class Window:
    """What arrived in one window of about 100 ms. Seconds and bytes."""

    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """All windows of one probe in order, and what it took in all. Seconds and bytes."""

    windows: tuple[Window, ...]
    seconds: float
    bytes: int


class Listener:
    """The receiving end at a destination. A context manager that holds the port."""

    def __init__(self, host: str, port: int = 0) -> None:
        """Port 0 has the kernel choose one. Raises ProbeError."""
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, UnicodeError) as error:
            raise ProbeError(f"cannot listen on {host}, port {port}: {_words(error)}") from None
        self.token = Token(self._socket.getsockname()[1], secrets.token_hex(16))

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def serve(self, seconds: float) -> Report:
        """Wait for the sender who has the token, at most `seconds`, and receive from it.

        Others are sent away. Raises ProbeError.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                break
            with connection:
                if _welcome(connection, self.token.secret):
                    self._socket.close()
                    return _received(connection)
        raise ProbeError(f"nobody with the token came within {seconds:g} s")


def send_to(host: str, token: Token, seconds: float, limit: int, most: int) -> Report:
    """Send to a listener for `seconds`, at most `limit` bytes a second (0: as fast as it goes) and
    `most` bytes in all. Returns what it received. Raises ProbeError."""
    where = f"{host}, port {token.port}"
    try:
        connection = socket.create_connection((host, token.port), timeout=_GREETING_SECONDS)
    except (OSError, UnicodeError) as error:
        raise ProbeError(
            f"no probe listens at {where}: {_words(error)}",
            hint="start `vmferry probe --listen HOST` at the destination; it prints a token",
        ) from None
    with connection:
        _introduce(connection, token.secret, where)
        return _send(connection, seconds, limit, most)


def send_through_this_machine(seconds: float, limit: int, most: int) -> Report:
    """The same through a socket pair, to a process of its own. Raises ProbeError."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "vmferry.host.throughput", str(theirs.fileno())]
        with subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        ) as receiver:
            theirs.close()
            try:
                return _send(ours, seconds, limit, most)
            finally:
                ours.close()
                receiver.wait()


def receive(connection: socket.socket) -> Report:
    """Take all that comes, report it to the sender and return it. Raises OSError."""
    connection.settimeout(_STALL_SECONDS)
    buffer = memoryview(bytearray(_BLOCK))
    total = 0
    marks: list[tuple[float, int]] = []
    while count := connection.recv_into(buffer):
        total += count
        now = time.monotonic()
        if not marks:
            # What lay in the buffers when it was first read came at no speed of the connection.
            marks.append((now, total))
        elif now - marks[-1][0] >= _WINDOW_SECONDS:
            marks.append((now, total))
    end = time.monotonic()
    windows = tuple(
        Window(later[0] - mark[0], later[1] - mark[1]) for mark, later in pairwise(marks)
    )
    report = Report(windows, end - marks[0][0] if marks else 0.0, total)
    connection.sendall(json.dumps(_to_json(report)).encode() + b"\n")
    return report


def _received(connection: socket.socket) -> Report:
    try:
        return receive(connection)
    except OSError as error:
        raise ProbeError(f"the sender was lost: {_words(error)}") from None


def _send(connection: socket.socket, seconds: float, limit: int, most: int) -> Report:
    # Random, since some links compress.
    block = memoryview(secrets.token_bytes(_BLOCK))
    if limit:
        block = block[: max(int(limit * _BURST_SECONDS), 1)]
    connection.settimeout(_STALL_SECONDS)
    start = time.monotonic()
    sent = 0
    try:
        while (now := time.monotonic()) - start < seconds and sent < most:
            ahead = sent / limit - (now - start) if limit else 0.0
            if ahead > 0:
                time.sleep(ahead)
            connection.sendall(block)
            sent += len(block)
        connection.shutdown(socket.SHUT_WR)
        return _report(_line(connection, time.monotonic() + _STALL_SECONDS))
    except (OSError, ValueError) as error:
        raise ProbeError(f"the other end of the probe was lost: {_words(error)}") from None


def _welcome(connection: socket.socket, secret: str) -> bool:
    """Whether this is the one who has the token."""
    nonce = secrets.token_hex(16)
    end = time.monotonic() + _HANDSHAKE_SECONDS
    connection.settimeout(_HANDSHAKE_SECONDS)
    with contextlib.suppress(OSError, ValueError):
        connection.sendall(_GREETING + nonce.encode() + b"\n")
        answer, theirs = _line(connection, end).split(b" ")
        if hmac.compare_digest(answer, _proof(secret, "sender", nonce.encode())):
            connection.sendall(_proof(secret, "receiver", theirs) + b"\n")
            return True
    return False


def _introduce(connection: socket.socket, secret: str, where: str) -> None:
    """Raises ProbeError where the other end is no probe, or not the one of the token."""
    nonce = secrets.token_hex(16)
    end = time.monotonic() + _GREETING_SECONDS
    try:
        greeting = _line(connection, end)
        if not greeting.startswith(_GREETING):
            raise ValueError("it greets as something else")
        theirs = greeting.removeprefix(_GREETING)
        connection.sendall(_proof(secret, "sender", theirs) + b" " + nonce.encode() + b"\n")
    except (OSError, ValueError) as error:
        raise ProbeError(
            f"what listens at {where} is no `vmferry probe --listen`: {_words(error)}",
            hint="nothing was sent to it. If it is a QEMU with -incoming, look whether it still "
            "waits: it ends when any connection closes",
        ) from None
    try:
        answer = _line(connection, end)
        right = hmac.compare_digest(answer, _proof(secret, "receiver", nonce.encode()))
    except (OSError, ValueError):
        right = False
    if not right:
        raise ProbeError(
            f"the probe that listens at {where} does not know this token",
            hint="each `vmferry probe --listen` prints a token of its own, good for one probe",
        )


def _proof(secret: str, role: str, nonce: bytes) -> bytes:
    text = role.encode() + b" " + nonce
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest().encode()


def _line(connection: socket.socket, end: float) -> bytes:
    """One line without its end. Raises OSError or ValueError."""
    line = b""
    while not line.endswith(b"\n"):
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        # Never more than the line: what follows belongs to the next reader.
        byte = connection.recv(1)
        if not byte:
            raise ValueError("it closed the connection")
        line += byte
        if len(line) > _LONGEST_LINE:
            raise ValueError("it says too much")
    return line[:-1]


def _to_json(report: Report) -> dict[str, object]:
    windows = [[round(one.seconds, 6), one.bytes] for one in report.windows]
    return {"windows": windows, "seconds": round(report.seconds, 6), "bytes": report.bytes}


def _report(line: bytes) -> Report:
    """Raises ValueError."""
    try:
        data = json.loads(line)
        windows = tuple(Window(float(one[0]), int(one[1])) for one in data["windows"])
        return Report(windows, float(data["seconds"]), int(data["bytes"]))
    except (LookupError, TypeError) as error:
        raise ValueError(f"its report is not whole ({error})") from None


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it says nothing"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


if __name__ == "__main__":
    # Ctrl-C is for the command; this ends when the command closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as inherited, contextlib.suppress(OSError):
        receive(inherited)
