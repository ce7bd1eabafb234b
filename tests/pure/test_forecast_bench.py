"""The arithmetic of the validation on rows that were made up, and the laws of its workloads."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench._baselines import Prediction
from bench._forecast_scores import (
    OURS,
    Outcome,
    Said,
    Score,
    coverage,
    errors,
    lower_bound,
    quantile,
    spreads,
    verdicts,
)
from bench._forecast_workloads import WORKLOADS, held_out, uniform_edge
from bench._guest_programs import PROGRAMS
from vmferry.precopy.quantiles import Quantiles


def moved(total_ms: float, size: float = 100.0, downtime_ms: float = 50.0) -> Outcome:
    return Outcome(True, total_ms, size, downtime_ms, passes=3)


NEVER = Outcome(completed=False)
SCORE = Score(
    workload="one",
    setting="32 MiB/s, 300 ms",
    held_out=True,
    capped=True,
    repeats=(moved(1000), moved(1100), moved(1200)),
    lower=moved(1300),
    higher=moved(900),
    said={
        OURS: Said(
            "converges",
            total_ms=Quantiles(1050, 1045, 1150),
            bytes=Quantiles(80, 90, 100),
            downtime_ms=Quantiles(10, 40, 60),
        ),
        "never": Said.of(Prediction(converges=False)),
        "no time": Said("converges", downtime_ms=Quantiles.exact(55)),
    },
)


def test_what_most_repeats_did_is_the_truth() -> None:
    assert SCORE.converged
    assert not replace(SCORE, repeats=(NEVER, NEVER)).converged
    split = replace(SCORE, repeats=(NEVER, moved(5000), NEVER))
    assert not split.converged and not split.unanimous
    assert replace(SCORE, repeats=(moved(1), NEVER, moved(1))).converged


def test_the_edge_is_where_the_neighbours_differ() -> None:
    assert SCORE.off_edge
    assert not replace(SCORE, lower=NEVER).off_edge
    assert replace(SCORE, lower=NEVER, higher=NEVER).off_edge


def test_uncertain_is_not_right() -> None:
    unsure = replace(SCORE, said={OURS: Said("uncertain")})
    assert SCORE.right(OURS) and not unsure.right(OURS)
    assert verdicts([SCORE, unsure], OURS).hits == 1
    assert verdicts([SCORE], "never").hits == 0
    assert verdicts([SCORE], "not asked").number == 0


def test_the_error_is_against_the_median_of_the_repeats() -> None:
    assert SCORE.error(OURS, "total_ms") == pytest.approx(0.05)
    assert SCORE.error(OURS, "bytes") == pytest.approx(0.1)


def test_a_model_that_had_it_never_end_has_an_infinite_error() -> None:
    assert SCORE.error("never", "total_ms") == math.inf
    # One that says nothing of the time is not judged by it.
    assert SCORE.error("no time", "total_ms") is None
    assert SCORE.error("no time", "downtime_ms") == pytest.approx(0.1)
    never = replace(SCORE, repeats=(NEVER, NEVER))
    assert errors([SCORE, never], "never", "total_ms") == []
    told = replace(SCORE, said={"never": SCORE.said[OURS]})
    assert errors([SCORE, never, told], "never", "total_ms") == pytest.approx([math.inf, 0.05])
    assert errors([never], OURS, "total_ms") == []


def test_the_band_is_held_against_each_repeat() -> None:
    assert SCORE.within("total_ms") == [False, True, False]
    share = coverage([SCORE, replace(SCORE, repeats=(NEVER, NEVER))], "downtime_ms")
    assert (share.hits, share.number) == (3, 3)


def test_the_spread_is_between_each_two_repeats() -> None:
    assert spreads([SCORE], "total_ms") == pytest.approx([100 / 1100, 200 / 1100, 100 / 1100])
    assert spreads([replace(SCORE, repeats=(moved(1000),))], "total_ms") == []


def test_a_baselines_prediction_in_milliseconds() -> None:
    said = Said.of(Prediction(True, seconds=1.5, bytes=7.0, downtime=0.25))
    assert said.total_ms == Quantiles.exact(1500)
    assert said.bytes == Quantiles.exact(7)
    assert said.downtime_ms == Quantiles.exact(250)


@pytest.mark.parametrize(
    ("hits", "number", "bound"),
    [(99, 99, 0.05 ** (1 / 99)), (10, 10, 0.741134), (8, 10, 0.493099), (155, 160, 0.935330)],
)
def test_the_lower_bound_against_known_values(hits: int, number: int, bound: float) -> None:
    assert lower_bound(hits, number) == pytest.approx(bound, abs=1e-4)


@given(st.integers(1, 120), st.data())
def test_the_lower_bound_is_below_the_share_and_rises(number: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, number))
    assert lower_bound(hits, number) <= hits / number
    if hits < number:
        assert lower_bound(hits, number) < lower_bound(hits + 1, number)


def test_quantiles_with_infinite_values() -> None:
    assert quantile([1, 2, 3, 4, 5], 0.9) == pytest.approx(4.6)
    assert quantile([1, 2, 3, math.inf], 0.5) == 2.5
    assert quantile([1, 2, 3, math.inf], 0.9) == math.inf
    assert quantile([1, math.inf, math.inf], 0.9) == math.inf
    assert math.isnan(quantile([], 0.5))


def test_there_are_enough_workloads_and_each_has_its_own_name() -> None:
    assert len(WORKLOADS) >= 60
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)
    assert len({workload.writer for workload in WORKLOADS if not workload.program}) >= 55


def test_the_split_is_by_the_hash_of_the_name() -> None:
    # Written down before the first run: it must never change.
    assert [held_out(name) for name in ("idle", "unlimited 16", "uniform 32 at 40")] == [
        True,
        False,
        False,
    ]
    kept = sum(workload.held_out for workload in WORKLOADS)
    assert len(WORKLOADS) / 2 < kept < len(WORKLOADS)


def test_every_program_has_a_workload() -> None:
    assert {workload.program for workload in WORKLOADS} - {""} == set(PROGRAMS)


def test_both_sides_of_the_guessed_edge_are_tried() -> None:
    for workload in WORKLOADS:
        bandwidths = [setting.bandwidth for setting in workload.settings if setting.bandwidth]
        assert len(set(bandwidths)) == len(bandwidths) >= 1, workload.name


@given(st.floats(4, 256), st.floats(1, 300), st.floats(0.05, 2))
def test_the_edge_rises_with_the_rate_and_falls_with_the_limit(
    size: float, rate: float, limit: float
) -> None:
    edge = uniform_edge(size, rate, limit)
    assert edge <= uniform_edge(size, rate * 2, limit) * (1 + 1e-6)
    assert edge >= uniform_edge(size, rate, limit * 2) * (1 - 1e-6)
