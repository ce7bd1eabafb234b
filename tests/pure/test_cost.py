"""The cost meter on real threads that bear QEMU's names and are busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from vmferry.host.process import ProcessId
from vmferry.host.threads import cores_of, thread_times
from vmferry.move import cost
from vmferry.move.cost import CostMeter, spare_cores

# Two vCPUs that compete for one core, a migration thread that starts when told to, and one more.
BUSY = """
import hashlib, os, sys, threading
from pathlib import Path
core = min(os.sched_getaffinity(0))
def be(name, pinned, started):
    tid = threading.get_native_id()
    Path(f"/proc/self/task/{tid}/comm").write_text(name)
    if pinned:
        os.sched_setaffinity(tid, {core})
    started.set()
    data = bytes(1 << 20)
    while True:
        hashlib.sha256(data)
def start(name, pinned=False):
    started = threading.Event()
    threading.Thread(target=be, args=(name, pinned, started), daemon=True).start()
    started.wait()
start("CPU 0/TCG", True)
start("CPU 1/TCG", True)
start("worker")
print("ready", flush=True)
sys.stdin.readline()
start("live_migration")
print("migrates", flush=True)
sys.stdin.readline()
"""


class Busy:
    """The process; `migrate` starts its migration thread."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._wait_for(b"ready\n")
        self.process = ProcessId.of(self._child.pid)

    def migrate(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(b"\n")
        self._child.stdin.flush()
        self._wait_for(b"migrates\n")

    def end(self) -> None:
        self._child.kill()
        self._child.communicate()

    def _wait_for(self, line: bytes) -> None:
        assert self._child.stdout is not None and self._child.stdout.readline() == line


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Busy]:
    monkeypatch.setattr(cost, "LIST_SECONDS", 0.0)
    process = Busy()
    yield process
    process.end()


def poll_until(meter: CostMeter, reached: Callable[[], bool]) -> None:
    while not reached():
        meter.poll()


def test_it_tells_the_threads_apart(busy: Busy) -> None:
    busy.migrate()
    threads = thread_times(busy.process.pid)
    assert sorted(one.name for one in threads if one.is_vcpu) == ["CPU 0/TCG", "CPU 1/TCG"]
    assert [one.name for one in threads if one.is_migration] == ["live_migration"]


def test_vcpus_that_share_a_core_wait_for_it(busy: Busy) -> None:
    meter = CostMeter(busy.process)
    meter.begin()
    poll_until(meter, lambda: min(meter.run_delay_percent().values(), default=0) > 0)
    assert sorted(meter.run_delay_percent()) == ["CPU 0/TCG", "CPU 1/TCG"]


def test_a_migration_thread_counts_from_its_beginning_and_after_its_end(busy: Busy) -> None:
    meter = CostMeter(busy.process)
    meter.begin()
    meter.poll()
    assert meter.migration_cpu_seconds() is None
    busy.migrate()
    poll_until(meter, lambda: (meter.migration_cpu_seconds() or 0) > 0)
    first = meter.migration_cpu_seconds()
    assert first is not None
    poll_until(meter, lambda: (meter.migration_cpu_seconds() or 0) > first)
    last = meter.migration_cpu_seconds()
    delays = meter.run_delay_percent()
    busy.end()
    meter.poll()
    assert meter.migration_cpu_seconds() == last
    assert meter.run_delay_percent().keys() == delays.keys()


def test_between_two_listings_the_migration_thread_is_followed(
    busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = CostMeter(busy.process)
    meter.begin()
    busy.migrate()
    poll_until(meter, lambda: meter.migration_cpu_seconds() is not None)
    monkeypatch.setattr(cost, "LIST_SECONDS", 1e9)
    first = meter.migration_cpu_seconds() or 0
    poll_until(meter, lambda: (meter.migration_cpu_seconds() or 0) > first)


def test_without_names_or_a_process_it_cannot_be_told() -> None:
    for process in (None, ProcessId.of(os.getpid())):
        meter = CostMeter(process)
        meter.begin()
        meter.poll()
        assert meter.migration_cpu_seconds() is None
        assert meter.run_delay_percent() == {}


def test_the_migration_is_kept_off_the_vcpus_cores_where_there_are_others(busy: Busy) -> None:
    cores = cores_of(os.getpid())
    meter = CostMeter(busy.process, pin_apart=True)
    meter.begin()
    busy.migrate()
    poll_until(meter, lambda: meter.migration_cpu_seconds() is not None)
    [thread] = [one for one in thread_times(busy.process.pid) if one.is_migration]
    spare = cores - {min(cores)}
    if spare:
        assert meter.pinned_to == tuple(sorted(spare))
        assert cores_of(thread.tid) == spare
    else:
        assert meter.pinned_to is None
        assert cores_of(thread.tid) == cores


def test_there_is_no_choice_where_the_vcpus_may_run_anywhere(busy: Busy) -> None:
    threads = {one.tid: one for one in thread_times(busy.process.pid)}
    [free] = [tid for tid, one in threads.items() if one.name == "worker"]
    assert spare_cores({free: threads[free]}) == frozenset()
    assert spare_cores({}) == frozenset()
