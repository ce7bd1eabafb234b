"""The arithmetic of the validation on rows that were made up, and the laws of its workloads."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench._baselines import Prediction
from bench._bench_results import Results
from bench._forecast_case import curve_key, deadline_of, key_of, missing, options
from bench._forecast_report import page
from bench._forecast_rows import inputs, score_of
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
from bench._forecast_workloads import WORKLOADS, Setting, Workload, held_out, uniform_edge
from bench._guest_programs import PROGRAMS
from bench.forecast import pictures
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.units import MIB
from vmferry.vm.spec import VmSpec


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


WORKLOAD = next(workload for workload in WORKLOADS if workload.held_out)
SETTING = WORKLOAD.settings[0]


def passes(*sizes: tuple[float, float, int]) -> list[dict[str, Any]]:
    """Of seconds, MiB sent and zero pages each."""
    return [
        {
            "n": n,
            "start_ms": 10.0,
            "duration_ms": seconds * 1000,
            "sent_bytes": round(mib * MIB),
            "sent_pages": round(mib * MIB / 4096) + zeros,
            "zero_pages": zeros,
            "dirty_bytes": round(mib * MIB),
        }
        for n, (seconds, mib, zeros) in enumerate(sizes, start=1)
    ]


def rows_of_case(repeats: tuple[float | None, ...]) -> dict[str, dict[str, Any]]:
    """The rows of one case by what they are; None is a move that did not complete."""

    def move(seconds: float | None) -> dict[str, Any]:
        if seconds is None:
            return {"status": "abandoned"}
        return {
            "status": "completed",
            "total_ms": seconds * 1000,
            "bytes": 90 * MIB,
            "downtime_ms": 40,
            "passes": passes((2.5, 80, 1000), (0.5, 16, 0)),
        }

    said = {
        "verdict": "converges",
        "total_ms": {"p10": 2900.0, "p50": 3100.0, "p90": 3500.0},
        "bytes": {"p10": 85 * MIB, "p50": 91 * MIB, "p90": 99 * MIB},
        "downtime_ms": {"p10": 20.0, "p50": 30.0, "p90": 60.0},
        "passes": {"p10": 2, "p50": 2, "p90": 4},
    }
    profile = DirtyProfile(
        points=(CurvePoint(0.3, 4 * MIB, 3 * MIB, 5 * MIB), CurvePoint(3.0, 16 * MIB, 15e6, 17e6)),
        ram_bytes=160 * MIB,
        zero_pages=1000,
        non_zero_bytes=80 * MIB,
        source="rehearsal",
    )
    rehearsal = {
        "verdict": "converges",
        "forecast": said,
        "own_forecast": said,
        "profile": json.loads(json.dumps(profile.to_json())),
        "passes": passes((2.6, 80, 1000), (0.5, 16, 0), (0.1, 1, 0)),
    }
    found: dict[str, Any] = {"rate": {**said, "verdict": "uncertain"}, "rehearsal": rehearsal}
    found |= {"0.9": move(3.5), "1.1": move(2.8)}
    return found | {f"1.0/{n}": move(seconds) for n, seconds in enumerate(repeats)}


def results_of(folder: Path, repeats: tuple[float | None, ...]) -> Results:
    results = Results(folder / "forecast.jsonl")
    results.once(curve_key(WORKLOAD), lambda: {"commit": "c"})
    for what, row in rows_of_case(repeats).items():
        results.once(key_of(WORKLOAD, SETTING, what), lambda row=row: {"commit": "c", **row})  # type: ignore[misc]
    return results


def test_a_case_is_scored_when_its_last_row_is_there(tmp_path: Path) -> None:
    results = results_of(tmp_path, (3.0, 3.0))
    assert missing(WORKLOAD, results)[0] == key_of(WORKLOAD, SETTING, "1.0/2")
    assert score_of(WORKLOAD, SETTING, results) is None
    score = score_of(WORKLOAD, SETTING, results_of(tmp_path, (3.0, 3.0, 3.2)))
    assert score is not None and score.converged and score.off_edge and score.held_out
    assert score.error(OURS, "total_ms") == pytest.approx(100 / 3000)


def test_a_third_repeat_is_left_out_where_two_did_not_complete(tmp_path: Path) -> None:
    score = score_of(WORKLOAD, SETTING, results_of(tmp_path, (None, None)))
    assert score is not None and not score.converged and len(score.repeats) == 2
    split = results_of(tmp_path / "split", (None, 3.0))
    assert score_of(WORKLOAD, SETTING, split) is None


def test_what_the_baselines_are_given_is_measured_in_the_rehearsal() -> None:
    given = inputs(rows_of_case((3.0,))["rehearsal"], SETTING)
    # Of pass 2, 16 MiB in half a second; the third pass is too short to tell a speed.
    assert given.speed == pytest.approx(32 * MIB)
    # Pass 1 was 0.1 s longer than 80 MiB take, and began 10 ms after migrate.
    assert given.zero_seconds == pytest.approx(0.11)
    assert given.dirty == 1 * MIB


def test_a_move_has_time_for_three_passes_like_the_first_and_for_what_was_forecast() -> None:
    rehearsal = rows_of_case((3.0,))["rehearsal"]
    assert deadline_of(rehearsal) == pytest.approx(3 * 2.6 + 3)
    slow = {**rehearsal["forecast"], "total_ms": {"p90": 20_000.0}}
    assert deadline_of({**rehearsal, "forecast": slow}) == pytest.approx(26)
    assert deadline_of({**rehearsal, "forecast": {"total_ms": None}}) == pytest.approx(10.8)
    slow = {**rehearsal["forecast"], "total_ms": {"p90": 500_000.0}}
    assert deadline_of({**rehearsal, "forecast": slow}) == 60


def test_no_cap_is_varied_by_its_limit() -> None:
    assert options(Setting(0, 30), 0.9) == ["--downtime", "27ms"]
    assert options(Setting(32, 300), 1.1)[1:] == ["36909875B/s", "--downtime", "300ms"]


def test_the_page_tells_every_bar_and_where_it_fails(tmp_path: Path) -> None:
    score = score_of(WORKLOAD, SETTING, results_of(tmp_path, (3.0, 3.0, 3.2)))
    assert score is not None
    wrong = replace(score, workload="wrong one", repeats=(NEVER, NEVER))
    text = page([score, wrong], "vmferry 0", 200)
    assert "2 of 200 cases of 2 workloads" in text
    assert "1 of 2 (50.0%, at least 2.5%)" in text
    assert "wrong one" in text.partition("## Where it fails")[2]
    assert WORKLOAD.name not in text.partition("## Where it fails")[2]
    assert "| met |" in text and "| missed |" in text
    assert all(model in text for model in score.said)
    # Every line of a table has as many cells as its titles.
    for lines in text.split("\n\n"):
        if lines.startswith("|"):
            assert len({line.count("|") for line in lines.splitlines()}) == 1


def test_the_page_bears_that_nothing_is_measured_yet() -> None:
    assert "0 of 7 cases" in page([], "vmferry 0", 7)


def test_the_pictures_are_well_formed_and_show_every_case(tmp_path: Path) -> None:
    score = score_of(WORKLOAD, SETTING, results_of(tmp_path, (3.0, 3.0, 3.2)))
    assert score is not None
    for count in (0, 1, 3):
        found = pictures([score] * count)
        for picture in found.values():
            ElementTree.fromstring(picture)
        assert found["forecast-total.svg"].count("<circle") == count


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_guest_of_each_workload_has_room_for_it(workload: Workload) -> None:
    VmSpec.model_validate(
        {
            "name": "guest",
            "memory": {"size": f"{workload.ram_mib}MiB"},
            "boot": {"kernel": "testguest"},
            "testguest": workload.writer.model_dump(),
        }
    )
