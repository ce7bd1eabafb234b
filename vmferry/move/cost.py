"""What a move costs the guest and the host: the seventh fast path, measured.

vCPU threads: the share of the time in which they were ready to run but had no core (run delay).
Migration threads: what they ran. They appear when the migration begins and end with it, so they
are read at every poll.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from dataclasses import dataclass, field

from vmferry.host.process import ProcessId
from vmferry.host.threads import ThreadTimes, cores_of, pin, thread_times, times_of

# Listing all threads costs more than reading one.
LIST_SECONDS = 1.0


@dataclass
class CostMeter:
    """Reads the threads of the source while it migrates. `pin_apart` keeps its migration threads
    off the cores of its vCPUs, where there are others."""

    process: ProcessId | None
    pin_apart: bool = False
    pinned_to: tuple[int, ...] | None = None
    _began: float = 0.0
    _vcpus: dict[int, ThreadTimes] = field(default_factory=dict)
    _latest: dict[int, ThreadTimes] = field(default_factory=dict)
    _migration: dict[int, ThreadTimes] = field(default_factory=dict)
    _ended: float = 0.0

    def begin(self) -> None:
        """Call when the migration is issued."""
        self._began = self._ended = time.monotonic()
        self._vcpus = {one.tid: one for one in self._threads() if one.is_vcpu}
        self._latest = dict(self._vcpus)

    def pinning(self) -> str:
        """What is done with the migration threads, in words; call after `begin`."""
        cores = spare_cores(self._latest)
        if cores:
            return f"migration threads are kept to core {_listed(cores)}, where no vCPU may run"
        why = (
            "the vCPUs may run on every core" if self._latest else "QEMU does not name its threads"
        )
        return f"migration threads are left alone: {why}"

    def poll(self) -> None:
        """Call now and then while it runs."""
        now = time.monotonic()
        if not self._migration or now - self._ended >= LIST_SECONDS:
            self._list()
            self._ended = now
            return
        # Between two listings only the threads that end with the migration are read.
        for one in list(self._migration.values()):
            with contextlib.suppress(OSError):
                pid = self.process.pid if self.process is not None else 0
                self._migration[one.tid] = times_of(pid, one.tid, one.name)

    def _list(self) -> None:
        for one in self._threads():
            if one.is_vcpu:
                self._latest[one.tid] = one
            elif one.is_migration:
                if self.pin_apart and one.tid not in self._migration:
                    self._pin(one.tid)
                self._migration[one.tid] = one

    def run_delay_percent(self) -> dict[str, float]:
        """Of each vCPU thread, by name: per cent of the time that it waited for a core."""
        elapsed = self._ended - self._began
        if elapsed <= 0:
            return {}
        return {
            after.name: round(100 * (after.waited - self._vcpus[tid].waited) / elapsed, 1)
            for tid, after in self._latest.items()
            if tid in self._vcpus
        }

    def migration_cpu_seconds(self) -> float | None:
        """None where the threads cannot be told apart (QEMU without debug-threads=on)."""
        if not self._migration:
            return None
        return sum(one.ran for one in self._migration.values())

    def _threads(self) -> list[ThreadTimes]:
        return thread_times(self.process.pid) if self.process is not None else []

    def _pin(self, tid: int) -> None:
        cores = spare_cores(self._latest)
        if cores and pin(tid, cores):
            self.pinned_to = tuple(sorted(cores))


def spare_cores(vcpus: dict[int, ThreadTimes]) -> frozenset[int]:
    """The cores that we may use and no vCPU does; none where there is no choice."""
    if not vcpus:
        return frozenset()
    return cores_of(os.getpid()).difference(*(cores_of(tid) for tid in vcpus))


def _listed(cores: frozenset[int]) -> str:
    return ", ".join(str(core) for core in sorted(cores))


def own_cpu_seconds() -> float:
    """What this process has run so far, in user and system mode."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
