"""The models of others, by hand-computed values and by what must hold for each."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench._baselines import (
    BASELINES,
    Inputs,
    expected_downtime,
    geometric,
    mvm,
    ram_over_bandwidth,
    simgrid,
    two_segments,
)
from vmferry.precopy.curve import DirtyCurve

# 1000 bytes of memory over 100 bytes/s, limit 1 s: so a threshold of 100 bytes.
CASE = Inputs(
    ram_bytes=2000,
    non_zero_bytes=1000,
    zero_pages=0,
    zero_seconds=0.0,
    speed=100.0,
    downtime_limit=1.0,
    fixed_downtime=0.5,
    curve=DirtyCurve.through([(1.0, 40.0), (10.0, 200.0)]),
    working_set=200.0,
    dirty=150.0,
)
cases = st.builds(
    replace,
    st.just(CASE),
    non_zero_bytes=st.floats(1e3, 1e9),
    zero_seconds=st.floats(0.0, 5.0),
    speed=st.floats(1e2, 1e7),
    downtime_limit=st.floats(0.01, 5.0),
    working_set=st.floats(1.0, 1e9),
    curve=st.builds(
        DirtyCurve.through,
        st.lists(st.tuples(st.floats(0.05, 50.0), st.floats(1.0, 1e9)), min_size=1, max_size=6),
    ),
)


def test_the_geometric_model_by_hand() -> None:
    # lambda 0.2: passes of 1000, 200 and 40 bytes; the last one is below the threshold.
    said = geometric(CASE, 20.0)
    assert said.converges
    assert said.bytes == pytest.approx(1240)
    assert said.seconds == pytest.approx(12.4 + 0.5)
    assert said.downtime == pytest.approx(0.4 + 0.5)


def test_the_geometric_model_has_no_end_above_the_speed() -> None:
    assert not geometric(CASE, 100.0).converges
    assert not geometric(CASE, 300.0).converges


@given(cases, st.floats(0.01, 0.99))
def test_the_geometric_model_is_lius_closed_form(case: Inputs, ratio: float) -> None:
    case = replace(case, zero_seconds=0.0)
    said = geometric(case, ratio * case.speed)
    memory, small = case.non_zero_bytes, case.threshold
    n = max(math.ceil(math.log(small / memory) / math.log(ratio) - 1e-9), 0)
    volumes = {
        steps: memory * (1 - ratio ** (steps + 1)) / (1 - ratio) for steps in (n - 1, n, n + 1)
    }
    assert said.bytes is not None
    # Where the last pass is the threshold to the last digit, one pass more or less is right.
    assert any(said.bytes == pytest.approx(volume, rel=1e-6) for volume in volumes.values())


def test_the_time_for_zero_pages_lengthens_pass_1_and_what_it_finds() -> None:
    # 11 s of pass 1 find 220 bytes, these 44.
    said = geometric(replace(CASE, zero_seconds=1.0, zero_pages=100), 20.0)
    assert said.bytes == pytest.approx(1000 + 220 + 44 + 900)
    assert said.seconds == pytest.approx(11 + 2.2 + 0.44 + 0.5)


def test_simgrids_working_set_bounds_a_pass() -> None:
    # 50 bytes/s over 10 s are 500, of which the working set has 200; then 100, the threshold.
    said = simgrid(CASE, 50.0)
    assert said.bytes == pytest.approx(1000 + 200 + 100)
    # A working set that fits the downtime limit always converges, whatever the rate.
    assert simgrid(replace(CASE, working_set=90.0), 1e9).bytes == pytest.approx(1090)
    assert not simgrid(replace(CASE, working_set=110.0), 1e9).converges


@given(cases, st.floats(1.0, 1e8))
def test_a_working_set_never_makes_it_longer(case: Inputs, rate: float) -> None:
    free, bound = geometric(case, rate), simgrid(case, rate)
    if free.converges:
        assert bound.seconds is not None and free.seconds is not None
        assert bound.seconds <= free.seconds * (1 + 1e-9)


def test_mvm_by_hand() -> None:
    # HS 40 in HD 1 s, then CR 160 / 9 a second.
    assert two_segments(CASE.curve) == pytest.approx((40.0, 1.0, 160 / 9))
    cold = (40 + 9 * 160 / 9) / (100 - 160 / 9)
    hot = 40 / 100 * (40 / (100 - 40))
    said = mvm(CASE)
    assert said.seconds == pytest.approx(10 + cold + hot)
    assert said.bytes == pytest.approx((10 + cold + hot) * 100)


def test_mvm_where_all_is_sent_within_the_hot_window() -> None:
    case = replace(CASE, curve=DirtyCurve.through([(20.0, 400.0)]))
    assert mvm(case).seconds == pytest.approx(10 + 20 * 10 / (100 - 20))


def test_mvm_never_ends_where_the_hot_pages_outrun_the_speed() -> None:
    assert not mvm(replace(CASE, speed=40.0)).converges


def test_two_segments_of_a_curve_that_has_two() -> None:
    points = [(t, 100 * t if t <= 2 else 200 + 5 * (t - 2)) for t in (0.5, 1.0, 2.0, 5.0, 10.0)]
    assert two_segments(DirtyCurve.through(points)) == pytest.approx((200.0, 2.0, 5.0))
    assert two_segments(DirtyCurve()) == (0.0, 0.0, 0.0)


def test_qemus_expected_downtime_by_hand() -> None:
    assert expected_downtime(CASE).downtime == pytest.approx(1.5)
    assert not expected_downtime(CASE).converges
    assert expected_downtime(replace(CASE, dirty=100.0)).converges
    assert expected_downtime(CASE).seconds is None


def test_ram_over_bandwidth_by_hand() -> None:
    said = ram_over_bandwidth(replace(CASE, zero_seconds=2.0, zero_pages=10))
    assert (said.converges, said.seconds, said.bytes) == (True, 12.0, 1090.0)


def test_the_rates_are_the_curves_over_their_windows() -> None:
    assert CASE.long_rate == pytest.approx(20.0)
    assert CASE.short_rate == pytest.approx(40.0)


@given(cases)
def test_every_model_ends_and_none_is_faster_than_pass_1(case: Inputs) -> None:
    for name, model in BASELINES.items():
        said = model(case)
        if said.seconds is None or said.bytes is None:
            continue
        least = case.pass_1_seconds
        if case.non_zero_bytes <= case.threshold:
            least = case.non_zero_bytes / case.speed  # all of it is sent in the switchover
        assert said.seconds >= least * (1 - 1e-9), name
        assert said.bytes >= case.non_zero_bytes * (1 - 1e-9), name
