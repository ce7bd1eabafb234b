"""A guest at work while it migrates: its migration thread on a spare core, or on its vCPU's.

The second is what every migration was before it had a thread of its own. The migration goes into a
sink and never ends by itself, so all of the window is of its passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from vmferry.fastpath.bench.guest import Guest, GuestFailedError, Machine, need_qemu, started
from vmferry.fastpath.bench.program import image
from vmferry.fastpath.bench.rows import Row, Rows, spread
from vmferry.fastpath.bench.run import Benchmark, Figure, Setting
from vmferry.host.threads import ThreadTimes, cores_of, pin
from vmferry.units import MIB

STILL, SPARE, SAME = "no move", "spare core", "the vCPU's core"
_WHERE = {SPARE: "a spare core", SAME: "its vCPU's core"}
_PAGES = 96 << 20
_UNLIMITED = 1 << 40
_SETTLE_SECONDS = 2.0
_START_SECONDS = 120.0
_WAIT_FOR_THE_SINK = [
    {"capability": name, "state": True} for name in ("return-path", "switchover-ack")
]
_SINK = (
    "import socket, sys\n"
    "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1); print(flush=True)\n"
    "c, b = s.accept()[0], bytearray(1 << 20)\n"
    "while c.recv_into(b): pass\n"
)


async def _measure(case: str, setting: Setting) -> Row:
    mine, spare = sorted(cores_of(os.getpid()))[:2]
    async with started(Machine(image(setting.folder), 1), setting.folder / "guest") as guest:
        for thread in guest.threads():
            pin(thread.tid, frozenset({mine if thread.is_vcpu else spare}))
        await guest.ask(f"pages 1 {_PAGES}")
        await _until(lambda: guest.figures("pages"), lambda told: told["pages"] > _PAGES // 4096)
        still = await _window(guest, setting.seconds)
        if case == STILL:
            return await _compared(guest, setting.seconds, still)
        core = spare if case == SPARE else mine
        async with _migration(guest, setting.folder / "sink", core, spare):
            sent, began = await _sent(guest), time.monotonic()
            row = await _compared(guest, setting.seconds, still)
            speed = (await _sent(guest) - sent) / (time.monotonic() - began)
            return {**row, "sent_mib_per_s": round(speed / MIB, 1)}


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


async def _sent(guest: Guest) -> int:
    return int((await guest.command("query-migrate"))["ram"]["transferred"])


def _threads(guest: Guest) -> dict[int, ThreadTimes]:
    return {thread.tid: thread for thread in guest.threads()}


@contextlib.asynccontextmanager
async def _migration(guest: Guest, path: Path, core: int, spare: int) -> AsyncIterator[None]:
    """A migration that goes on for one `async with`, its thread on `core`, its sink on `spare`."""
    sink = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SINK, str(path)), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert sink.stdout is not None
        await asyncio.wait_for(sink.stdout.readline(), _START_SECONDS)  # it listens
        pin(sink.pid, frozenset({spare}))
        # The sink never says that it is ready, so the guest is never stopped for it. QEMU before
        # 8.1 does not wait for that; there a limit of 1 ms has to do.
        with contextlib.suppress(GuestFailedError):
            await guest.command("migrate-set-capabilities", capabilities=_WAIT_FOR_THE_SINK)
        await guest.command("migrate-set-parameters", max_bandwidth=_UNLIMITED, downtime_limit=1)
        await guest.command("migrate", uri=f"unix:{path}")
        # The first pass has the memory that nobody writes.
        await _until(lambda: guest.command("query-migrate"), _is_in_later_passes)
        threads = [one for one in guest.threads() if one.is_migration]
        if not threads:
            raise GuestFailedError("the migration has no thread that can be seen")
        for thread in threads:
            pin(thread.tid, frozenset({spare}))
        # Half of what it can send, so that its thread wants about half a core anywhere, and sends
        # as much on either core.
        sent, began = await _sent(guest), time.monotonic()
        await asyncio.sleep(_SETTLE_SECONDS)
        speed = (await _sent(guest) - sent) / (time.monotonic() - began)
        await guest.command("migrate-set-parameters", max_bandwidth=max(int(speed / 2), MIB))
        for thread in threads:
            pin(thread.tid, frozenset({core}))
        await asyncio.sleep(_SETTLE_SECONDS)
        await _see_that_it_goes_on(guest)
        yield
        await _see_that_it_goes_on(guest)
    finally:
        with contextlib.suppress(ProcessLookupError):
            sink.kill()
        await sink.wait()


async def _see_that_it_goes_on(guest: Guest) -> None:
    told = await guest.command("query-migrate")
    if told.get("status") != "active":
        raise GuestFailedError(f"the migration was over too soon: {told.get('status')}")


async def _until(ask: Callable[[], Awaitable[Row]], good: Callable[[Row], bool]) -> None:
    """Raises GuestFailedError where it does not come to that."""
    end = time.monotonic() + _START_SECONDS
    while not good(told := await ask()):
        if time.monotonic() > end:
            raise GuestFailedError(f"after {_START_SECONDS:g} s the guest still tells {told}")
        await asyncio.sleep(0.2)


def _is_in_later_passes(told: Row) -> bool:
    if told.get("status") in ("failed", "completed", "cancelled"):
        raise GuestFailedError(f"the migration was over too soon: {told}")
    return int(told.get("ram", {}).get("dirty-sync-count", 0)) > 2


def _problem() -> str:
    if problem := need_qemu():
        return problem
    return "" if len(cores_of(os.getpid())) > 1 else "it needs two cores, one of them spare"


def _prove(rows: Rows) -> Sequence[str]:
    told = []
    for case in (SPARE, SAME):
        work, delay = (spread(rows.of(case), key) for key in ("work", "run_delay"))
        if work is not None and delay is not None:
            told.append(
                f"with the migration thread on {_WHERE[case]} the guest does {work.median:.0f} % of"
                f" its work, and its vCPU waits for a core {delay.median:.0f} % of the time"
            )
    return told


BENCHMARK = Benchmark(
    name="migration-thread",
    question="what does a migration take from the guest, with a core of its own and without?",
    cases=(STILL, SPARE, SAME),
    figures=(
        Figure("pages_per_s", "pages written/s in the window"),
        Figure("work", "guest's work, % of the window before"),
        Figure("run_delay", "vCPU ready without a core, %"),
        Figure("sent_mib_per_s", "migration sends, MiB/s"),
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
