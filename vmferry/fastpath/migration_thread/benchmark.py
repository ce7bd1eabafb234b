"""A guest at work while it migrates: its migration thread on a spare core, or on its vCPU's.

The second is what every migration was before it had a thread of its own. The migration goes into a
sink and never ends by itself, so all of the window is of its passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from vmferry.fastpath.bench.guest import Guest, GuestFailedError, Machine, need_qemu, started
from vmferry.fastpath.bench.program import image
from vmferry.fastpath.bench.rows import Row, Rows, Spread, spread
from vmferry.fastpath.bench.run import Benchmark, Figure, Setting
from vmferry.host.threads import ThreadTimes, cores_of, pin
from vmferry.hypervisor.qemu.qmp import QmpError

STILL, SPARE, SAME = "no move", "spare core", "the vCPU's core"
_PAGES = 96 << 20
_BANDWIDTH = 64 << 20
_SETTLE_SECONDS = 1.0
_START_SECONDS = 20.0
_SINK = (
    "import socket, sys\n"
    "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1)\n"
    "c, b = s.accept()[0], bytearray(1 << 20)\n"
    "while c.recv_into(b): pass\n"
)


async def _measure(case: str, setting: Setting) -> Row:
    mine, spare = sorted(cores_of(os.getpid()))[:2]
    async with started(Machine(image(setting.folder), 1), setting.folder / "guest") as guest:
        for thread in guest.threads():
            pin(thread.tid, frozenset({mine if thread.is_vcpu else spare}))
        await guest.ask(f"pages 1 {_PAGES}")
        await asyncio.sleep(_SETTLE_SECONDS)
        still = await _window(guest, setting.seconds)
        if case == STILL:
            return await _compared(guest, setting.seconds, still)
        core = spare if case == SPARE else mine
        async with _migration(guest, setting.folder / "sink", core, spare):
            return await _compared(guest, setting.seconds, still)


async def _compared(guest: Guest, seconds: float, still: Row) -> Row:
    row = await _window(guest, seconds)
    if still["pages_per_s"]:
        row["work"] = round(100 * row["pages_per_s"] / still["pages_per_s"], 1)
    return row


async def _window(guest: Guest, seconds: float) -> Row:
    first, began = _threads(guest), asyncio.get_running_loop().time()
    pages = int((await guest.figures("pages"))["pages"])
    await asyncio.sleep(seconds)
    pages = int((await guest.figures("pages"))["pages"]) - pages
    last, took = _threads(guest), asyncio.get_running_loop().time() - began
    came = [(one, last[tid]) for tid, one in first.items() if tid in last]
    waited = sum(now.waited - one.waited for one, now in came if one.is_vcpu)
    return {
        "pages_per_s": round(pages / took),
        "run_delay": round(100 * waited / took, 2),
        "migration_cpu": round(
            100 * sum(now.ran - one.ran for one, now in came if one.is_migration) / took, 1
        ),
    }


def _threads(guest: Guest) -> dict[int, ThreadTimes]:
    return {thread.tid: thread for thread in guest.threads()}


@contextlib.asynccontextmanager
async def _migration(guest: Guest, path: Path, core: int, spare: int) -> AsyncIterator[None]:
    """A migration that goes on for one `async with`, its thread on `core`, its sink on `spare`."""
    sink = await asyncio.create_subprocess_exec(sys.executable, "-c", _SINK, str(path))
    try:
        pin(sink.pid, frozenset({spare}))
        await guest.command("migrate-set-parameters", max_bandwidth=_BANDWIDTH, downtime_limit=1)
        async with asyncio.timeout(_START_SECONDS):
            while True:
                try:
                    await guest.command("migrate", uri=f"unix:{path}")
                    break
                except QmpError:  # the sink does not listen yet
                    await asyncio.sleep(0.1)
        await asyncio.sleep(_SETTLE_SECONDS)
        threads = [one for one in guest.threads() if one.is_migration]
        if not threads:
            raise GuestFailedError("the migration has no thread that can be seen")
        for thread in threads:
            pin(thread.tid, frozenset({core}))
        yield
        told = await guest.command("query-migrate")
        if told.get("status") != "active":
            raise GuestFailedError(f"the migration was over too soon: {told.get('status')}")
    finally:
        with contextlib.suppress(QmpError):
            await guest.command("migrate_cancel")
        with contextlib.suppress(ProcessLookupError):
            sink.kill()
        await sink.wait()


def _problem() -> str:
    if problem := need_qemu():
        return problem
    return "" if len(cores_of(os.getpid())) > 1 else "it needs two cores, one of them spare"


def _prove(rows: Rows) -> Sequence[str]:
    def word(one: Spread | None) -> str:
        return "unknown" if one is None else f"{100 - one.median:.0f} %"

    spare, same = (word(spread(rows.of(case), "work")) for case in (SPARE, SAME))
    return [
        f"the guest loses {spare} of its work to a migration with a thread on a spare core, and "
        f"{same} with one on its vCPU's core"
    ]


BENCHMARK = Benchmark(
    name="migration-thread",
    question="what does a migration take from the guest, with a core of its own and without?",
    cases=(STILL, SPARE, SAME),
    figures=(
        Figure("pages_per_s", "pages written/s in the window"),
        Figure("work", "guest's work, % of the window before"),
        Figure("run_delay", "vCPU ready without a core, %"),
        Figure("migration_cpu", "migration threads, % of a core"),
    ),
    problem=_problem,
    measure=_measure,
    limits=(
        "the loss on a spare core is that of dirty tracking, which TCG does in software and KVM by "
        "faults: only the difference between the two cores is the thread's"
    ),
    prove=_prove,
)
