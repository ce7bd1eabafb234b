"""Loads that come and go: what tells them, what they are taken for, and how they are forecast."""

from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.simulated_trace import record, writer
from vmferry.hypervisor.simulated import Guest, Machine, Precopy
from vmferry.precopy.case import Case, Link, Setting
from vmferry.precopy.case_of import Watch, case_of
from vmferry.precopy.forecast import Forecast, forecast_many
from vmferry.precopy.foresight import _with_shape
from vmferry.precopy.phases import (
    Phases,
    Window,
    comes_and_goes,
    cycle_seen,
    own_seconds,
    unseen,
)
from vmferry.precopy.phases_of import phases_of
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import Trace
from vmferry.units import MIB

SECONDS = st.floats(0.05, 30.0)


def windows(busy: float, quiet: float, place: float, lengths: list[float]) -> list[Window]:
    """What windows in a row find of a guest that rewrites 32 MiB in about a second of its own."""
    t, found = 0.0, []
    for seconds in lengths:
        own = float(own_seconds(place + t, place + t + seconds, busy, quiet, 0.02))
        found.append(Window(t, t + seconds, 32 * MIB * -np.expm1(-own)))
        t += seconds
    return found


@given(SECONDS, SECONDS, SECONDS, SECONDS, st.floats(0, 1))
def test_the_own_clock_adds_up_and_runs_no_faster(
    start: float, length: float, busy: float, quiet: float, pace: float
) -> None:
    middle, end = start + length / 3, start + length
    whole = float(own_seconds(start, end, busy, quiet, pace))
    parts = own_seconds(start, middle, busy, quiet, pace) + own_seconds(
        middle, end, busy, quiet, pace
    )
    assert whole == pytest.approx(float(parts), abs=1e-6)
    assert pace * length - 1e-6 <= whole <= length + 1e-6
    cycles = own_seconds(start, start + 3 * (busy + quiet), busy, quiet, pace)
    assert float(cycles) == pytest.approx(3 * (busy + pace * quiet), abs=1e-6)


@given(
    st.lists(st.floats(0.1, 10.0), min_size=2, max_size=10),
    st.floats(0.05, 20.0),
    st.floats(0.3, 1.0),
    st.lists(st.floats(0.8, 1.25), min_size=10, max_size=10),
)
def test_no_steady_load_is_taken_for_one_with_phases(
    lengths: list[float], tau: float, bend: float, noise: list[float]
) -> None:
    starts = [0.0, *itertools.accumulate(lengths)]
    steady = [
        Window(a, b, 40 * MIB * -np.expm1(-(((b - a) / tau) ** bend)) * off)
        for (a, b), off in zip(itertools.pairwise(starts), noise, strict=False)
    ]
    assert not comes_and_goes(steady)
    assert phases_of(steady) is None


def test_phases_are_found_with_how_little_is_known_of_them() -> None:
    found = phases_of(windows(4.0, 3.0, 1.0, [4.0, *[1.0] * 16]))
    assert found is not None
    phases = found.phases
    assert phases.busy.p10 / 1.3 <= 4.0 <= phases.busy.p90 * 1.3
    assert phases.quiet.p10 / 1.3 <= 3.0 <= phases.quiet.p90 * 1.3
    seen = phases.quiet.p90 / phases.quiet.p10
    # One that was quiet at the end may go on to be so for long.
    cut = phases_of(windows(4.0, 3.0, 1.0, [1.0, 1.0, 1.0, 1.0, 1.0]))
    assert cut is not None
    assert cut.phases.quiet.p90 / cut.phases.quiet.p10 > 2 * seen


def test_of_a_long_run_only_what_the_clock_can_be_told_of_counts() -> None:
    """And it takes no more memory: it is looked at when the next move of the VM begins."""
    chance = random.Random(3)
    long = windows(4.3, 3.4, 1.0, [4.0, *(chance.uniform(0.5, 1.2) for _ in range(1000))])
    tracemalloc.start()
    found = phases_of(long)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None and most < 150 * MIB
    told = [found.own[i] / long[i].seconds for i in sorted(found.own)][1:]
    right = [float(own_seconds(1 + a.start, 1 + a.end, 4.3, 3.4, 0.02)) / a.seconds for a in long]
    assert np.abs(np.array(told) - right[-len(told) :]).mean() < 0.2


def test_a_cycle_is_seen_when_both_phases_were_whole() -> None:
    once = windows(4.0, 3.0, 0.0, [1.0] * 8)
    assert comes_and_goes(once) and not cycle_seen(once)
    assert cycle_seen(windows(4.0, 3.0, 0.0, [1.0] * 13))


@given(st.floats(0.5, 2000), st.floats(1.1, 10))
def test_the_longer_it_was_steady_the_less_it_may_come_and_go(watched: float, more: float) -> None:
    assert 0 <= unseen(watched * more) <= unseen(watched) < 0.15


def profile(phases: Phases | None = None, watched: float = 0.0) -> DirtyProfile:
    points = tuple(
        CurvePoint(t, 32 * MIB * -np.expm1(-2 * t), 29 * MIB * -np.expm1(-2 * t), 34 * MIB)
        for t in (0.25, 0.5, 1.0, 4.0)
    )
    return DirtyProfile(points, 160 * MIB, 10_000, 110 * MIB, phases=phases, watched=watched)


def foretold(known: DirtyProfile, bandwidth: int = 24) -> Forecast:
    speed = Quantiles.exact(500.0 * MIB)
    return forecast_many([Case(known, Setting(bandwidth * MIB, 300), Link(speed, speed))])[0]


