"""Listens to a guest's heartbeat on one side.

A thread that blocks in recv, not asyncio: a beat is stamped the moment it comes. It does no more
than that, since 500 a second come one by one; they are decoded when somebody asks for them.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
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

_RECEIVED_BYTES = 4096
# Within this a QEMU whose VM runs has answered a farewell; one whose VM stands still does not.
_FAREWELL_SECONDS = 0.2

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
        # Appending and popping are atomic: no lock between the thread and who decodes.
        self._received: deque[tuple[int, bytes]] = deque()
        self._decoding = threading.Lock()
        self._decoder = Decoder()
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
        """Stop listening; the beats stay. Harmless where it never started or has ended.

        It listens until QEMU has hung up too: a beat that meets a closed socket costs the guest a
        buffer of its port for good (QEMU's discard_throttle_data), and it has 128.
        """
        if self._thread.ident is not None:
            self._shut(socket.SHUT_WR)
            self._thread.join(_FAREWELL_SECONDS)
            self._shut(socket.SHUT_RDWR)
            self._thread.join()
        self._socket.close()

    def _shut(self, how: int) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(how)

    @property
    def ended(self) -> bool:
        """Whether no more beats will come: the other end went away, or `stop` was called."""
        return self._ended

    @property
    def count(self) -> int:
        """Beats so far."""
        self._decode()
        return len(self._kept) // KEPT_BYTES

    def beats(self, start: int = 0) -> Beats:
        """The beats so far, from number `start` of them on."""
        self._decode()
        return unpack(self._kept[start * KEPT_BYTES :], self.side)

    def _decode(self) -> None:
        with self._decoding:
            while self._received:
                now, data = self._received.popleft()
                self._kept += self._decoder.feed(data, now)

    def _run(self) -> None:
        receive, keep, now = self._socket.recv, self._received.append, time.monotonic_ns
        with contextlib.suppress(OSError):
            while data := receive(_RECEIVED_BYTES):
                keep((now(), data))
        self.cpu_seconds = time.thread_time()
        self._ended = True
