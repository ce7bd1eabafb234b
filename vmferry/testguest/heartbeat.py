"""Listens to a guest's heartbeat on one side.

A thread that blocks in recv, not asyncio: a beat is stamped the moment it comes, and 500 a second
cost well under 1 % of a core.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

from vmferry.errors import VmferryError
from vmferry.testguest.beats import (
    KEPT_BYTES,
    PERIOD_SECONDS,
    BeatReport,
    Beats,
    Decoder,
    between,
    merge,
    report,
    unpack,
    work_rate,
)

__all__ = [
    "PERIOD_SECONDS",
    "BeatReport",
    "Beats",
    "HeartbeatError",
    "HeartbeatReader",
    "between",
    "merge",
    "report",
    "work_rate",
]


class HeartbeatError(VmferryError):
    """There is no heartbeat to listen to."""


class HeartbeatReader:
    """Keeps every beat that comes from the socket at `path`; `side` names the side it is.

    It ends quietly when the other end goes away: see `ended`.
    """

    def __init__(self, path: Path, side: str) -> None:
        self.side = side
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._run, name=f"beat-{side}", daemon=True)
        # Appending and slicing are atomic: no lock between the thread and a snapshot.
        self._kept = bytearray()
        self._ended = False
        self.cpu_seconds = 0.0

    def start(self) -> None:
        """Connect and listen. Raises HeartbeatError where nobody serves the socket."""
        try:
            self._socket.connect(str(self._path))
        except OSError as error:
            self._socket.close()
            raise HeartbeatError(
                f"no heartbeat of the {self.side}: {self._path}: {error.strerror}"
            ) from None
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; the beats stay. Harmless where it never started or has ended."""
        if self._thread.ident is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join()
        self._socket.close()

    @property
    def ended(self) -> bool:
        """Whether no more beats will come: the other end went away, or `stop` was called."""
        return self._ended

    @property
    def count(self) -> int:
        """Beats so far."""
        return len(self._kept) // KEPT_BYTES

    def beats(self, start: int = 0) -> Beats:
        """The beats so far, from number `start` of them on."""
        return unpack(self._kept[start * KEPT_BYTES :], self.side)

    def _run(self) -> None:
        decoder = Decoder()
        with contextlib.suppress(OSError):
            while data := self._socket.recv(65536):
                self._kept += decoder.feed(data, time.monotonic_ns())
        self.cpu_seconds = time.thread_time()
        self._ended = True
