"""Keeps vCPUs on the CPUs that the specification names for them, and other threads off these."""

from __future__ import annotations

from vmferry.errors import UsageError
from vmferry.host.threads import cores_of, pin, tids_of
from vmferry.hypervisor.qemu.qmp import Qmp


async def pin_threads(qmp: Qmp, pid: int, cpus: tuple[int, ...]) -> None:
    """Pin vCPU n to `cpus[n]`. Threads that QEMU starts later, a migration's, come from one that
    is off these. Raises UsageError and QmpError."""
    rows = await qmp.execute("query-cpus-fast")
    vcpus = {int(row["thread-id"]): cpus[int(row["cpu-index"])] for row in rows}
    others = cores_of(pid) - set(cpus)
    if others:
        for tid in set(tids_of(pid)) - set(vcpus):
            pin(tid, others)
    for tid, cpu in vcpus.items():
        if not pin(tid, frozenset({cpu})):
            raise UsageError(
                f"cpu.pin: no thread may run on CPU {cpu} of this host",
                hint="`nproc` and /sys/devices/system/cpu/online tell which there are",
            )