def test_phases_that_never_pause_change_no_forecast() -> None:
    never_quiet = Phases(Quantiles.exact(5.0), Quantiles.exact(5.0), pace=1.0)
    for bandwidth in (24, 60, 100):
        steady, same = foretold(profile(), bandwidth), foretold(profile(never_quiet), bandwidth)
        assert same.verdict == steady.verdict
        if steady.total_ms and same.total_ms:
            assert same.total_ms.p50 == pytest.approx(steady.total_ms.p50, rel=0.02)
            assert same.total_ms.p90 == pytest.approx(steady.total_ms.p90, rel=0.05)


def test_more_short_passes_than_are_gone_through_are_not_half_a_success() -> None:
    """Three cycles of 40 s have a thousand passes of 0.1 s."""
    hardly_quiet = profile(Phases(Quantiles.exact(20.0), Quantiles.exact(20.0), pace=0.9))
    speed = Quantiles.exact(500.0 * MIB)
    [found] = forecast_many([Case(hardly_quiet, Setting(55 * MIB, 20), Link(speed, speed))])
    assert found.verdict == "does-not-converge"


def test_what_never_paused_may_do_so_and_the_words_say_it() -> None:
    sure, honest = foretold(profile()), foretold(profile(watched=10.0))
    assert sure.verdict == honest.verdict == "does-not-converge"
    assert sure.p_converge < 0.01 < honest.p_converge == pytest.approx(unseen(10.0), abs=1e-3)
    assert "watched" in honest.why and "watched" not in sure.why
    # Where it converges anyway that changes nothing.
    assert foretold(profile(), 100) == dataclasses.replace(
        foretold(profile(watched=10.0), 100), given=foretold(profile(), 100).given
    )


@pytest.mark.parametrize("at", [5.05, 8.0, 11.9])
def test_a_vm_that_somebody_pauses_has_no_phases_for_that(at: float) -> None:
    items = record(writer(32, 64), 12.0, cap=24, limit_ms=300, cancel=True).items
    paused = sorted((*items, Event(at, "STOP"), Event(at + 0.5, "RESUME")), key=lambda one: one.t)
    assert case_of(Trace({}, tuple(paused))).profile.phases is None


def test_what_a_switchover_tells_of_its_last_passes_counts() -> None:
    """They are short and found next to nothing; no sample saw them."""
    load = writer(32, 64, phases="busy:6,idle:4")
    items = record(load, 30.0, cap=24, limit_ms=300).items
    seen = Watch()
    for item in items:
        seen.receive(item)
    assert [one.at_most for one in seen.ended_below] == [True, True]


def test_what_was_left_over_and_dirtied_again_is_no_quiet_phase() -> None:
    """A limit of 1 s leaves most of the set over: the last passes find little that is not in it."""
    moved = record(writer(48, 64), 20.0, cap=30, limit_ms=1000, uncapped=200)
    assert case_of(moved).profile.phases is None


def test_a_throttle_hides_phases_so_they_were_not_watched_for() -> None:
    items = record(writer(32, 64, phases="busy:6,idle:1"), 30.0, cap=24, limit_ms=60).items
    slowed = tuple(
        dataclasses.replace(one, throttle=20) if isinstance(one, Sample) and one.t > 20 else one
        for one in items
    )
    assert case_of(Trace({}, items)).profile.watched > 0
    assert case_of(Trace({}, slowed)).profile.watched == 0


def test_known_phases_do_not_go_before_what_a_migration_shows() -> None:
    known = profile(Phases(Quantiles.exact(6.0), Quantiles.exact(4.0)))
    shown = profile(watched=2.0)
    assert _with_shape(shown, known) == shown


def test_a_profile_keeps_its_phases() -> None:
    known = profile(Phases(Quantiles(1.0, 2.0, 3.0), Quantiles(2.0, 4.0, 8.0), 0.1), 12.5)
    assert DirtyProfile.from_json(known.to_json()) == known


@pytest.mark.parametrize(("busy", "quiet"), [(3.0, 5.0), (6.0, 3.0), (4.0, 4.0)])
def test_it_agrees_with_moves_that_begin_anywhere(busy: float, quiet: float) -> None:
    """Recorded once, from its first phase on, then moved at random phases."""
    load = writer(32, 64, phases=f"busy:{busy},idle:{quiet}")
    case = case_of(record(load, 30.0, cap=24, limit_ms=300, cancel=True), source="rehearsal")
    assert case.profile.phases is not None
    found = forecast_many([dataclasses.replace(case, standing=None)])[0]
    chance = random.Random(round(busy))
    seconds = []
    for seed in range(12):
        guest = Guest(160 * MIB, 60 * MIB, load, writer_age=chance.uniform(0, 60))
        move = Precopy(
            guest,
            Machine(),
            bandwidth=24 * MIB,
            downtime_limit_ms=300,
            pause_before_switchover=False,
            seed=seed,
        )
        move.start()
        move.run(60.0)
        assert move.status == "completed"
        seconds.append(move.total_seconds)
    assert found.verdict == "converges" and found.total_ms is not None
    band = found.total_ms
    inside = [band.p10 * 0.95 <= 1000 * one <= band.p90 * 1.05 for one in seconds]
    assert sum(inside) >= 0.6 * len(inside)
    assert band.p50 / 1000 == pytest.approx(statistics.median(seconds), rel=0.35)
