"""Forecasts of a running migration, in the simulator: at the edge, and with what was known before.

Each writer's edge was searched there: below that bandwidth the migration does not converge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.pure.simulated_trace import writer
from vmferry.hypervisor.simulated import Guest, Machine, Precopy
from vmferry.precopy.case import Host, Link, Setting
from vmferry.precopy.case_of import Watch
from vmferry.precopy.forecast import Forecast
from vmferry.precopy.foresight import Foresight, Known, foretold
from vmferry.precopy.progress import Progress, Snapshot
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import read_trace
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

DATA = Path(__file__).parents[1] / "data"
POLL_SECONDS = 0.25
LINK = Link(Quantiles(200 * MIB, 400 * MIB, 1200 * MIB), Quantiles.exact(500 * MIB))
BEGAN = 1_790_000_000.0


@dataclass(frozen=True, slots=True)
class Edge:
    """A writer, the bandwidth of its edge in MiB/s, the downtime limit, and three times as long as
    a migration at 1.2 times the edge takes."""

    load: PageWriterSettings
    bandwidth: float
    limit_ms: int
    seconds: float


EDGES = {
    "uniform": Edge(writer(32, 40), 33.4, 300, 13.0),
    "hot/cold": Edge(writer(32, 64, hot_writes=90, hot_pages=25), 28.1, 300, 13.6),
    "sequential": Edge(writer(32, 32, order="sequential"), 35.4, 300, 15.1),
    "phased": Edge(writer(32, 48, phases="busy:0.6,idle:0.2"), 29.3, 300, 16.0),
    "unlimited": Edge(writer(32, None), 32.7, 1000, 8.7),
}


@dataclass(slots=True)
class Told:
    """One migration as it was shown: a snapshot for each sample, and all forecasts."""

    snapshots: list[Snapshot]
    forecasts: list[Forecast]
    status: str
    seconds: float
    items: list[Sample | Event]


def setting_of(edge: Edge, times: float) -> Setting:
    return Setting(bandwidth=round(edge.bandwidth * times * MIB), downtime_limit_ms=edge.limit_ms)


@cache
def run(name: str, times: float, seed: int) -> tuple[list[Sample | Event], str, float]:
    """What QEMU says of a migration of that writer at so many times its edge."""
    edge = EDGES[name]
    items: list[Sample | Event] = []

    def hear(side: str, event: str, data: dict[str, Any]) -> None:
        items.append(Event(move.now, event, data, side))

    setting = setting_of(edge, times)
    move = Precopy(
        Guest(ram_bytes=160 * MIB, static_bytes=80 * MIB, writer=edge.load, writer_age=1.0),
        Machine(),
        bandwidth=setting.bandwidth,
        downtime_limit_ms=setting.downtime_limit_ms,
        pause_before_switchover=False,
        seed=seed,
        emit=hear,
    )
    move.start()
    while not move.ended and move.now < edge.seconds:
        move.run(move.now + POLL_SECONDS)
        items.append(Sample.from_reply(move.now, move.reply()))
    return sorted(items, key=lambda item: item.t), move.status, move.now


def tell(name: str, times: float, seed: int, known: Known | None = None) -> Told:
    items, status, seconds = run(name, times, seed)
    return _tell(items, setting_of(EDGES[name], times), known, status, seconds)


def _tell(
    items: list[Sample | Event],
    setting: Setting,
    known: Known | None = None,
    status: str = "",
    seconds: float = 0.0,
) -> Told:
    foresight, progress = Foresight(setting, known, BEGAN), Progress()
    told = Told([], [], status, seconds, items)

    def hear(found: Forecast | None) -> None:
        if found is not None:
            told.forecasts.append(found)
            progress.foresee(found.to_json())

    hear(foresight.before())
    for item in items:
        foresight.receive(item)
        progress.receive(item)
        if isinstance(item, Sample):
            hear(foresight.due())
            told.snapshots.append(progress.snapshot())
    return told


def learnt(name: str) -> Known:
    """What a migration of that writer at 1.2 times its edge told."""
    watch = Watch()
    for item in run(name, 1.2, 50)[0]:
        watch.receive(item)
    return Known(LINK, Host(), watch.profile("run", BEGAN - 60), "an earlier run")


@pytest.mark.parametrize("name", EDGES)
def test_above_the_edge_it_is_never_told_that_it_does_not_converge(name: str) -> None:
    for seed in (1, 2):
        told = tell(name, 1.2, seed)
        assert told.status == "completed"
        assert not any(snapshot.will_not_converge for snapshot in told.snapshots)


@pytest.mark.parametrize("name", EDGES)
def test_below_the_edge_that_is_the_last_word(name: str) -> None:
    for seed in (1, 2):
        told = tell(name, 0.8, seed)
        assert told.status == "active"
        assert told.snapshots[-1].will_not_converge
        assert told.snapshots[-1].eta is None
        estimate = told.snapshots[-1].estimate
        assert estimate is not None
        assert {remedy.change for remedy in estimate.remedies} == {"bandwidth", "downtime"}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("before", ["uniform", "hot/cold", "unlimited"])
def test_what_was_known_of_another_load_does_not_mislead(name: str, before: str) -> None:
    known = learnt(before)
    assert not tell(name, 1.2, 1, known).snapshots[-1].will_not_converge
    assert tell(name, 0.8, 1, known).snapshots[-1].will_not_converge


def errors(told: Told) -> Iterator[float]:
    """How far the middle of each interval was off, as a share of the whole time."""
    for snapshot in told.snapshots:
        if snapshot.eta is not None and snapshot.eta[1] is not None:
            end = snapshot.t + (snapshot.eta[0] + snapshot.eta[1]) / 2
            yield abs(end - told.seconds) / told.seconds


@pytest.mark.parametrize("name", ["uniform", "hot/cold", "phased"])
def test_an_earlier_run_of_the_same_load_tells_the_end(name: str) -> None:
    told = tell(name, 1.2, 1, learnt(name))
    assert told.forecasts[0].given["standing"] is None
    found = list(errors(told))
    assert len(found) >= 5
    assert max(found) < 0.12


def test_forecasts_come_at_pass_ends_and_no_more_than_one_a_second() -> None:
    told = tell("uniform", 0.8, 1)
    times = [found.given["standing"]["t"] for found in told.forecasts]
    numbers = [found.given["standing"]["number"] for found in told.forecasts]
    assert len(times) >= 7
    assert all(b - a >= 1.0 for a, b in pairwise(times))
    assert all(a < b for a, b in pairwise(numbers))


def test_later_they_come_less_often() -> None:
    items, _, _ = run("uniform", 0.8, 1)
    late = [replace(item, t=item.t + 300) for item in items]
    times = [found.given["standing"]["t"] for found in _tell(late, Setting()).forecasts]
    assert len(times) == 1


def test_without_anything_known_nothing_is_foretold() -> None:
    assert Foresight(Setting()).before() is None
    assert Foresight(Setting(), Known(link=LINK)).before() is None


def test_what_is_foretold_is_one_line() -> None:
    known = learnt("uniform")
    foresight = Foresight(setting_of(EDGES["uniform"], 2.0), known)
    found = foresight.before()
    assert found is not None and found.verdict == "converges"
    words = foretold(found, known.source)
    assert words.startswith("Foretold: it converges (odds of ")
    assert " s to " in words and words.endswith(" (an earlier run)")
    hopeless = Foresight(setting_of(EDGES["uniform"], 0.5), known).before()
    assert hopeless is not None and hopeless.remedies
    words = foretold(hopeless, known.source)
    # A load that was steady for two seconds may come and go nonetheless.
    assert words == "Foretold: it does not converge (odds of 13 %) (an earlier run)"


def test_a_rehearsal_goes_before_an_earlier_run_but_not_before_this_one() -> None:
    """The load has grown by a quarter since: the shape is kept, the height is what is seen now."""
    known = learnt("uniform")
    assert known.profile is not None
    smaller = tuple(
        replace(one, bytes=one.bytes / 1.25, low=one.low / 1.25, high=one.high / 1.25)
        for one in known.profile.points
    )
    old = replace(known, profile=replace(known.profile, points=smaller, source="rehearsal"))
    told = tell("uniform", 1.2, 1, old)
    given = told.forecasts[1].given["curve"]
    points = {round(point["seconds"], 1): point["bytes"] / MIB for point in given["points"]}
    assert len(points) > 2
    assert max(points.values()) == pytest.approx(32.5, rel=0.1)
    seen = min(point.seconds for point in smaller)
    expected = {round(one.seconds, 1): one.bytes / MIB for one in known.profile.points}
    assert points[round(seen, 1)] == pytest.approx(expected[round(seen, 1)], rel=0.1)
    assert told.forecasts[1].given["curve"]["source"] == "run"


def test_what_was_known_of_a_much_lighter_load_is_forgotten() -> None:
    known = learnt("uniform")
    assert known.profile is not None
    lighter = tuple(
        replace(one, bytes=one.bytes / 3, low=one.low / 3, high=one.high / 3)
        for one in known.profile.points
    )
    misled = replace(known, profile=replace(known.profile, points=lighter))
    told, plain = tell("uniform", 0.8, 1, misled), tell("uniform", 0.8, 1)
    assert told.forecasts[0].verdict == "converges"
    for found, without in zip(told.forecasts[1:], plain.forecasts, strict=True):
        assert found.given["curve"] == without.given["curve"]


def recorded(name: str) -> list[Sample | Event]:
    return list(read_trace((DATA / name).read_text(encoding="utf-8").splitlines()).inputs)


def test_a_recording_that_converges_is_told_when_it_ends() -> None:
    told = _tell(recorded("pg-4t-converges-1.jsonl"), Setting(bandwidth=128 * MIB))
    assert {found.verdict for found in told.forecasts} == {"converges"}
    first = told.forecasts[0]
    assert first.total_ms is not None
    assert 0.97 * first.total_ms.p10 < 17_715 < 1.03 * first.total_ms.p90


def test_a_throttle_that_rises_is_heeded() -> None:
    """QEMU's auto-converge ends this one; its passes fall all the time."""
    told = _tell(recorded("pg-16t-auto-converge-1.jsonl"), Setting(bandwidth=128 * MIB))
    assert not any(snapshot.will_not_converge for snapshot in told.snapshots)
    throttled = [found for found in told.forecasts if found.given["throttle"]]
    assert throttled and all(found.given["auto_converge"] for found in throttled)


