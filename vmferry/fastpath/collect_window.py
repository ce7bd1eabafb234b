"""What happened between two readings: threads, vCPU statistics, packets, requests, a migration."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

from vmferry.fastpath.collect_neighbours import Ran, read_neighbours, with_neighbours
from vmferry.fastpath.collect_process import vhost_threads
from vmferry.fastpath.collect_qom import Asker, understood
from vmferry.fastpath.collect_storage import read_requests
from vmferry.fastpath.collect_taps import Links, read_links
from vmferry.fastpath.facts import Thread, VmFacts, Window
from vmferry.host.threads import ThreadTimes, cores_of, thread_times, times_of
from vmferry.hypervisor.qemu.side import QemuSide

_VHOST = "vhost-"
# QEMU's own, for its monitors.
_MONITOR = "IO mon_iothread"
_UNKNOWN_COMMAND = "has not been found"


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment, `at` by the monotonic clock. `stats` by the vCPU's path and name."""

    at: float
    threads: Mapping[int, ThreadTimes]
    links: Links
    stats: Mapping[str, Mapping[str, int]] | None
    requests: Mapping[str, int] | None


class WindowReader:
    """The window of one VM: `begin`, something else for as long as it takes, `end`."""

    def __init__(self, side: QemuSide) -> None:
        self._pid = None if side.process is None else side.process.pid
        self._unread: dict[str, str] = {}
        self._asker = Asker(side.execute, self._unread)
        self._kernel_threads: list[int] = []
        self._neighbours: Ran = {}
        self._first: Reading | None = None

    @property
    def began(self) -> float:
        """When the window began, by the monotonic clock."""
        assert self._first is not None, "begin comes first"
        return self._first.at

    async def begin(self) -> Links:
        """Read once; returns the interfaces, which the VM's own reading needs too."""
        if self._pid is not None:
            self._kernel_threads = await asyncio.to_thread(vhost_threads, self._pid)
            with contextlib.suppress(OSError):
                self._neighbours = await asyncio.to_thread(read_neighbours, self._pid)
        self._first = await self._read()
        return self._first.links

    async def end(self, vm: VmFacts, owners: Mapping[str, str]) -> Window:
        """Read again; what came in between. Raises QmpGone where QEMU has ended."""
        first = self._first
        assert first is not None, "begin comes first"
        last = await self._read()
        migration = await self._asker.ask("migrating", "query-migrate") or {}
        return Window(
            seconds=last.at - first.at,
            threads=self._threads(first, last, vm),
            vcpu_stats=_stats(first, last, vm),
            taps=self._taps(first, last, vm),
            requests=_requests(first, last, owners),
            migrating=bool(vm.migrating) or migration.get("status") == "active",
            throttle=int(migration.get("cpu-throttle-percentage") or 0),
            unread=self._unread,
        )

    async def neighbours_of(self, vm: VmFacts) -> VmFacts:
        """`vm` with those who shared its CPUs in the window."""
        return await asyncio.to_thread(with_neighbours, vm, self._neighbours)

    async def _read(self) -> Reading:
        # The threads first: what follows is work for them.
        at, threads = time.monotonic(), await asyncio.to_thread(self._thread_times)
        stats, requests, links = await asyncio.gather(
            understood(self._asker, "vcpu_stats", self._vcpu_stats()),
            understood(self._asker, "requests", read_requests(self._asker)),
            asyncio.to_thread(read_links, self._pid),
        )
        return Reading(at, threads, links, stats, requests)

    def _thread_times(self) -> dict[int, ThreadTimes]:
        if self._pid is None:
            return {}
        found: dict[int, ThreadTimes] = {}
        with contextlib.suppress(ValueError):  # a kernel whose schedstat is empty
            found = {one.tid: one for one in thread_times(self._pid)}
        for tid in self._kernel_threads:
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[tid] = times_of(tid, tid, f"vhost-{self._pid}")
        # Linux before 5.14 writes zeros where neither schedstats nor delayacct is on.
        return found if any(one.ran for one in found.values()) else {}

    async def _vcpu_stats(self) -> dict[str, dict[str, int]] | None:
        told = await self._asker.ask("vcpu_stats", "query-stats", {"target": "vcpu"})
        if told is None:
            if _UNKNOWN_COMMAND in self._unread["vcpu_stats"]:
                self._unread["vcpu_stats"] = "this QEMU has no query-stats, which came with 7.1"
            return None
        found: dict[str, dict[str, int]] = {}
        for one in told:
            numbers = found.setdefault(str(one.get("qom-path", "")), {})
            for stat in one["stats"]:
                value = stat["value"]
                # Histograms are lists, and switches booleans.
                if isinstance(value, int) and not isinstance(value, bool):
                    numbers[str(stat["name"])] = value
        return found

    def _threads(self, first: Reading, last: Reading, vm: VmFacts) -> tuple[Thread, ...] | None:
        if not last.threads:
            self._unread["threads"] = vm.unread.get(
                "pid", f"/proc/{self._pid}/task/*/schedstat cannot be read"
            )
            return None
        found = []
        for tid, now in last.threads.items():
            # One that is new ran all it ever ran within the window.
            before = first.threads.get(tid)
            ran = now.ran - (before.ran if before is not None else 0.0)
            waited = now.waited - (before.waited if before is not None else 0.0)
            role = role_of(now, vm)
            found.append(Thread(tid, now.name, role, ran, waited, cores_of(tid) or None))
        return tuple(found)

    def _taps(
        self, first: Reading, last: Reading, vm: VmFacts
    ) -> dict[str, Mapping[str, int]] | None:
        if last.links.problem:
            self._unread["taps"] = last.links.problem
            return None
        found: dict[str, Mapping[str, int]] = {}
        for card in vm.cards or ():
            if card.tap is not None:
                before = first.links.counters(card.tap.name)
                now = last.links.counters(card.tap.name)
                if before is not None and now is not None:
                    found[card.tap.name] = _difference(before, now)
        return found


def role_of(thread: ThreadTimes, vm: VmFacts) -> str:
    """What a thread of QEMU is for: by what QEMU says of it, else by its name."""
    if thread.name.startswith(_VHOST):
        return "vhost"
    if thread.tid in (vcpu.tid for vcpu in vm.vcpus) or thread.is_vcpu:
        return "vcpu"
    if thread.tid in (vm.iothreads or {}).values():
        return "iothread"
    if thread.name.startswith("IO "):
        return "other" if thread.name == _MONITOR else "iothread"
    if thread.tid == vm.pid:
        return "main"
    return "migration" if thread.is_migration else "other"


def _stats(first: Reading, last: Reading, vm: VmFacts) -> tuple[dict[str, int], ...] | None:
    """By vCPU; nothing where QEMU has none (TCG)."""
    if first.stats is None or last.stats is None:
        return None
    paths = [vcpu.qom_path for vcpu in vm.vcpus if vcpu.qom_path in last.stats]
    return tuple(_difference(first.stats.get(path, {}), last.stats[path]) for path in paths)


def _requests(first: Reading, last: Reading, owners: Mapping[str, str]) -> dict[str, int] | None:
    """By controller, or by the disk's own name where none of ours has it."""
    if first.requests is None or last.requests is None:
        return None
    found: dict[str, int] = {}
    for disk, count in last.requests.items():
        name = owners.get(disk, disk)
        found[name] = found.get(name, 0) + count - first.requests.get(disk, count)
    return found


def _difference(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {name: value - before.get(name, 0) for name, value in now.items()}
