"""Stands between source and destination: cuts the stream at a byte, withholds the way back."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

_CHUNK = 65536


class Proxy:
    """Carries one connection from the socket `at` to the socket `to`.

    `cut_at` is the byte of the stream before which both connections are closed, `stall_at` the one
    at which it stops until `go_on`. `withhold` keeps what the destination says from the source. The
    source is not told
    of a destination that has died, as where a whole host is gone.
    """

    def __init__(self, at: Path, to: Path, *, deaf: bool = False) -> None:
        self._deaf = deaf
        self.forwarded = 0
        self.cut_at: int | None = None
        self.stall_at: int | None = None
        self.was_cut = threading.Event()
        self.was_stalled = threading.Event()
        self._goes_on = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._at, self._to = at, to
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(at))
        self._listening.listen(4)
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def withhold(self) -> None:
        self._flowing.clear()

    def let_go(self) -> None:
        self._flowing.set()

    def go_on(self) -> None:
        """End a stall, and have no other."""
        self.stall_at = None
        self._goes_on.set()

    def cut(self) -> None:
        """Close both connections now; what is on its way is lost."""
        self.was_cut.set()
        self._flowing.set()
        self.go_on()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        for end in (*self._ends, self._listening):
            end.close()
        self._at.unlink(missing_ok=True)

    def _serve(self) -> None:
        try:
            source = self._listening.accept()[0]
        except OSError:
            return
        destination = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._ends = [source, destination]
        try:
            destination.connect(str(self._to))
        except OSError:
            self.cut()
            return
        back = threading.Thread(target=self._pump_back, args=(destination, source), daemon=True)
        self._threads.append(back)
        back.start()
        self._pump(source, destination)

    def _pump(self, source: socket.socket, destination: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if self.cut_at is not None and self.forwarded + len(data) > self.cut_at:
                    data = data[: max(0, self.cut_at - self.forwarded)]
                    destination.sendall(data)
                    self.forwarded += len(data)
                    self.cut()
                    return
                if self.stall_at is not None and self.forwarded + len(data) > self.stall_at:
                    self.was_stalled.set()
                    self._goes_on.wait()
                destination.sendall(data)
                self.forwarded += len(data)
            destination.shutdown(socket.SHUT_WR)
            return
        if not self._deaf:
            self.cut()
        # A sender that blocks on a Unix socket is not always woken by its own shutdown: read on.
        with contextlib.suppress(OSError):
            while source.recv(_CHUNK):
                pass

    def _pump_back(self, destination: socket.socket, source: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := destination.recv(_CHUNK):
                self._flowing.wait()
                if self.was_cut.is_set():
                    return
                source.sendall(data)
            self._flowing.wait()
            source.shutdown(socket.SHUT_WR)
