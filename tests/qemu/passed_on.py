"""A socket that another program than QEMU passes on, as `ssh -L` and socat do."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def passed_on(path: Path, to: Path) -> Iterator[Path]:
    """What connects to `path` while the block lasts speaks with who listens at `to`."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=_serve, args=(server, to), daemon=True)
        thread.start()
        try:
            yield path
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            path.unlink()


def _serve(server: socket.socket, to: Path) -> None:
    with contextlib.suppress(OSError):
        while True:
            near, _ = server.accept()
            with near, socket.socket(socket.AF_UNIX) as far:
                far.connect(str(to))
                back = threading.Thread(target=_copy, args=(far, near))
                back.start()
                _copy(near, far)
                back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
