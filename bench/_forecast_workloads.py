"""The workloads that forecasts are judged by, split before any of them was run, and their cases.

A workload is held out where the hash of its name says so; constants of the forecast may be fitted
to the others only. Sizes are in MiB, rates and bandwidths in MiB/s, limits in milliseconds.

The bandwidths of a workload are multiples of a rough guess of its edge, below which it does not
converge: cases far from the edge are told rightly by any model. The guess is that of a uniform
writer by the map of docs/how-it-works.md; it need not be right, only near.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB
from vmferry.vm.spec import TESTGUEST_OWN_BYTES, TESTGUEST_OWN_PART

# What writes as fast as it can writes about this much under TCG.
UNLIMITED = 300.0
FACTORS_HELD_OUT = (0.62, 0.82, 1.25, 1.7)
FACTORS_FIT = (0.75, 1.3)
LOWEST, HIGHEST, LEAST_STEP = 20, 96, 1.15
# Where the guess is lower than this every bandwidth converges, and two are enough.
SLOW = 14
SLOW_BANDWIDTHS = (24, 56)
# A guest of its own memory, the page writer's and room to live.
SMALL_RAM, OWN_RAM = 160, 120


@dataclass(frozen=True, slots=True)
class Setting:
    """Bandwidth in MiB/s, 0 for no cap, and the downtime limit in milliseconds."""

    bandwidth: int
    limit_ms: int

    def __str__(self) -> str:
        speed = f"{self.bandwidth} MiB/s" if self.bandwidth else "no cap"
        return f"{speed}, {self.limit_ms} ms"


@dataclass(frozen=True, slots=True)
class Workload:
    """One load of a guest with `ram_mib`, and the settings it is moved with.

    `program` names a real program of _guest_programs.py that runs beside the page writer.
    """

    name: str
    writer: PageWriterSettings
    ram_mib: int
    settings: tuple[Setting, ...]
    program: str = ""

    @property
    def held_out(self) -> bool:
        return held_out(self.name)

    @property
    def shuffled(self) -> tuple[Setting, ...]:
        """Its settings by the hash of their names: cases in the order in which they are measured.

        So that what there was time for holds slow and fast ones of all kinds of workloads alike.
        """
        return tuple(sorted(self.settings, key=lambda each: hash_of(f"{self.name} | {each}")))


def held_out(name: str) -> bool:
    """Whether a workload is kept for judging: two of three, by the hash of its name."""
    return hash_of(name)[0] % 3 != 0


def hash_of(text: str) -> bytes:
    """Of a text, the same on every machine."""
    return hashlib.sha256(text.encode()).digest()


def uniform_edge(size: float, rate: float, limit: float) -> float:
    """The bandwidth at which passes that begin at the threshold get no smaller, in MiB/s.

    QEMU leaves about half a window of 100 ms less than the threshold unsent, and what is found in
    the 50 ms meanwhile, less what still waits, must be more than that.
    """
    low, high = 1.0, 2000.0
    for _ in range(60):
        speed = (low + high) / 2
        left = max(speed * (limit - 0.05), speed * limit / 2)
        window = limit - left / speed + 0.005
        new = size * (1 - math.exp(-rate * window / size)) * max(1 - left / size, 0.0)
        low, high = (speed, high) if new > speed * limit - left else (low, speed)
    return high


def _guess(writer: PageWriterSettings, limit: float) -> float:
    size = writer.working_set / MIB
    rate = UNLIMITED if writer.write_rate == "unlimited" else int(writer.write_rate) / MIB
    if rate == 0:
        return 0.0
    rate *= _busy_share(writer.phases)
    if writer.order == "sequential":  # nothing is written twice before all of it is
        return min(rate, size / limit)
    edge = uniform_edge(size, rate, limit)
    if not writer.hot_writes:
        return edge
    hot = uniform_edge(size * writer.hot_pages / 100, rate * writer.hot_writes / 100, limit)
    return math.sqrt(edge * hot)


def _busy_share(phases: str) -> float:
    parts = [part.split(":") for part in phases.split(",") if part]
    seconds = sum(float(length) for _, length in parts)
    busy = sum(float(length) for kind, length in parts if kind == "busy")
    return busy / seconds if seconds else 1.0


def _load(
    name: str, size: int, rate: int | None, limit_ms: int = 300, uncapped: int = 0, **more: Any
) -> Workload:
    """`uncapped` is a downtime limit for one more case without a cap."""
    areas = {area: more.pop(area, 0) * MIB for area in ("cold", "untouched")}
    writer = PageWriterSettings(
        working_set=size * MIB,
        write_rate="unlimited" if rate is None else rate * MIB,
        **areas,
        **more,
    )
    owned = sum((writer.working_set, writer.cold, writer.untouched)) // MIB
    settings = [Setting(bandwidth, limit_ms) for bandwidth in _bandwidths(name, writer, limit_ms)]
    if uncapped:
        settings.append(Setting(0, uncapped))
    # Of a large guest more is its own than OWN_RAM.
    least = (writer.owned_bytes + TESTGUEST_OWN_BYTES) * TESTGUEST_OWN_PART
    least_mib = math.ceil(least / (TESTGUEST_OWN_PART - 1) / MIB)
    return Workload(name, writer, max(SMALL_RAM, OWN_RAM + owned, least_mib), tuple(settings))


def _bandwidths(name: str, writer: PageWriterSettings, limit_ms: int) -> list[int]:
    guess = _guess(writer, limit_ms / 1000)
    if guess < SLOW:
        return list(SLOW_BANDWIDTHS)
    factors = FACTORS_HELD_OUT if held_out(name) else FACTORS_FIT
    bandwidths: list[int] = []
    for factor in factors:
        bandwidth = min(max(round(guess * factor), LOWEST), HIGHEST)
        if not bandwidths or bandwidth >= bandwidths[-1] * LEAST_STEP:
            bandwidths.append(bandwidth)
    return bandwidths


def _program(name: str, program: str, ram_mib: int, *settings: tuple[int, int]) -> Workload:
    writer = PageWriterSettings(working_set=0, write_rate=0)
    return Workload(name, writer, ram_mib, tuple(Setting(*each) for each in settings), program)


def _hot(writes: int, pages: int) -> dict[str, int]:
    return {"hot_writes": writes, "hot_pages": pages}


SEQUENTIAL: dict[str, Any] = {"order": "sequential"}

WORKLOADS = (
    # Sizes and rates.
    _load("idle", 32, 0, uncapped=30),
    _load("trickle", 16, 1),
    _load("uniform 16 at 4", 16, 4, uncapped=30),
    _load("uniform 16 at 24", 16, 24),
    _load("uniform 16 at 48", 16, 48, 150),
    _load("uniform 16 at 96", 16, 96, 150, uncapped=20),
    _load("uniform 24 at 32", 24, 32),
    _load("uniform 32 at 8", 32, 8),
    _load("uniform 32 at 24", 32, 24),
    _load("uniform 32 at 40", 32, 40, uncapped=30),
    _load("uniform 32 at 40, short limit", 32, 40, 100),
    _load("uniform 32 at 64", 32, 64),
    _load("uniform 32 at 64, long limit", 32, 64, 600),
    _load("uniform 32 at 96", 32, 96, uncapped=60),
    _load("uniform 48 at 24", 48, 24, 150),
    _load("uniform 48 at 56", 48, 56),
    _load("uniform 64 at 16", 64, 16),
    _load("uniform 64 at 48", 64, 48),
    _load("uniform 64 at 96", 64, 96, 500, uncapped=80),
    # Skews.
    _load("hot 90/10 of 32 at 40", 32, 40, **_hot(90, 10)),
    _load("hot 90/25 of 32 at 64", 32, 64, **_hot(90, 25)),
    _load("hot 80/20 of 32 at 48", 32, 48, uncapped=30, **_hot(80, 20)),
    _load("hot 70/30 of 32 at 96", 32, 96, **_hot(70, 30)),
    _load("hot 95/5 of 64 at 64", 64, 64, **_hot(95, 5)),
    _load("hot 50/10 of 64 at 48", 64, 48, **_hot(50, 10)),
    _load("hot 60/40 of 48 at 48", 48, 48, **_hot(60, 40)),
    _load("hot 99/1 of 64 at 96", 64, 96, uncapped=30, **_hot(99, 1)),
    _load("hot 85/15 of 24 at 32", 24, 32, **_hot(85, 15)),
    _load("hot 30/5 of 32 at 32", 32, 32, **_hot(30, 5)),
    # Orders.
    _load("sequential 16 at 32", 16, 32, 150, **SEQUENTIAL),
    _load("sequential 32 at 16", 32, 16, **SEQUENTIAL),
    _load("sequential 32 at 32", 32, 32, **SEQUENTIAL),
    _load("sequential 48 at 40", 48, 40, uncapped=30, **SEQUENTIAL),
    _load("sequential 64 at 48", 64, 48, 200, **SEQUENTIAL),
    _load("sequential hot 70/20 of 32 at 40", 32, 40, **SEQUENTIAL, **_hot(70, 20)),
    # Phases.
    _load("busy 0.3 idle 0.3, 32 at 48", 32, 48, phases="busy:0.3,idle:0.3"),
    _load("busy 0.6 idle 0.2, 32 at 48", 32, 48, phases="busy:0.6,idle:0.2"),
    _load("busy 1 idle 1, 32 at 64", 32, 64, phases="busy:1,idle:1"),
    _load("busy 2 idle 0.5, 32 at 48", 32, 48, phases="busy:2,idle:0.5"),
    _load("busy 0.1 idle 0.4, 48 at 96", 48, 96, phases="busy:0.1,idle:0.4"),
    # Long idle parts.
    _load("busy 0.5 idle 3, 32 at 64", 32, 64, phases="busy:0.5,idle:3"),
    _load("busy 2 idle 6, 32 at 64", 32, 64, phases="busy:2,idle:6"),
    _load("busy 5 idle 10, 24 at 40", 24, 40, phases="busy:5,idle:10"),
    _load("busy 1 idle 4, hot 90/10 of 48", 48, 80, phases="busy:1,idle:4", **_hot(90, 10)),
    # Threads.
    _load("2 threads, 32 at 40", 32, 40, threads=2),
    _load("4 threads, 32 at 56", 32, 56, threads=4),
    _load("4 threads sequential, 32 at 32", 32, 32, threads=4, **SEQUENTIAL),
    _load("8 threads, hot 80/20 of 48 at 64", 48, 64, threads=8, **_hot(80, 20)),
    _load("3 threads that read, 32 at 40", 32, 40, threads=3, read_share=60),
    # Content.
    _load("text 32 at 32", 32, 32, content="text"),
    _load("text hot 80/20 of 48 at 48", 48, 48, content="text", **_hot(80, 20)),
    _load("one word 32 at 48", 32, 48, content="one-word"),
    _load("one word sequential 48 at 32", 48, 32, content="one-word", **SEQUENTIAL),
    _load("same value 32 at 40", 32, 40, content="same"),
    # Memory beside the working set.
    _load("uniform 32 at 40, 48 cold", 32, 40, cold=48),
    _load("hot 90/10 of 32 at 64, 32 cold", 32, 64, cold=32, **_hot(90, 10)),
    _load("uniform 24 at 32, 512 untouched", 24, 32, untouched=512),
    _load("idle, 1024 untouched", 16, 0, untouched=1024, uncapped=30),
    _load("sequential 24 at 24, 256 untouched", 24, 24, untouched=256, **SEQUENTIAL),
    # As fast as it can.
    _load("unlimited 16", 16, None, 500, content="one-word"),
    _load("unlimited 32", 32, None, 1000, content="one-word"),
    _load("unlimited 48, hot 95/10", 48, None, 600, content="one-word", **_hot(95, 10)),
    _load("unlimited 32, 2 threads", 32, None, 1000, threads=2),
    # Real programs of Debian.
    _program("redis, sets of 1 KiB", "redis", 256, (24, 300), (40, 300), (64, 300), (0, 50)),
    _program("redis, small keys in bursts", "redis-bursts", 224, (24, 300), (48, 300)),
    _program("sqlite, updates of a table", "sqlite", 224, (24, 300), (48, 300), (0, 50)),
    _program("sqlite, paced transactions", "sqlite-paced", 224, (24, 300), (48, 300)),
    _program("gcc, one file again and again", "gcc", 384, (32, 300), (64, 300), (96, 300)),
    _program("gcc, with pauses", "gcc-pauses", 384, (40, 300), (80, 300)),
    _program("sort of random lines", "sort", 256, (24, 300), (48, 300), (80, 300), (0, 50)),
    _program("python, a dict that churns", "python", 224, (24, 300), (48, 300), (80, 300)),
    _program("python, objects in pauses", "python-paced", 224, (24, 300), (48, 300)),
)
