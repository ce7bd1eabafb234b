"""Threads of a process: what they ran, what they waited for a core, and where they may run.

The kernel tells both in /proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """One thread at one moment. Seconds on a core, and ready without one."""

    tid: int
    name: str
    ran: float
    waited: float

    @property
    def is_vcpu(self) -> bool:
        """QEMU names them `CPU 0/KVM` or `CPU 0/TCG`, where it runs with debug-threads=on."""
        return self.name.startswith("CPU ")

    @property
    def is_migration(self) -> bool:
        """`live_migration` and `multifd…` up to QEMU 8, `mig/…` later."""
        return self.name.startswith(("live_migration", "multifd", "mig/"))


def tids_of(pid: int) -> list[int]:
    """All threads of a process; none where it has ended."""
    try:
        return sorted(int(path.name) for path in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def thread_times(pid: int) -> list[ThreadTimes]:
    """All threads of a process; those that end while we read are left out."""
    found = []
    for tid in tids_of(pid):
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/task/{tid}/comm").read_bytes()
            found.append(times_of(pid, tid, name.decode(errors="replace").rstrip("\n")))
    return found


def times_of(pid: int, tid: int, name: str) -> ThreadTimes:
    """One thread whose name is known. Raises OSError where it has ended."""
    ran, waited = Path(f"/proc/{pid}/task/{tid}/schedstat").read_bytes().split()[:2]
    return ThreadTimes(tid, name, int(ran) / 1e9, int(waited) / 1e9)


def cores_of(tid: int) -> frozenset[int]:
    """The cores on which a thread may run; none where it has ended."""
    try:
        return frozenset(os.sched_getaffinity(tid))
    except OSError:
        return frozenset()


def pin(tid: int, cores: frozenset[int]) -> bool:
    """Keep a thread on these cores; False where it has ended or we may not."""
    try:
        os.sched_setaffinity(tid, cores)
    except OSError:
        return False
    return True
