"""One request queue against one for each vCPU: eight disks of one controller, a job on each."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vmferry.fastpath.bench.guest import Guest, Machine, busiest_share, need_qemu, started
from vmferry.fastpath.bench.program import image
from vmferry.fastpath.bench.rows import Row, Rows, change, spread
from vmferry.fastpath.bench.run import Benchmark, Figure, Setting

ONE, MANY = "1 queue", "a queue per vCPU"
_DISKS = 8
_DISK_BYTES = 1 << 30


def _vcpus() -> int:
    return min(max(os.cpu_count() or 2, 2), 8)


def _arguments(queues: int) -> tuple[str, ...]:
    words = ["-object", "iothread,id=io"]
    words += ["-device", f"virtio-scsi-pci,id=scsi,num_queues={queues},iothread=io"]
    for number in range(_DISKS):
        backend = f"driver=null-co,node-name=disk{number},size={_DISK_BYTES},read-zeroes=on"
        words += ["-blockdev", backend]
        words += ["-device", f"scsi-hd,bus=scsi.0,lun={number},drive=disk{number}"]
    return tuple(words)


async def _measure(case: str, setting: Setting) -> Row:
    vcpus = _vcpus()
    machine = Machine(
        image(setting.folder), vcpus, arguments=_arguments(1 if case == ONE else vcpus)
    )
    async with started(machine, setting.folder / "guest") as guest:
        return await _read(guest, setting.seconds)


async def _read(guest: Guest, seconds: float) -> Row:
    disks = " ".join(f"/dev/sd{letter}" for letter in "abcdefgh"[:_DISKS])
    await guest.ask(f"disks 0.2 {_DISKS} {disks}")  # waits for the disks, and warms up
    before = await guest.counters()
    told = await guest.figures(f"disks {seconds:g} {_DISKS} {disks}", seconds + 60)
    came = (await guest.counters()).since(before)
    done = [worker["done"] for worker in told["workers"]]
    counts = came.per_cpu(r"-request$")
    return {
        "queues": len((await guest.ask("list /sys/block/sda/mq")).split()),
        "requests_per_s": round(sum(done) / told["seconds"]),
        "slowest_job": round(100 * min(done) / max(max(done), 1), 1),
        "longest_ms": round(max(worker["longest_ns"] for worker in told["workers"]) / 1e6, 2),
        "interrupts": sum(counts),
        "busiest": busiest_share(counts),
        "requests_per_interrupt": round(sum(done) / sum(counts), 2) if sum(counts) else None,
        "between_vcpus": sum(sum(came.per_cpu(f"^{row} ")) for row in ("RES", "CAL")),
        "failed": sum(worker["failed"] for worker in told["workers"]),
    }


def _prove(rows: Rows) -> Sequence[str]:
    one, many = (spread(rows.of(case), "busiest") for case in (ONE, MANY))
    speeds = [spread(rows.of(case), "requests_per_s") for case in (ONE, MANY)]
    if one is None or many is None or speeds[0] is None or speeds[1] is None:
        return []
    return [
        f"the busiest vCPU takes {one.median:.0f} % of the controller's interrupts with one queue "
        f"and {many.median:.0f} % with a queue for each; requests/s: {change(speeds[0], speeds[1])}"
    ]


BENCHMARK = Benchmark(
    name="scsi-queues",
    question="do completions come to the vCPU that asked, or all to one?",
    cases=(ONE, MANY),
    figures=(
        Figure("queues", "hardware queues (/sys/block/sda/mq)"),
        Figure("requests_per_s", "requests/s, 4 KiB, 8 disks"),
        Figure("slowest_job", "slowest job, % of the fastest"),
        Figure("longest_ms", "longest request, ms"),
        Figure("interrupts", "interrupts"),
        Figure("busiest", "of them on the busiest vCPU, %"),
        Figure("requests_per_interrupt", "requests for each interrupt"),
        Figure("between_vcpus", "interrupts between vCPUs"),
        Figure("failed", "requests that failed"),
    ),
    problem=need_qemu,
    measure=_measure,
    limits=(
        "one iothread serves all queues in both cases, so what is shown is the guest's side; an "
        "emulated host has its own speeds, and its disks are empty (null-co)"
    ),
    prove=_prove,
)
