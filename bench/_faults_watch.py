"""Watches all QEMUs of one fault from outside: when did each run, as QEMU's own events tell.

STOP is stamped after the vCPUs have stopped and RESUME before they start, so the intervals in which
a QEMU ran are, if anything, too long: two that ran at once cannot be missed between two polls.
Beside the events every tick asks each QEMU for its state and the kernel for the CPU time of its
vCPU threads, so that an event that lies would be found out.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TICK_SECONDS = 0.015
# A stopped vCPU thread may still do chores (resets, loading the state of its CPU).
_CHORES_NS = 8_000_000
WATCH_SOCKET = "watch.sock"


@dataclass
class Eye:
    """One QEMU: its intervals of running by the host's wall clock, and what it said last."""

    folder: Path
    pid: int
    connection: socket.socket
    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    runstate: str = ""
    migration: str = "none"
    passes: int = 0
    gone_at: float | None = None
    buffer: bytes = b""
    waiting: int = 0
    asked_at: float = 0.0
    changed_at: float = 0.0
    cpu: tuple[float, int] | None = None
    suspected: tuple[float, str] | None = None
    status_tick: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        return len(self.began) > len(self.ended)

    @property
    def silent_seconds(self) -> float:
        """For how long it has owed an answer."""
        return time.monotonic() - self.asked_at if self.waiting else 0.0

    def intervals(self, now: float) -> list[tuple[float, float]]:
        ends = self.ended + [now] * (len(self.began) - len(self.ended))
        return list(zip(self.began, ends, strict=True))


Heard = Callable[[Eye, str, dict[str, Any]], None]


