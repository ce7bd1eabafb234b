"""The client of the agent: runs one script by a Unix socket that leads to one of its ports.

Used by the lab on the outside, and inside a host to reach the guests in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lab.inside import frames

# The agent ends a script that is late; where it does not say so by then, it is lost itself.
_GRACE = 15.0
_INPUT_PIECE = 16 * 1024
_HELLO_AGAIN = 2.0
_LEAVE_SECONDS = 5.0
_REFUSED_SECONDS = 3.0

OnOutput = Callable[[bytes, bool], None]


class AgentLost(Exception):
    """The agent does not answer, or its machine went away; the message says which."""


class Ended(NamedTuple):
    """How a script ended: its status (negative: by that signal), and whether it was too late."""

    status: int
    late: bool


@contextlib.contextmanager
def free_port(sockets: list[Path], patience: float) -> Iterator[Path]:
    """One of the agent's sockets that nobody uses, held by a lock beside it. Raises AgentLost."""
    end = time.monotonic() + patience
    while True:
        for path in sockets:
            with contextlib.ExitStack() as stack:
                try:
                    lock = stack.enter_context(path.with_suffix(".lock").open("w"))
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                except FileNotFoundError:
                    raise AgentLost(f"{path.parent} is gone") from None
                yield path
                return
        if time.monotonic() > end:
            raise AgentLost(f"all {len(sockets)} ports of the agent are in use ({path.parent})")
        time.sleep(0.05)


class Conversation:
    """One request. `stop` may be called from another thread and ends it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session = secrets.token_bytes(8)
        self._parser = frames.Parser()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Of input, requests and window sizes only one may be under way at a time.
        self._sending = threading.Lock()

    def stop(self) -> None:
        """Hang up: the agent kills what runs, and `run` raises AgentLost."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def resize(self, rows: int, columns: int) -> None:
        """The terminal has another size now. A signal handler may call it: it never waits."""
        if self._sending.acquire(blocking=False):
            with contextlib.suppress(OSError):
                size = struct.pack("2H", rows, columns)
                self._socket.sendall(frames.pack(frames.WINDOW, self._session, size))
            self._sending.release()

    def run(
        self,
        request: dict[str, Any],
        *,
        stdin: bytes | Callable[[], bytes] = b"",
        on_output: OnOutput,
        patience: float,
    ) -> Ended:
        """Carry out `request`; `on_output` hears each piece, and whether it is of the errors.

        A `stdin` that is called gives the next piece and nothing at the end; it may block. The
        agent has to answer within `patience` seconds. Raises AgentLost.
        """
        try:
            with self._socket:
                self._greet(time.monotonic() + patience)
                self._send(frames.REQUEST, json.dumps(request).encode())
                self._send(frames.GO)
                feeder = threading.Thread(target=self._feed, args=(stdin,), daemon=True)
                feeder.start()
                try:
                    return self._listen(request.get("seconds"), on_output)
                finally:
                    self._take_leave()
                    if not callable(stdin):
                        feeder.join()
        except TimeoutError:
            raise AgentLost(f"it does not answer ({self._path})") from None
        except OSError as error:
            raise AgentLost(f"{error.strerror or error} ({self._path})") from None

    def _listen(self, seconds: float | None, on_output: OnOutput) -> Ended:
        until = time.monotonic() + seconds + _GRACE if seconds else None
        for frame in self._frames(until):
            if frame.kind in (frames.OUTPUT, frames.ERRORS):
                on_output(frame.data, frame.kind == frames.ERRORS)
            elif frame.kind == frames.EXIT:
                answer = json.loads(frame.data)
                return Ended(int(answer["status"]), bool(answer["late"]))
        raise AgentLost("its machine ended, or another client took the port")

    def _take_leave(self) -> None:
        """Read until QEMU has hung up too, then go.

        What it cannot deliver when its client has gone it never gives back to the machine, and a
        port that has lost too many buffers is dead (docs/decisions.md, 16).
        """
        self.stop()
        end = time.monotonic() + _LEAVE_SECONDS
        with contextlib.suppress(OSError):
            while select.select([self._socket], [], [], max(0.0, end - time.monotonic()))[0]:
                if not self._socket.recv(256 * 1024):
                    return
            self._socket.shutdown(socket.SHUT_RDWR)

    def _connect(self) -> None:
        """A socket is there a moment before QEMU listens on it, and stays where QEMU is dead."""
        end = time.monotonic() + _REFUSED_SECONDS
        while True:
            try:
                return self._socket.connect(str(self._path))
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.05)

    def _greet(self, end: float) -> None:
        self._socket.settimeout(max(0.001, end - time.monotonic()))
        self._connect()
        while True:
            # Again: a machine that is just being restored may lose what was sent first.
            self._socket.sendall(frames.PADDING + frames.pack(frames.HELLO, self._session))
            try:
                until = min(end, time.monotonic() + _HELLO_AGAIN)
                for frame in self._frames(until):
                    if frame.kind == frames.READY:
                        self._socket.settimeout(None)
                        return
                raise AgentLost("its machine ended")
            except TimeoutError:
                if time.monotonic() >= end:
                    raise

    def _frames(self, until: float | None) -> Iterator[frames.Frame]:
        """The frames of this session until the other end closes. Raises TimeoutError."""
        while True:
            wait = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._socket], [], [], wait)[0]:
                raise TimeoutError
            data = self._socket.recv(256 * 1024)
            if not data:
                return
            for frame in self._parser.feed(data):
                if frame.session == self._session:
                    yield frame

    def _feed(self, stdin: bytes | Callable[[], bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            if callable(stdin):
                while piece := stdin():
                    self._send(frames.INPUT, piece)
            else:
                for at in range(0, len(stdin), _INPUT_PIECE):
                    self._send(frames.INPUT, stdin[at : at + _INPUT_PIECE])
            self._send(frames.INPUT_END)

    def _send(self, kind: bytes, data: bytes = b"") -> None:
        with self._sending:
            self._socket.sendall(frames.pack(kind, self._session, data))
