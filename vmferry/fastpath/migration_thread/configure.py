"""The migration's own thread: QEMU always has it; it needs a CPU that no vCPU is on.

Where vCPUs are pinned, vmferry keeps QEMU's other threads, the migration's among them, off their
CPUs.
"""

from __future__ import annotations

from vmferry.fastpath.configured import Configured, Reason
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.finding import Feature
from vmferry.vm.spec import VmSpec


def configure(spec: VmSpec, host: HostFacts) -> Configured:
    """`spec` as it is, and what its pinning leaves to the migration's thread."""
    if not spec.cpu.pin:
        return Configured(spec, ())
    left = host.cpus - len(spec.cpu.pin)
    if left > 0:
        text = f"QEMU's other threads keep off the vCPUs' CPUs, {_cpus(left)} of the host"
        return Configured(spec, (Reason(Feature.MIGRATION_THREAD, text),))
    text = (
        f"cpu.pin takes all {host.cpus} CPUs of the host: the migration's thread will run on those "
        "of the vCPUs and take time from them during a move; leave one out"
    )
    return Configured(spec, (Reason(Feature.MIGRATION_THREAD, text, warning=True),))


def _cpus(count: int) -> str:
    return "on the other CPU" if count == 1 else f"on the other {count} CPUs"