class Watch:
    """Watches the QEMUs whose folders appear below `roots`, from `start` to `stop`."""

    def __init__(self, roots: list[Path]) -> None:
        self.roots = roots
        self.eyes: dict[Path, Eye] = {}
        self.violations: list[str] = []
        self.samples = 0
        self.began_at = time.time()
        self.heard: Heard = lambda eye, name, data: None
        self._news = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._both = 0
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._find()
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()
        for eye in self.eyes.values():
            eye.connection.close()
        self._selector.close()

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until `condition` holds; looked at after every event and every tick."""
        end = time.monotonic() + seconds
        with self._news:
            while not condition():
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._news.wait(min(left, TICK_SECONDS))
        return True

    def eye(self, pid: int) -> Eye | None:
        return next((eye for eye in self.eyes.values() if eye.pid == pid), None)

    def overlap_ms(self) -> float:
        """The longest time in which two ran at once."""
        now = time.time()
        spans = [eye.intervals(now) for eye in self.eyes.values()]
        longest = 0.0
        for index, some in enumerate(spans):
            for others in spans[index + 1 :]:
                for began, ended in some:
                    for start, end in others:
                        longest = max(longest, min(ended, end) - max(began, start))
        return round(longest * 1000, 3)

    def longest_gap_ms(self, since: float) -> float:
        """The longest time after `since` in which none ran."""
        now = time.time()
        covered = sorted(span for eye in self.eyes.values() for span in eye.intervals(now))
        at, longest = since, 0.0
        for began, ended in covered:
            if began > at:
                longest = max(longest, began - at)
            at = max(at, ended)
        return round(max(longest, now - at) * 1000, 3)

    def _run(self) -> None:
        next_tick = 0.0
        while not self._stopping:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_SECONDS
                self._find()
                self._tick()
                with self._news:
                    self._news.notify_all()
            for key, _ in self._selector.select(max(0.0, next_tick - time.monotonic())):
                self._read(key.data)

    def _find(self) -> None:
        for root in self.roots:
            with contextlib.suppress(OSError):
                for folder in root.iterdir():
                    if folder not in self.eyes and (folder / WATCH_SOCKET).exists():
                        self._open(folder)

    def _open(self, folder: Path) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(folder / WATCH_SOCKET))
        except OSError:  # it is still on its way, or has gone
            connection.close()
            return
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        eye = Eye(folder, int.from_bytes(peer[:4], "little"), connection)
        self.eyes[folder] = eye
        connection.setblocking(False)
        self._send(eye, "qmp_capabilities", "hello")
        self._selector.register(connection, selectors.EVENT_READ, eye)

    def _send(self, eye: Eye, command: str, name: str) -> None:
        with contextlib.suppress(OSError):
            eye.connection.send(json.dumps({"execute": command, "id": name}).encode() + b"\n")
            eye.waiting += 1

    def _tick(self) -> None:
        running = 0
        for eye in self.eyes.values():
            if eye.gone_at is not None:
                continue
            if eye.waiting == 0:
                eye.asked_at = time.monotonic()
                self._send(eye, "query-status", "status")
                self._send(eye, "query-migrate", "migrate")
            self._check_cpu(eye)
            running += eye.runstate == "running"
        self.samples += 1
        self._both = self._both + 1 if running > 1 else 0
        if self._both == 3:
            self.violations.append("two QEMUs say that they run")

    def _read(self, eye: Eye) -> None:
        try:
            data = eye.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone(eye)
            return
        *lines, eye.buffer = (eye.buffer + data).split(b"\n")
        for line in lines:
            if line.strip():
                self._take(eye, json.loads(line))

    def _gone(self, eye: Eye) -> None:
        self._selector.unregister(eye.connection)
        eye.gone_at = time.time()
        eye.runstate = eye.migration = "gone"
        if eye.runs:
            eye.ended.append(eye.gone_at)
        self._tell(eye, "GONE", {})

    def _take(self, eye: Eye, message: dict[str, Any]) -> None:
        if "event" in message:
            self._event(eye, message)
            return
        if "QMP" in message:
            return
        eye.waiting -= 1
        reply = message.get("return", {})
        if message.get("id") == "status":
            eye.runstate = reply["status"]
            if not eye.began and not eye.ended and reply["running"]:
                # It ran before we came.
                eye.began.append(self.began_at)
            self._clear_up(eye)
        elif message.get("id") == "migrate":
            eye.migration = reply.get("status", "none")

    def _event(self, eye: Eye, message: dict[str, Any]) -> None:
        name, data = message["event"], message.get("data", {})
        stamp = message["timestamp"]["seconds"] + message["timestamp"]["microseconds"] / 1e6
        eye.changed_at = time.monotonic()
        if name == "RESUME" and not eye.runs:
            eye.began.append(stamp)
        elif name == "STOP" and eye.runs:
            eye.ended.append(stamp)
        elif name == "STOP" and not eye.began:
            eye.began.append(self.began_at)
            eye.ended.append(stamp)
        elif name == "MIGRATION":
            eye.migration = data["status"]
        elif name == "MIGRATION_PASS":
            eye.passes = data["pass"]
        self._tell(eye, name, data)

    def _tell(self, eye: Eye, name: str, data: dict[str, Any]) -> None:
        self.heard(eye, name, data)
        with self._news:
            self._news.notify_all()

    def _check_cpu(self, eye: Eye) -> None:
        """A QEMU that said STOP must not give its vCPUs any time."""
        now, spent = time.monotonic(), vcpu_ns(eye.pid)
        before, eye.cpu = eye.cpu, (now, spent)
        if before is None or eye.runs or not eye.ended or eye.changed_at > before[0]:
            return
        if spent - before[1] > _CHORES_NS and eye.suspected is None:
            given = f"{(spent - before[1]) / 1e6:.1f} ms"
            eye.suspected = now, f"process {eye.pid} gave its vCPUs {given} after STOP"

    def _clear_up(self, eye: Eye) -> None:
        """On an answer to what was asked after a suspicion: a RESUME would have come before it."""
        if eye.suspected is None or eye.asked_at < eye.suspected[0]:
            return
        if not eye.runs:
            self.violations.append(eye.suspected[1])
        eye.suspected = None


def vcpu_ns(pid: int) -> int:
    """CPU time of the vCPU threads of a QEMU so far."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().startswith("CPU "):
                total += int((task / "schedstat").read_text().split()[0])
    return total
