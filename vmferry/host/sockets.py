"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from vmferry.host.process import ProcessId

_CONNECT_SECONDS = 1.0


def peer_of(path: Path) -> ProcessId | None:
    """The process that listens at a socket, as the kernel tells; None where nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
            size = struct.calcsize("3i")
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            return ProcessId.of(struct.unpack("3i", credentials)[0])
        except OSError:
            return None
