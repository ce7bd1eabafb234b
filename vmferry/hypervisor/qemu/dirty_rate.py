"""The dirty curve from QEMU's own calc-dirty-rate, over several windows.

Only its mode page-sampling: it needs no dirty log, so it costs the guest nothing that can be seen,
and dirty-bitmap kills QEMU 7.2 under TCG. It sees what a page holds, so a page that is written with
what it held before is not dirty to it, but is to a migration.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from vmferry.errors import RefusedError
from vmferry.host.guest_memory import non_zero_bytes
from vmferry.hypervisor.qemu.qmp import QmpError
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.precopy.dirty_sampling import (
    FRACTIONS,
    WHOLE_SECONDS,
    Measurement,
    next_window,
    points_of,
    samples_for,
)
from vmferry.precopy.profile import DirtyProfile

MEASURE_SECONDS = 8.0
_POLL_SECONDS = 0.02
# Hashing the samples comes on top of the window.
_LATE_SECONDS = 10.0
_PAGE = 4096


async def measure_dirty_curve(side: QemuSide, seconds: float = MEASURE_SECONDS) -> DirtyProfile:
    """Measure for at most `seconds`, less where that is enough; at least one second.

    Raises QmpError, and RefusedError where the VM does not run or somebody else measures it.
    """
    ram = await _ram_bytes(side)
    await _refuse_unfit(side)
    windows = FRACTIONS if await _takes_milliseconds(side) else WHOLE_SECONDS
    end = time.monotonic() + max(seconds, WHOLE_SECONDS[0])
    done: list[Measurement] = []
    left = max(seconds, WHOLE_SECONDS[0])
    while (window := next_window(done, windows, ram, left)) is not None:
        done.append(await _measure(side, window, samples_for(ram)))
        left = end - time.monotonic()
    filled = await asyncio.to_thread(non_zero_bytes, side.process, ram)
    return DirtyProfile(
        points=points_of(done, ram),
        ram_bytes=ram,
        zero_pages=(ram - filled.bytes) // _PAGE,
        non_zero_bytes=filled.bytes,
        page_size=_PAGE,
        source="calc-dirty-rate",
    )


async def _ram_bytes(side: QemuSide) -> int:
    memory = await side.execute("query-memory-size-summary")
    return int(memory["base-memory"] + memory.get("plugged-memory", 0))


async def _refuse_unfit(side: QemuSide) -> None:
    state = (await side.execute("query-status"))["status"]
    if state != "running":
        raise RefusedError(f"the VM is {state}: what it writes can be measured only while it runs")
    if (await side.execute("query-dirty-rate"))["status"] == "measuring":
        raise RefusedError(
            "somebody else measures the dirty rate of this VM now, and QEMU does one at a time",
            hint="try again when that is over, a minute from now at the latest",
        )


async def _takes_milliseconds(side: QemuSide) -> bool:
    """Whether calc-dirty-rate has its `calc-time-unit`; QEMU has it since 8.2."""
    schema = await side.execute("query-qmp-schema")
    by_name: dict[str, dict[str, Any]] = {entity["name"]: entity for entity in schema}
    arguments = by_name[by_name["calc-dirty-rate"]["arg-type"]]
    return any(member["name"] == "calc-time-unit" for member in arguments["members"])


async def _measure(side: QemuSide, window: float, samples: int) -> Measurement:
    whole = window.is_integer()
    unit = {} if whole else {"calc-time-unit": "millisecond"}
    asked = round(window if whole else window * 1000)
    arguments = {"calc-time": asked, "sample-pages": samples, "mode": "page-sampling", **unit}
    await side.execute("calc-dirty-rate", arguments)
    last = time.monotonic() + window + _LATE_SECONDS
    await asyncio.sleep(window)
    while (told := await side.execute("query-dirty-rate", unit))["status"] != "measured":
        if time.monotonic() > last:
            raise QmpError(f"calc-dirty-rate does not end {_LATE_SECONDS:g} s after its time")
        await asyncio.sleep(_POLL_SECONDS)
    if (told["mode"], told["sample-pages"]) != ("page-sampling", samples):
        raise RefusedError("somebody else has begun to measure the dirty rate of this VM meanwhile")
    # Where hashing takes longer than the window, QEMU measures longer than it was asked to.
    seconds = max(told["calc-time"], asked) / (1 if whole else 1000)
    return Measurement(seconds, int(told["dirty-rate"]), samples, time.time())
