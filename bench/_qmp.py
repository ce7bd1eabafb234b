"""The plainest QMP client: blocking, one socket, no library; for measuring QEMU itself."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any


class Qmp:
    """One QMP session on a Unix socket that QEMU may still have to make."""

    def __init__(self, path: Path, timeout: float = 20.0) -> None:
        self._socket = _connect(path, timeout)
        self._socket.settimeout(timeout)
        self._lines = self._socket.makefile("rwb")
        self.events: list[dict[str, Any]] = []
        self._read()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """What QEMU returns. Raises RuntimeError with QEMU's reason."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}).encode())
        self._lines.flush()
        while "event" in (reply := self._read()):
            self.events.append(reply)
        if "error" in reply:
            raise RuntimeError(f"{command}: {reply['error']['desc']}")
        return reply["return"]

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise RuntimeError("QEMU closed its QMP socket")
        message: dict[str, Any] = json.loads(line)
        return message


def _connect(path: Path, timeout: float) -> socket.socket:
    give_up = time.monotonic() + timeout
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
            return client
        except OSError:
            client.close()
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
