"""Benchmarks of the fast paths on real guests: what works without KVM works here, the rest is told.

Nothing here looks at a speed: what a case does to the guest is what counts.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vmferry.errors import RefusedError
from vmferry.fastpath.bench.guest import GuestFailedError, Machine, accelerator, started
from vmferry.fastpath.bench.program import image
from vmferry.fastpath.bench.rows import Rows
from vmferry.fastpath.bench.run import report, run
from vmferry.fastpath.benchmarks import BENCHMARKS
from vmferry.host.process import ProcessId

SECONDS = 0.5


async def measured(name: str) -> Rows:
    rows = Rows()
    await run(BENCHMARKS[name], rows, 1, SECONDS, lambda _: None)
    assert len(report(BENCHMARKS[name], rows)) > 2
    return rows


async def test_a_guest_that_is_asked(tmp_path: Path) -> None:
    machine = Machine(image(tmp_path), 2)
    async with started(machine, tmp_path / "guest") as guest:
        first = await guest.counters()
        told = await guest.figures("locks 0.2 2")
        assert [worker["failed"] for worker in told["workers"]] == [0, 0]
        assert all(worker["done"] > 0 for worker in told["workers"])
        came = (await guest.counters()).since(first)
        assert sum(came.per_cpu("^LOC ")) > 0
        assert sum(thread.is_vcpu for thread in guest.threads()) == 2
        with pytest.raises(GuestFailedError, match="No such file"):
            await guest.ask("read /proc/nothing")
        with pytest.raises(GuestFailedError, match="what is 'dance'"):
            await guest.ask("dance")
        pid = guest.pid
    with pytest.raises(ProcessLookupError):
        ProcessId.of(pid)


async def test_a_guest_that_cannot_start(tmp_path: Path) -> None:
    machine = Machine(image(tmp_path), 1, arguments=("-device", "nothing-pci"))
    with pytest.raises(GuestFailedError, match="'nothing-pci' is not a valid"):
        async with started(machine, tmp_path / "guest"):
            pass


async def test_scsi_queues() -> None:
    rows = await measured("scsi-queues")
    one, many = (rows.of(case)[0] for case in BENCHMARKS["scsi-queues"].cases)
    assert (one["queues"], one["busiest"]) == (1, 100.0)
    assert many["queues"] > 1
    assert many["busiest"] < 100
    assert one["failed"] == many["failed"] == 0


async def test_clock() -> None:
    rows = await measured("clock")
    hpet = rows.of("hpet")[0]
    # The HPET cannot be read in user space.
    assert hpet["ratio"] < 2
    assert rows.of("tsc")[0]["ratio"] > hpet["ratio"]
    if accelerator() == "tcg":
        assert "no clock source kvm-clock" in rows.of("kvm-clock")[0]["why"]


async def test_migration_thread() -> None:
    benchmark = BENCHMARKS["migration-thread"]
    if problem := benchmark.problem():
        assert "two cores" in problem
        return
    rows = await measured("migration-thread")
    still, spare, same = (rows.of(case)[0] for case in benchmark.cases)
    assert still["migration_cpu"] == 0
    assert spare["migration_cpu"] > 0
    assert same["migration_cpu"] > 0
    # They share one core, and both want all of it.
    assert same["run_delay"] > 5


async def test_what_needs_kvm_says_so() -> None:
    if accelerator() == "tcg":
        with pytest.raises(RefusedError, match="it needs KVM"):
            await measured("pv-spinlocks")
