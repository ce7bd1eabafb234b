"""The machine's constants for the simulator, measured on an idle guest and one calibration load."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench._sim_guest import PAGE, Guest, Move
from vmferry.hypervisor.simulated import Machine
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

WORKING_SET = 32 * MIB
CAP = 64 * MIB
ZERO_GAP_PAGES = 512


@dataclass(frozen=True, slots=True)
class Memory:
    """What an idle guest's RAM holds beside the page writer's; bytes, as simulated.Guest has it."""

    ram_bytes: int
    static_bytes: int
    top_bytes: int
    top_zero_bytes: int


def measure(ram_kib: int) -> tuple[Machine, Memory]:
    """The constants of this machine and of a guest with this much RAM. Takes about 15 s."""
    idle = PageWriterSettings(working_set=WORKING_SET, write_rate=0)
    with Guest(ram_kib, idle) as guest:
        zero = _zero_pages(guest, ram_kib * 1024)
        capped = [guest.move(CAP) for _ in range(3)]
        quick = [guest.move(0, 30) for _ in range(5)]
        guest.instance.ask(do="set", write_rate=2 * CAP)
        busy = guest.move(CAP, least_passes=5, least_seconds=3.0)
        guest.instance.ask(do="set", write_rate="unlimited")
        writes_per_second = _writes_per_second(guest)

    sync = statistics.median(move.syncs[-1].seconds for move in capped + quick)
    fixed = min(move.downtime_ms for move in quick) / 1000
    background_pages = round(statistics.median(move.syncs[1].new for move in capped))
    machine = Machine(
        uncapped=statistics.median(
            move.ram["downtime-bytes"] / max(move.downtime_ms / 1000 - fixed, 0.001)
            for move in capped
        ),
        setup_seconds=statistics.median(move.syncs[0].t for move in [*capped, *quick, busy]),
        wake_delay=statistics.median(_wake_delay(move) for move in capped),
        sync_seconds=sync,
        sync_seconds_per_page=statistics.median(
            max(each.seconds - sync, 0.0) / each.new for each in busy.syncs[1:5]
        ),
        stop_seconds=0.0,
        device_seconds=max(fixed - sync, 0.0),
        told_seconds=0.0,
        unlimited_writes_per_second=writes_per_second,
        background_pages=background_pages,
        background_writes_per_second=_background_rate(quick, background_pages),
    )
    ram = capped[0].ram
    static = ram["normal"] - sum(each.new for each in capped[0].syncs[1:]) - WORKING_SET // PAGE
    # What QEMU sends beside the RAM proper, the firmware, comes after it.
    firmware = ram["total"] // PAGE - len(zero)
    firmware_zero = ram["duplicate"] - int(np.count_nonzero(zero))
    top_zero = zero[_top(zero) :]
    memory = Memory(
        ram_bytes=ram["total"],
        static_bytes=static * PAGE,
        top_bytes=(len(top_zero) + firmware) * PAGE,
        top_zero_bytes=(int(np.count_nonzero(top_zero)) + max(firmware_zero, 0)) * PAGE,
    )
    return machine, memory


def _zero_pages(guest: Guest, ram_bytes: int) -> NDArray[np.bool_]:
    """Which pages of the RAM are zero."""
    file = guest.instance.folder / "memory"
    guest.instance.qmp.execute("pmemsave", val=0, size=ram_bytes, filename=str(file))
    words = np.fromfile(file, dtype=np.uint64).reshape(-1, PAGE // 8)
    file.unlink()
    return np.logical_not(words.any(axis=1))


def _top(zero: NDArray[np.bool_]) -> int:
    """The first page above the last long run of zero pages."""
    filled = np.flatnonzero(~zero)
    gaps = np.flatnonzero(np.diff(filled) > ZERO_GAP_PAGES)
    return int(filled[gaps[-1] + 1]) if len(gaps) else len(zero)


def _wake_delay(move: Move) -> float:
    """By how much a rate-limit window is longer than 100 ms on average, in seconds."""
    times = [t for t, _ in move.looks[2:-1]]
    return max((times[-1] - times[0]) / (len(times) - 1) - 0.1, 0.0)


def _writes_per_second(guest: Guest) -> float:
    before = guest.instance.ask(do="status")
    time.sleep(1.0)
    after = guest.instance.ask(do="status")
    seconds: float = (after["guest_ns"] - before["guest_ns"]) / 1e9
    return float((after["pages_written"] - before["pages_written"]) / seconds)


def _background_rate(quick: list[Move], pages: int) -> float:
    """Writes a second to so many pages that find as many of them dirty as short moves did."""
    rates = []
    for move in quick:
        first, second = move.syncs[:2]
        found = min(second.new, pages - 1)
        rates.append(-math.log(1 - found / pages) * pages / (second.t - first.t))
    return statistics.median(rates)
