"""How long does a forecast take, alone and for a thousand VMs at once?

The thousand have curves of different heights and bends, from far below what the link carries to
far above it, so some take many passes and some never end. Each time is the median and the worst of
its repeats; the last line is what a forecast costs among a thousand.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

from vmferry.precopy.case import Case, Link, Setting
from vmferry.precopy.forecast import forecast_many
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.units import GIB, MIB

VMS = 1000
REPEATS = 15
WINDOWS = (0.1, 0.3, 1.0, 3.0, 10.0)


def vm(number: int) -> Case:
    """One VM of many: 1 to 32 GiB, dirtying 0.5 to 300 MiB in a second, over about 110 MiB/s."""
    height = 0.5 * 600 ** ((number * 7 % VMS) / VMS) * MIB
    exponent = 0.5 + 0.5 * ((number * 13 % VMS) / VMS)
    sizes = [height * window**exponent for window in WINDOWS]
    points = tuple(
        CurvePoint(window, size, size * 0.9, size * 1.1)
        for window, size in zip(WINDOWS, sizes, strict=True)
    )
    memory = (1 + number % 32) * GIB
    profile = DirtyProfile(points, memory, memory // 2 // 4096, memory // 2)
    speed = Quantiles(100 * MIB, 110 * MIB, 112 * MIB)
    return Case(profile, Setting(), Link(speed, speed))


def measure(work: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Milliseconds of each repeat, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return times


def main() -> None:
    """Print the figures."""
    cases = [vm(number) for number in range(VMS)]
    alone = [measure(lambda case=case: forecast_many([case]), 5) for case in cases[:: VMS // 50]]  # type: ignore[misc]
    middles = sorted(statistics.median(times) for times in alone)
    together = measure(lambda: forecast_many(cases))
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}")
    print(
        f"one forecast, {len(middles)} VMs one by one: median {statistics.median(middles):.2f} ms,"
        f" 90th percentile {middles[len(middles) * 9 // 10]:.2f} ms, worst {middles[-1]:.2f} ms"
    )
    print(
        f"{VMS} VMs at once, {REPEATS} times: median {statistics.median(together):.0f} ms,"
        f" worst {max(together):.0f} ms; {statistics.median(together) / VMS:.2f} ms a VM"
    )


if __name__ == "__main__":
    main()
