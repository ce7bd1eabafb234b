"""Para-virtualized spinlocks off and on, and the hint that vCPUs never lose their core, untrue.

Twice as many vCPUs as cores want one spinlock of the guest's kernel. A vCPU that waits in its turn
behind one that is off its core waits long: the para-virtualized lock has it sleep and be woken.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from vmferry.fastpath.bench.guest import Guest, Machine, need_kvm, need_qemu, started
from vmferry.fastpath.bench.program import image
from vmferry.fastpath.bench.rows import Row, Rows, change, spread
from vmferry.fastpath.bench.run import Benchmark, Figure, Setting
from vmferry.host.threads import cores_of, pin

OFF, ON, HINT = "off", "on", "hint-dedicated"
_CPU = {
    OFF: "host,kvm-pv-unhalt=off",
    ON: "host,kvm-pv-unhalt=on",
    HINT: "host,kvm-pv-unhalt=on,kvm-hint-dedicated=on",
}
_CORES_MOST = 4
_OVERCOMMIT = 2


async def _measure(case: str, setting: Setting) -> Row:
    cores = sorted(cores_of(os.getpid()))[:_CORES_MOST]
    vcpus = _OVERCOMMIT * len(cores)
    machine = Machine(image(setting.folder), vcpus, cpu=_CPU[case])
    async with started(machine, setting.folder / "guest") as guest:
        for thread in guest.threads():
            if thread.is_vcpu:
                pin(thread.tid, frozenset(cores))
        row: Row = {"kernel": _line(await guest.ask("log spinlock"))}
        alone = await guest.figures(f"locks {setting.seconds:g} 1", setting.seconds + 60)
        row["alone_per_s"] = _speed(alone)
        await asyncio.sleep(0.2)
        row |= await _fight(guest, setting.seconds, vcpus)
    return row


async def _fight(guest: Guest, seconds: float, vcpus: int) -> Row:
    before, waited = await guest.vcpu_counts(), _waited(guest)
    told = await guest.figures(f"locks {seconds:g} {vcpus}", seconds + 120)
    after = await guest.vcpu_counts()

    def came(name: str) -> int | None:
        return after[name] - before[name] if name in before and name in after else None

    done = [worker["done"] for worker in told["workers"]]
    return {
        "vcpus": vcpus,
        "per_s": _speed(told),
        "longest_ms": round(max(worker["longest_ns"] for worker in told["workers"]) / 1e6, 2),
        "least_done": round(100 * min(done) / max(max(done), 1), 1),
        "waited": round(_waited(guest) - waited, 3),
        **{name: came(name) for name in ("halt_exits", "hypercalls", "directed_yield_attempted")},
    }


def _speed(told: Row) -> int:
    return round(sum(int(worker["done"]) for worker in told["workers"]) / float(told["seconds"]))


def _waited(guest: Guest) -> float:
    return sum(thread.waited for thread in guest.threads() if thread.is_vcpu)


def _line(log: str) -> str:
    lines = log.strip().splitlines()
    return lines[0].rpartition("] ")[2] if lines else ""


def _problem() -> str:
    return need_qemu() or need_kvm()


def _prove(rows: Rows) -> Sequence[str]:
    told = []
    base = spread(rows.of(OFF), "per_s")
    for case in (ON, HINT):
        one = spread(rows.of(case), "per_s")
        if base is not None and one is not None:
            told.append(
                f"{case}: the lock's turns, overcommitted, against off: {change(base, one)}"
            )
    kernels = {case: rows.of(case)[0]["kernel"] for case in (OFF, ON, HINT) if rows.of(case)}
    return [*told, *(f"{case}: the guest's kernel says '{line}'" for case, line in kernels.items())]


BENCHMARK = Benchmark(
    name="pv-spinlocks",
    question="what do vCPUs without a core cost those that wait for a lock?",
    cases=(OFF, ON, HINT),
    figures=(
        Figure("alone_per_s", "turns/s, one thread (no contention)"),
        Figure("per_s", "turns/s, all vCPUs"),
        Figure("longest_ms", "longest turn, ms"),
        Figure("least_done", "vCPU with the fewest turns, % of the most"),
        Figure("waited", "vCPUs ready without a core, s"),
        Figure("halt_exits", "vCPUs went to sleep"),
        Figure("hypercalls", "calls to KVM (wake-ups)"),
        Figure("directed_yield_attempted", "yields to another vCPU"),
    ),
    problem=_problem,
    measure=_measure,
    limits=(
        "hosts with pause-loop exits find a spinning vCPU themselves and show less; an emulated "
        "host has none (kvm_amd pause_filter_count is 0) and its turns/s are its own"
    ),
    prove=_prove,
)
