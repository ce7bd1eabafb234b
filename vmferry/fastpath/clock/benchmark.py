"""Each clock source of a guest: what reading it costs, and how far it steps in a live migration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from vmferry.fastpath.bench.guest import Guest, GuestFailedError, Machine, need_qemu, started
from vmferry.fastpath.bench.program import image
from vmferry.fastpath.bench.rows import Row, Rows, spread
from vmferry.fastpath.bench.run import Benchmark, Figure, Setting

SOURCES = ("kvm-clock", "tsc", "hpet", "acpi_pm")
_FOLDER = "/sys/devices/system/clocksource/clocksource0"
_LOOKS = 15
_CALIBRATION_LOOKS = 20
_MOVE_SECONDS = 180.0
_BANDWIDTH = 256 << 20


async def _measure(case: str, setting: Setting) -> Row:
    machine = Machine(image(setting.folder), 1)
    async with started(machine, setting.folder / "source") as guest:
        known = await _sources(guest)
        if case not in known:
            return {"why": f"this guest has no clock source {case}, but {', '.join(known)}"}
        await guest.ask(f"write {_FOLDER}/current_clocksource {case}")
        told = await guest.figures("clock", 300.0)
        row: Row = {
            "libc_ns": told["libc"],
            "libc_slow_ns": told["libc_slow"],
            "call_ns": told["call"],
            "ratio": round(told["call"] / told["libc"], 2),
        }
        async with started(machine, setting.folder / "target", incoming=True) as target:
            return row | await _step(guest, target, setting)


async def _sources(guest: Guest) -> list[str]:
    """What the kernel can choose from, once it has measured the TSC."""
    for _ in range(_CALIBRATION_LOOKS):
        known = (await guest.ask(f"read {_FOLDER}/available_clocksource")).split()
        if "tsc-early" not in known:
            break
        await asyncio.sleep(0.5)
    return known


async def _step(guest: Guest, target: Guest, setting: Setting) -> Row:
    """How the guest's clock stands to ours after a move, less how it stood before."""
    uri = f"unix:{setting.folder / 'move'}"
    await target.command("migrate-incoming", uri=uri)
    await guest.command("migrate-set-parameters", max_bandwidth=_BANDWIDTH)
    before = await _offset(guest)
    await guest.command("migrate", uri=uri)
    async with asyncio.timeout(_MOVE_SECONDS):
        while (told := await guest.command("query-migrate")).get("status") != "completed":
            if told.get("status") in ("failed", "cancelled"):
                raise GuestFailedError(f"the guest did not move: {told.get('error-desc', told)}")
            await asyncio.sleep(0.2)
    after = await _offset(target)
    return {
        "step_ms": round(1000 * (after[0] - before[0]), 2),
        "doubt_ms": round(1000 * (after[1] + before[1]), 2),
        "downtime_ms": (await guest.command("query-migrate")).get("downtime"),
    }


async def _offset(guest: Guest) -> tuple[float, float]:
    """The guest's clock less ours, and by how much that may be wrong: half of the quickest look."""
    looks = []
    for _ in range(_LOOKS):
        asked = time.monotonic()
        told = await guest.figures("time")
        took = time.monotonic() - asked
        looks.append((took / 2, float(told["monotonic"]) - asked - took / 2))
    doubt, offset = min(looks)
    return offset, doubt


def _prove(rows: Rows) -> Sequence[str]:
    told = []
    for case in SOURCES:
        ratio, libc = spread(rows.of(case), "ratio"), spread(rows.of(case), "libc_ns")
        if ratio is None or libc is None:
            why = {row.get("why", "") for row in rows.of(case)}
            told += sorted(why - {""})
            continue
        how = "without a system call" if ratio.median > 2 else "by a system call each time"
        told.append(f"{case} is read {how}: {libc.median:.0f} ns")
    return told


BENCHMARK = Benchmark(
    name="clock",
    question="is the clock read without a system call, and does it step in a move?",
    cases=SOURCES,
    figures=(
        Figure("libc_ns", "clock_gettime by libc, ns"),
        Figure("libc_slow_ns", "the slowest loops of it, ns"),
        Figure("call_ns", "by system call, ns"),
        Figure("ratio", "system call / libc"),
        Figure("step_ms", "step over a live migration, ms"),
        Figure("doubt_ms", "which may be wrong by, ms"),
        Figure("downtime_ms", "downtime of that migration, ms"),
    ),
    problem=need_qemu,
    measure=_measure,
    limits=(
        "on an emulated host nanoseconds are its own and the ratios hold; under TCG there is no "
        "kvm-clock; both ends of the move are on one host, so their clocks are one clock"
    ),
    prove=_prove,
)
