"""The judges of the seven, by feature."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vmferry.fastpath.clock.judge import judge as clock
from vmferry.fastpath.facts import Facts
from vmferry.fastpath.finding import Feature, Finding
from vmferry.fastpath.large_pages.judge import judge as large_pages
from vmferry.fastpath.migration_thread.judge import judge as migration_thread
from vmferry.fastpath.net_queues.judge import judge as net_queues
from vmferry.fastpath.pv_spinlocks.judge import judge as pv_spinlocks
from vmferry.fastpath.scsi_queues.judge import judge as scsi_queues
from vmferry.fastpath.zero_copy.judge import judge as zero_copy

JUDGES: Mapping[Feature, Callable[[Facts], list[Finding]]] = {
    Feature.NET_QUEUES: net_queues,
    Feature.SCSI_QUEUES: scsi_queues,
    Feature.ZERO_COPY: zero_copy,
    Feature.PV_SPINLOCKS: pv_spinlocks,
    Feature.LARGE_PAGES: large_pages,
    Feature.CLOCK: clock,
    Feature.MIGRATION_THREAD: migration_thread,
}
