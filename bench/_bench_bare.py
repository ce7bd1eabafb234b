"""The least that moves a VM: a script on two plain QMP sockets, what vmferry is measured against.

It knows nothing of safety, history, the guest or a display.
"""

from __future__ import annotations

import json
import select
import socket
import time
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.25


class PlainQmp:
    """JSON lines on a socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rwb", buffering=0)
        self._lines.readline()
        self.status = ""
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """What QEMU returns; the latest status of the migration that events told is kept."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "return" not in (message := json.loads(self._lines.readline())):
            if "error" in message:
                raise RuntimeError(f"{command}: {message['error']['desc']}")
            self._note(message)
        return message["return"]

    def hear(self, seconds: float) -> None:
        """Take the events of the next `seconds`, or return at once when the migration ends."""
        end = time.monotonic() + seconds
        while self.status not in ("completed", "failed"):
            left = max(0.0, end - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                return
            self._note(json.loads(self._lines.readline()))

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _note(self, message: dict[str, Any]) -> None:
        if message["event"] == "MIGRATION":
            self.status = message["data"]["status"]


def move(source: Path, destination: Path, uri: str, bandwidth: int, limit_ms: int) -> int:
    """Move a VM and quit the source; returns QEMU's total-time in milliseconds.

    It polls as often as vmferry does, and does not wait for the next poll where an event says that
    the migration is over: so it is the fastest script, not the plainest. Raises RuntimeError.
    """
    a, b = PlainQmp(source), PlainQmp(destination)
    on = [{"capability": name, "state": True} for name in ("events", "return-path")]
    for side in (a, b):
        side.ask("migrate-set-capabilities", capabilities=on)
    limits = {"max-bandwidth": bandwidth, "downtime-limit": limit_ms}
    a.ask("migrate-set-parameters", **limits)
    a.ask("migrate", uri=uri)
    while a.status not in ("completed", "failed"):
        a.ask("query-migrate")
        a.hear(POLL_SECONDS)
    if a.status == "failed":
        raise RuntimeError(a.ask("query-migrate").get("error-desc", "the migration failed"))
    b.ask("cont")
    while not (total := a.ask("query-migrate")["total-time"]):
        time.sleep(0.01)
    a.ask("quit")
    a.close()
    b.close()
    return int(total)
