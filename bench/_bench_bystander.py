"""QEMU's events as a bystander hears them: on a QMP socket that nobody else uses."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Event = Mapping[str, Any]


class Bystander:
    """One QMP session that says nothing. QEMU's time stamps need no haste in reading them."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.sendall(b'{"execute": "qmp_capabilities"}\n')
        self._socket.setblocking(False)
        self._text = b""

    def events(self) -> list[Event]:
        """All events so far, also of a QEMU that has ended."""
        try:
            while data := self._socket.recv(1 << 16):
                self._text += data
        except (BlockingIOError, ConnectionResetError):
            pass
        whole = self._text.rpartition(b"\n")[0]
        return [line for line in map(json.loads, whole.splitlines()) if "event" in line]

    def wait_for(self, name: str, timeout: float = 10.0) -> Event:
        """The first event of that name. Raises TimeoutError."""
        give_up = time.monotonic() + timeout
        while time.monotonic() < give_up:
            for event in self.events():
                if event["event"] == name:
                    return event
            time.sleep(0.01)
        raise TimeoutError(f"no {name} within {timeout:g} s")

    def close(self) -> None:
        self._socket.close()


def stamp(event: Event) -> float:
    """When QEMU raised it: seconds since 1970."""
    return float(event["timestamp"]["seconds"]) + float(event["timestamp"]["microseconds"]) / 1e6


def status_stamp(events: list[Event], status: str) -> float:
    """When the migration took a status. Raises LookupError."""
    for event in events:
        if event["event"] == "MIGRATION" and event["data"]["status"] == status:
            return stamp(event)
    raise LookupError(f"no MIGRATION event of status '{status}'")
