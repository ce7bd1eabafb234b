"""The benchmarks of the seven, by the names of the features."""

from __future__ import annotations

from vmferry.fastpath.bench.run import Benchmark
from vmferry.fastpath.clock.benchmark import BENCHMARK as CLOCK
from vmferry.fastpath.large_pages.benchmark import BENCHMARK as LARGE_PAGES
from vmferry.fastpath.migration_thread.benchmark import BENCHMARK as MIGRATION_THREAD
from vmferry.fastpath.net_queues.benchmark import BENCHMARK as NET_QUEUES
from vmferry.fastpath.pv_spinlocks.benchmark import BENCHMARK as PV_SPINLOCKS
from vmferry.fastpath.scsi_queues.benchmark import BENCHMARK as SCSI_QUEUES
from vmferry.fastpath.zero_copy.benchmark import BENCHMARK as ZERO_COPY

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        NET_QUEUES,
        SCSI_QUEUES,
        ZERO_COPY,
        PV_SPINLOCKS,
        LARGE_PAGES,
        CLOCK,
        MIGRATION_THREAD,
    )
}
