"""Makes a specification right for the seven fast paths. No I/O: all it knows comes in.

What the specification says is kept, and warned of where it does not help; what it leaves open is
chosen. Doing it twice changes nothing more, so the result can be kept and started from again.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from vmferry.fastpath.clock.configure import configure as clock
from vmferry.fastpath.configured import Configured, Reason
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.large_pages.configure import configure as large_pages
from vmferry.fastpath.migration_thread.configure import configure as migration_thread
from vmferry.fastpath.net_queues.configure import configure as net_queues
from vmferry.fastpath.pv_spinlocks.configure import configure as pv_spinlocks
from vmferry.fastpath.scsi_queues.configure import configure as scsi_queues
from vmferry.fastpath.zero_copy.configure import configure as zero_copy
from vmferry.vm.spec import VmSpec


def configure(
    spec: VmSpec, host: HostFacts, spreading: Collection[str] = frozenset()
) -> Configured:
    """`spec`, which is resolved, with its fast paths right for `host`.

    `spreading` are the device models whose queues this QEMU can spread over iothreads
    (`hypervisor.qemu.binary.spreading_models`). Raises UsageError where what the specification asks
    for would do harm.
    """
    reasons: list[Reason] = []
    for step in (
        net_queues,
        partial(scsi_queues, spreading=spreading),
        zero_copy,
        pv_spinlocks,
        large_pages,
        clock,
        migration_thread,
    ):
        done = step(spec, host)
        spec = done.spec
        reasons += done.reasons
    return Configured(spec, tuple(reasons))
