"""Forecasts against the page-level simulator: rehearse a guest there, forecast it, then move it.

The rehearsal is what a real one is: pass 1 and a few more under the least downtime limit, so that
nothing is left over, then passes under the planned one, and it never switches over.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pytest

from vmferry.hypervisor.simulated import Guest, Machine, Precopy
from vmferry.precopy.case import Host, Link, Setting
from vmferry.precopy.forecast import Forecast, forecast
from vmferry.precopy.outcome import PassRecord
from vmferry.precopy.profile import DirtyProfile
from vmferry.precopy.profile_of import profile_of_passes
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.sample import Sample
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

PAGE = 4096
RAM, STATIC = 256 * MIB, 64 * MIB
MACHINE = Machine()
HOST = Host(
    setup_seconds=MACHINE.setup_seconds,
    zero_pages_per_second=MACHINE.zero_pages_per_second,
    sync_seconds=MACHINE.sync_seconds,
    sync_seconds_per_page=MACHINE.sync_seconds_per_page,
    fixed_downtime_seconds=Quantiles.exact(
        MACHINE.stop_seconds + MACHINE.device_seconds + MACHINE.told_seconds
    ),
)
LINK = Link(Quantiles.exact(MACHINE.uncapped), Quantiles.exact(MACHINE.uncapped))
PROBED_PASSES, MOST_PASSES, MOST_SECONDS, PATIENCE = 4, 12, 15.0, 40.0
SEEDS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Load:
    """A guest with a writer, and how it is moved."""

    guest: Guest
    bandwidth: int
    limit_ms: int


def loads() -> Iterator[Load]:
    """Small and large sets, slow to too fast, in order or not, with hot pages or without."""
    orders: tuple[Literal["random", "sequential"], ...] = ("random", "sequential")
    grid = itertools.product((24, 96), (4, 20, 60), orders, (0, 90), (32, 80), (100, 300))
    for size, rate, order, hot_writes, bandwidth, limit in grid:
        writer = PageWriterSettings(
            working_set=size * MIB,
            write_rate=rate * MIB,
            order=order,
            hot_pages=10 if hot_writes else 0,
            hot_writes=hot_writes,
        )
        yield Load(Guest(RAM, STATIC, writer), bandwidth * MIB, limit)


def start(load: Load, limit_ms: int, seed: int) -> Precopy:
    precopy = Precopy(
        load.guest,
        MACHINE,
        bandwidth=load.bandwidth,
        downtime_limit_ms=limit_ms,
        pause_before_switchover=False,
        seed=seed,
    )
    precopy.start()
    return precopy


def rehearsed(load: Load) -> DirtyProfile:
    """What a rehearsal of `load` tells."""
    precopy = start(load, 1, seed=7)
    while precopy.now < MOST_SECONDS and len(precopy.syncs) < MOST_PASSES and not precopy.ended:
        if len(precopy.syncs) > PROBED_PASSES:
            precopy.downtime_limit_ms = load.limit_ms
        precopy.advance(MOST_SECONDS)
    passes = [
        PassRecord(
            n=sync.n,
            start_ms=sync.t * 1000,
            duration_ms=(following.t - sync.t) * 1000,
            sent_bytes=0,
            sent_pages=sync.dirty - following.left,
            zero_pages=precopy.zero_pages if sync.n == 1 else 0,
            dirty_bytes=sync.dirty * PAGE,
            new_bytes=sync.new * PAGE,
            left_bytes=following.left * PAGE,
        )
        for sync, following in itertools.pairwise(precopy.syncs)
    ]
    last = precopy.syncs[-1]
    current = PassRecord(last.n, last.t * 1000, 0.0, 0, 0, 0, last.dirty * PAGE, last.new * PAGE, 0)
    if precopy.ended:
        # The last sync found nothing, as the vCPUs stood still.
        *passes, _ = passes
        current = passes[-1]
        passes = passes[:-1]
    profile = profile_of_passes(
        passes,
        current,
        Sample(0.0, "active", total=RAM, sync_count=last.n),
        zero_end=passes[0].zero_pages * PAGE,
        source="rehearsal",
    )
    assert profile is not None
    return profile


def moved(load: Load) -> list[Precopy]:
    moves = [start(load, load.limit_ms, seed) for seed in SEEDS]
    for move in moves:
        move.run(PATIENCE)
    return moves


@pytest.fixture(scope="module")
def compared() -> list[tuple[Forecast, list[Precopy]]]:
    """Every seventh load of the grid: it shows each value of each setting with each other."""
    result = []
    for load in itertools.islice(loads(), 0, None, 7):
        setting = Setting(load.bandwidth, load.limit_ms)
        result.append((forecast(rehearsed(load), setting, LINK, HOST), moved(load)))
    return result


Compared = list[tuple[Forecast, list[Precopy]]]


def converging(compared: Compared) -> Compared:
    return [
        (found, moves)
        for found, moves in compared
        if found.total_ms is not None and all(move.status == "completed" for move in moves)
    ]


def test_no_verdict_is_wrong(compared: Compared) -> None:
    told = {"converges": 0, "does-not-converge": 0, "uncertain": 0}
    for found, moves in compared:
        happened = {move.status == "completed" for move in moves}
        if found.verdict != "uncertain":
            assert happened == {found.verdict == "converges"} or len(happened) == 2
        told[found.verdict] += 1
    assert told["converges"] >= 8 and told["does-not-converge"] >= 1
    assert told["uncertain"] <= 2


def test_time_and_bytes_are_near(compared: Compared) -> None:
    times, sizes = [], []
    for found, moves in converging(compared):
        assert found.total_ms and found.bytes
        seconds = statistics.median(move.total_seconds for move in moves)
        times.append(abs(found.total_ms.p50 / 1000 / seconds - 1))
        sent = statistics.median(move.sent_bytes for move in moves)
        sizes.append(abs(found.bytes.p50 / sent - 1))
    assert statistics.median(times) < 0.03 and statistics.median(sizes) < 0.03
    assert sorted(times)[len(times) * 3 // 4] < 0.1


def test_downtimes_lie_in_their_band(compared: Compared) -> None:
    inside = [
        found.downtime_ms.p10 - 1 <= move.downtime_seconds * 1000 <= found.downtime_ms.p90 + 1
        for found, moves in converging(compared)
        for move in moves
        if found.downtime_ms is not None
    ]
    assert sum(inside) >= 0.7 * len(inside)
