"""One queue against one for each vCPU: which vCPUs the card's work falls on, both ways."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from vmferry.fastpath.bench import wire
from vmferry.fastpath.bench.guest import Counters, Guest, Machine, busiest_share, need_qemu, started
from vmferry.fastpath.bench.program import image
from vmferry.fastpath.bench.rows import Row, Rows, spread
from vmferry.fastpath.bench.run import Benchmark, Figure, Setting

ONE, MANY = "1 queue", "a queue per vCPU"
_CARD = r"-(input|output)\.\d+$"
_FRAME_BYTES = 256


def _vcpus() -> int:
    return min(max(os.cpu_count() or 2, 2), 8)


async def _measure(case: str, setting: Setting) -> Row:
    vcpus = _vcpus()
    with wire.wire(1 if case == ONE else vcpus, vhost=wire.has_vhost()) as card:
        machine = Machine(
            image(setting.folder), vcpus, arguments=card.arguments, descriptors=card.descriptors
        )
        async with started(machine, setting.folder / "guest") as guest:
            await guest.ask("card eth0 1500")
            row = {"queues": (await guest.ask("list /sys/class/net/eth0/queues")).count("rx-")}
            row |= await _sending(guest, setting.seconds, vcpus)
            row |= await _receiving(guest, setting.seconds)
    return row


async def _sending(guest: Guest, seconds: float, vcpus: int) -> Row:
    before = await guest.counters()
    told = await guest.figures(f"send {seconds:g} {vcpus} {_FRAME_BYTES} eth0", seconds + 60)
    came = (await guest.counters()).since(before)
    sent = sum(worker["done"] for worker in told["workers"])
    return {"sent_per_s": round(sent / told["seconds"]), **_shares(came, r"-output\.", "sent")}


async def _receiving(guest: Guest, seconds: float) -> Row:
    packets = "read /sys/class/net/eth0/statistics/rx_packets"
    before, first = await guest.counters(), int(await guest.ask(packets))
    await asyncio.to_thread(wire.flood, seconds)
    came, last = (await guest.counters()).since(before), int(await guest.ask(packets))
    soft = list(came.softirqs.get("NET_RX", {}).values())
    return {
        "received_per_s": round((last - first) / seconds),
        **_shares(came, r"-input\.", "received"),
        "received_softirqs": sum(soft),
        "received_softirq_busiest": busiest_share(soft),
    }


def _shares(came: Counters, pattern: str, way: str) -> Row:
    counts = came.per_cpu(pattern)
    return {f"{way}_interrupts": sum(counts), f"{way}_busiest": busiest_share(counts)}


def _problem() -> str:
    return need_qemu() or wire.problem()


def _prove(rows: Rows) -> Sequence[str]:
    one, many = (spread(rows.of(case), "received_softirq_busiest") for case in (ONE, MANY))
    if one is None or many is None:
        return []
    return [
        f"the busiest vCPU does {one.median:.0f} % of the work of receiving with one queue and "
        f"{many.median:.0f} % with a queue for each"
    ]


BENCHMARK = Benchmark(
    name="net-queues",
    question="do packets fall on all vCPUs, or on one?",
    cases=(ONE, MANY),
    figures=(
        Figure("queues", "queues in use"),
        Figure("sent_per_s", "sent, packets/s"),
        Figure("sent_interrupts", "interrupts while sending"),
        Figure("sent_busiest", "of them on the busiest vCPU, %"),
        Figure("received_per_s", "received, packets/s"),
        Figure("received_interrupts", "interrupts while receiving"),
        Figure("received_busiest", "of them on the busiest vCPU, %"),
        Figure("received_softirqs", "NET_RX softirqs"),
        Figure("received_softirq_busiest", "of them on the busiest vCPU, %"),
    ),
    problem=_problem,
    measure=_measure,
    limits=(
        "one program in Python sends to the guest, so packets/s is what it can send, and on an "
        "emulated host no speed is that of a machine; where the packets fall is"
    ),
    prove=_prove,
)
