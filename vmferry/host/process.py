"""Which process is meant, for ever: a pid alone is reused, a pid with its start time is not."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process of this boot: pid, start time in clock ticks since boot, and the boot's id."""

    pid: int
    start_ticks: int
    boot: str

    def alive(self) -> bool:
        """Whether any thread of it still runs; a zombie is dead, and so is any process of an
        earlier boot."""
        return self.boot == boot_id() and _start_ticks(self.pid) == self.start_ticks

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a signal to this very process, never to one that took its pid over."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # Looked at after it was opened: the descriptor is of this process or of a dead one.
            if self.alive():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, sig)
        finally:
            os.close(descriptor)

    def wait_dead(self, seconds: float) -> bool:
        """Wait until it is dead, at most `seconds`; also for a process that is no child of ours."""
        if not self.alive():
            return True
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            select.select([descriptor], [], [], seconds)
        finally:
            os.close(descriptor)
        return not self.alive()

    def age(self) -> float:
        """Seconds since it was started, by the clock of this boot."""
        started = self.start_ticks / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)

    def resident_bytes(self) -> int | None:
        """Memory that it has in RAM now; None where that cannot be told."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE")

    def words(self) -> list[str]:
        """What it was started with, the program first; nothing where that cannot be told."""
        try:
            line = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return []
        return [os.fsdecode(word) for word in line.split(b"\0")[:-1]]

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "start_ticks": self.start_ticks, "boot": self.boot}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ProcessId:
        return cls(int(data["pid"]), int(data["start_ticks"]), str(data["boot"]))

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The process that has `pid` now. Raises ProcessLookupError where there is none."""
        ticks = _start_ticks(pid)
        if ticks is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(pid, ticks, boot_id())


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_ticks(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name is in brackets and may hold any byte, also spaces and brackets.
    fields = text.rpartition(b")")[2].split()
    # While other threads of a killed process run on, its first one may be a zombie already.
    ended = fields[0] in b"ZX" and int(fields[17]) <= 1
    return None if ended else int(fields[19])