def test_passes_without_a_falling_trend_go_before_the_model() -> None:
    """Little is found dirty in a pass, so the model hopes; the passes say otherwise."""
    page, sent, t = 4096, 0, 0.0
    items: list[Sample | Event] = []
    for n in range(1, 16):
        dirty = 20_000 if n == 1 else 12_000
        for share in (0.1, 0.9):
            done = int((dirty - 9_000) * share)
            t += 0.5
            items.append(
                Sample(
                    t=t,
                    status="active",
                    total=100_000 * page,
                    transferred=(sent + done) * page,
                    remaining=(dirty - done) * page,
                    normal_pages=sent + done,
                    sync_count=n,
                    mbps=page * 30_000 * 8 / 1e6,
                )
            )
        sent += dirty - 9_000
    told = _tell(items, Setting())
    assert told.forecasts[0].verdict == "converges"
    last = told.forecasts[-1]
    assert last.verdict == "does-not-converge"
    assert (last.total_ms, last.downtime_ms, last.bytes, last.passes) == (None,) * 4
    assert last.p_converge <= 0.3
    assert "settle at 46.9 MiB" in last.why
    assert told.snapshots[-1].will_not_converge


def test_two_syncs_at_one_moment_do_not_hold_it_up() -> None:
    foresight = Foresight(Setting())
    times = {1: 0.0, 2: 1.1, 3: 1.1, 4: 1.4}
    for n, t in times.items():
        foresight.receive(Event(t, "MIGRATION_PASS", {"pass": n}))
    figures = [(1.0, 1, 9900, 100), (1.25, 3, 9950, 3000), (1.75, 4, 13000, 2500)]
    for t, n, sent, left in figures:
        foresight.receive(
            Sample(
                t=t,
                status="active",
                total=1 << 30,
                transferred=sent * 4096,
                remaining=left * 4096,
                normal_pages=sent,
                sync_count=n,
                mbps=500.0,
            )
        )
    assert foresight.tracker.passes[1].duration_ms == 0
    assert foresight.due() is not None
