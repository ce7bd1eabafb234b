"""Each of the seven off against on, on a real KVM host: the difference that must be seen.

One run of each case. What is asserted is where work falls and which way is taken, never a speed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bench.fastpath import measure, prepare
from lab.machine import Options
from tests.lab.common import SharedHost, shared_host
from vmferry.fastpath.bench.rows import Row
from vmferry.fastpath.benchmarks import BENCHMARKS

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def shared() -> Iterator[SharedHost]:
    yield from shared_host(Options(), partial(prepare, vtd=False))


@pytest.fixture(scope="module")
def with_vtd() -> Iterator[SharedHost]:
    yield from shared_host(Options(vtd=True), partial(prepare, vtd=True))


async def rows_of(shared: SharedHost, name: str, folder: Path) -> list[Row]:
    """A row for each case, in the order of the cases."""
    options = argparse.Namespace(repeats=1, seconds=1.0, out=folder)
    rows = await shared.run(lambda host: measure(host, name, options))
    found = [row for case in BENCHMARKS[name].cases for row in rows.of(case)]
    assert len(found) == len(BENCHMARKS[name].cases)
    return found


async def test_net_queues(shared: SharedHost, tmp_path: Path) -> None:
    one, many = await rows_of(shared, "net-queues", tmp_path)
    assert (one["queues"], many["queues"]) == (1, 2)
    assert one["sent_busiest"] == one["received_busiest"] == 100
    assert many["received_busiest"] < 100
    assert many["received_softirq_busiest"] < one["received_softirq_busiest"]


async def test_scsi_queues(shared: SharedHost, tmp_path: Path) -> None:
    one, many = await rows_of(shared, "scsi-queues", tmp_path)
    assert (one["queues"], many["queues"]) == (1, 2)
    assert one["busiest"] == 100
    assert many["busiest"] < 100
    assert one["failed"] == many["failed"] == 0


async def test_zero_copy(shared: SharedHost, tmp_path: Path) -> None:
    off, on = await rows_of(shared, "zero-copy", tmp_path)
    assert off["handle_tx_copy_60000"] > 0
    assert off["handle_tx_zerocopy_60000"] == 0
    assert on["handle_tx_zerocopy_60000"] > 0
    assert on["handle_tx_copy_60000"] == 0
    assert on["vhost_zerocopy_callback_60000"] > 0
    # Packets of less than 256 bytes are copied by either way.
    assert on["vhost_zerocopy_callback_128"] == 0


async def test_pv_spinlocks(shared: SharedHost, tmp_path: Path) -> None:
    off, on, hint = await rows_of(shared, "pv-spinlocks", tmp_path)
    assert off["kernel"].endswith("PV spinlocks disabled, no host support")
    assert on["kernel"].endswith("PV spinlocks enabled")
    assert "KVM_HINTS_REALTIME" in hint["kernel"]
    # Only such a lock wakes the next one up.
    assert on["directed_yield_attempted"] > off["directed_yield_attempted"]


async def test_clock(shared: SharedHost, tmp_path: Path) -> None:
    kvm, _, hpet, _ = await rows_of(shared, "clock", tmp_path)
    assert kvm["ratio"] > hpet["ratio"]
    assert hpet["ratio"] < 2
    assert abs(kvm["step_ms"]) < 60_000


async def test_migration_thread(shared: SharedHost, tmp_path: Path) -> None:
    still, spare, same = await rows_of(shared, "migration-thread", tmp_path)
    assert still["migration_cpu"] == 0
    assert spare["migration_cpu"] > 0
    assert same["run_delay"] > 5


async def test_large_pages(with_vtd: SharedHost, tmp_path: Path) -> None:
    small, large, huge, forbidden = await rows_of(with_vtd, "large-pages", tmp_path)
    # A page of tables holds 512 entries: 262144 of 4 KiB fill 512 of them.
    assert small["tables"] >= 512
    assert large["tables"] < 10
    assert huge["tables"] < 10
    assert forbidden["tables"] >= 512
    assert huge["map_ms"] < small["map_ms"]
