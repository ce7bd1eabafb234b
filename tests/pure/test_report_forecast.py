"""What the report says of forecasts: beside what happened, over time, and of the dirty curve."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.pure.simulated_trace import record, writer
from tests.pure.test_report import FULL, OUTCOME, POLLED, text_of
from vmferry.precopy.case_of import case_of, cut
from vmferry.precopy.explain import explain
from vmferry.precopy.forecast import forecast
from vmferry.precopy.profile import DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.trace import Trace, read_trace, to_line
from vmferry.report.bands import Band, cards
from vmferry.report.curve import curves, draw
from vmferry.report.forecast_pictures import narrowing, odds
from vmferry.report.page import render
from vmferry.report.recording import Recording
from vmferry.report.told import Told
from vmferry.units import MIB

Line = Mapping[str, Any]
LIMITS = {"max_downtime_ms": 300, "downtime_limit_ms": 300, "bandwidth": 40 * MIB}
HEADER: Line = {"vmferry": {"format": 1, "run": "9", "vm": "web", "limits": LIMITS}}
ENDED = {
    "status": "completed",
    "vm": "web",
    "vm_runs_at": "destination",
    "total_ms": 5500.0,
    "downtime_ms": 40,
    "bytes": 100 * MIB,
    "passes": [{"n": 1}, {"n": 2}, {"n": 3}],
}


def told(t: float, **changes: Any) -> Line:
    """A forecast line: 5 to 6 s, 10 to 30 ms, 200 to 240 MiB, 3 to 5 passes."""
    value = {
        "format": 1,
        "verdict": "converges",
        "p_converge": 0.97,
        "given": {"bandwidth": 40 * MIB, "downtime_limit_ms": 300, "standing": None},
        "total_ms": {"p10": 5000.0, "p50": 5400.0, "p90": 6000.0},
        "downtime_ms": {"p10": 10.0, "p50": 20.0, "p90": 30.0},
        "bytes": {"p10": 200.0 * MIB, "p50": 220.0 * MIB, "p90": 240.0 * MIB},
        "passes": {"p10": 3.0, "p50": 4.0, "p90": 5.0},
        "why": "",
        "remedies": [],
    }
    return {"t": t, "forecast": value | changes}


NEVER = {
    "verdict": "does-not-converge",
    "p_converge": 0.03,
    **dict.fromkeys(("total_ms", "downtime_ms", "bytes", "passes")),
}


@pytest.fixture(scope="module")
def moved() -> Trace:
    """A guest of 160 MiB that converges, at 40 MiB/s."""
    trace = record(writer(30, 12), 60.0, cap=40.0)
    return read_trace([json.dumps(HEADER), *map(to_line, trace.items)])


@pytest.fixture(scope="module")
def lines(moved: Trace) -> list[Line]:
    """Its recording, with a forecast from another guest's curve first and after each pass."""
    other = case_of(record(writer(30, 24), 60.0, cap=40.0, seed=3), "rehearsal")
    case = case_of(moved)
    before = forecast(other.profile, case.setting, case.link, case.host)
    found: list[Line] = [HEADER, {"t": 0.0, "forecast": before.to_json()}]
    for number in (1, 2):
        part = cut(moved, number)
        now = case_of(part)
        again = forecast(now.profile, now.setting, now.link, now.host, now.standing)
        found.append({"t": part.items[-1].t, "forecast": again.to_json()})
    return [*found, *(json.loads(to_line(item)) for item in moved.items)]


def test_what_happened_stands_beside_what_was_foretold() -> None:
    text = text_of(render([HEADER, told(0.0), *POLLED], ENDED))
    assert "Told before the start." in text
    assert "Converges (odds 97 %) at 40.0 MiB/s, with a downtime limit of 300 ms" in text
    assert "5.4 s 5.0 s to 6.0 s 5.5 s within the band" in text
    assert "20 ms 10 ms to 30 ms 40 ms above the band" in text
    assert "220 MiB 200 MiB to 240 MiB 100 MiB below the band" in text
    assert "4 3 to 5 3 within the band" in text


def test_a_move_that_did_not_get_there_has_nothing_to_compare_with() -> None:
    page = render([HEADER, told(0.0), *POLLED[:3]], {**ENDED, "status": "abandoned"})
    text = text_of(page)
    assert "5.4 s 5.0 s to 6.0 s Downtime" in text
    assert "the band 20 ms" not in text and 'class="mark"' not in page
    assert "What happened: abandoned after 5.5 s." in text and "diamond" not in text


def test_a_move_under_way_is_forecast_only() -> None:
    text = text_of(render([HEADER, told(0.0), *POLLED[:3]], None))
    assert "Forecast Told before the start." in text
    assert "What happened" not in text and "what happened" not in text


def test_the_first_forecast_with_figures_is_compared() -> None:
    text = text_of(render([HEADER, told(0.0, **NEVER), told(2.0), *POLLED], ENDED))
    assert "Told after 2.0 s." in text
    assert "5.5 s within the band" in text
    never = text_of(render([HEADER, told(0.0, **NEVER), *POLLED], ENDED))
    assert "Does not converge (odds 3 %)" in never
    assert not re.search("(within|above|below) the band", never)


def test_a_forecast_of_a_later_format_is_passed_over() -> None:
    page = render([HEADER, {"t": 0.0, "forecast": {"format": 2, "odds": []}}, *POLLED], ENDED)
    assert "Forecast" not in text_of(page)


def test_marks_stand_where_their_values_are() -> None:
    """On a scale that begins at zero."""
    page = cards([Band("Time", Quantiles(50.0, 75.0, 100.0), 25.0, str)])
    low, width = map(float, re.findall(r'class="band" x="([\d.]+)%" width="([\d.]+)%"', page)[0])
    (middle,) = map(float, re.findall(r'class="middle" x1="([\d.]+)%"', page))
    (mark,) = map(float, re.findall(r'class="mark" x="([\d.]+)%"', page))
    assert width == pytest.approx(low, abs=0.05)
    assert middle == pytest.approx(1.5 * low, abs=0.05)
    assert mark == pytest.approx(low / 2, abs=0.05)


def test_the_end_as_it_was_foretold_over_time() -> None:
    known = [Told.read(t, told(t, **more)["forecast"]) for t, more in MORE]
    figure = narrowing(known, (-1.0, 9.0), 5.5)
    assert figure is not None
    by_name = {trace.name: trace for trace in figure.data if trace.name}
    foretold, real = by_name["foretold end, with its band"], by_name["the real end"]
    # What does not converge has no end; what was told last holds until the end.
    assert list(foretold.x) == [0.0, 3.0, 5.5]
    assert list(foretold.y) == [5.4, 5.45, 5.45]
    assert set(real.y) == {5.5} and list(real.x) == [0.0, 5.5]
    low, high = (trace.y for trace in figure.data if trace.name is None)
    assert list(low) == [5.0, 5.4, 5.4] and list(high) == [6.0, 5.5, 5.5]


MORE: list[tuple[float, dict[str, Any]]] = [
    (0.0, {}),
    (1.0, NEVER),
    (3.0, {"total_ms": {"p10": 5400.0, "p50": 5450.0, "p90": 5500.0}}),
]


def test_one_forecast_is_no_course_and_odds_of_one_verdict_are_no_picture() -> None:
    steady = [Told.read(t, told(t, p_converge=0.8 + t / 10)["forecast"]) for t in (0.0, 1.0)]
    assert narrowing(steady[:1], (0.0, 2.0), None) is None
    assert odds(steady, (0.0, 2.0)) is None
    assert narrowing(steady, (0.0, 2.0), None) is not None


def test_odds_that_change_are_drawn() -> None:
    known = [Told.read(t, told(t, **more)["forecast"]) for t, more in MORE]
    figure = odds(known, (0.0, 4.0))
    assert figure is not None
    (line,) = figure.data
    assert list(line.y) == [97.0, 3.0, 97.0, 97.0] and list(line.x) == [0.0, 1.0, 3.0, 4.0]


def test_the_curve_is_the_guests_beside_the_one_it_was_forecast_by(
    lines: list[Line], moved: Trace
) -> None:
    known = curves(Recording.read(lines))
    assert known is not None and known.found is not None and known.earlier is not None
    assert known.found == case_of(moved, "run").profile
    assert known.earlier.source == "rehearsal"
    assert (
        known.earlier.points
        == DirtyProfile.from_json(lines[1]["forecast"]["given"]["curve"]).points
    )
    assert (known.limit, known.shortest) == (0.3, 0.1)
    assert known.speed == pytest.approx(40 * MIB, rel=0.01)
    figure = draw(known)
    by_name = {trace.name: trace for trace in figure.data if trace.name}
    threshold = by_name["threshold: in the limit of 300 ms"]
    assert list(threshold.y) == pytest.approx([known.speed * 0.3] * 2, rel=1e-4)
    sendable = by_name["can be sent at 40.0 MiB/s"]
    assert sendable.y[-1] == pytest.approx(known.speed * sendable.x[-1], rel=1e-3)
    own = by_name["rewritten, by this run"]
    assert {"rewritten before, by a rehearsal"} < set(by_name)
    # The curve goes through the doubt of every point.
    for point in known.found.points:
        i = min(range(len(own.x)), key=lambda i: abs(own.x[i] / point.seconds - 1))
        assert 0.9 * point.low < own.y[i] < 1.1 * point.high


def test_forecasts_of_a_running_migration_tell_no_earlier_curve(lines: list[Line]) -> None:
    known = curves(Recording.read([HEADER, *lines[2:]]))
    assert known is not None and known.found is not None and known.earlier is None


def test_a_move_cut_short_in_pass_1_has_the_curve_from_before(lines: list[Line]) -> None:
    known = curves(Recording.read([*lines[:2], *lines[4:8]]))
    assert known is not None
    assert known.found is None and known.earlier is not None
    names = [trace.name for trace in draw(known).data if trace.name]
    assert names[0] == "rewritten before, by a rehearsal"


def test_page_of_a_move_with_forecasts(lines: list[Line]) -> None:
    text = text_of(render(lines, {**ENDED, "total_ms": 4000.0}))
    order = [
        "Where the time went",
        "Forecast and what happened",
        "The end as it was foretold",
        "Dirty memory left",
        "Dirty curve",
        "Passes",
    ]
    places = [text.rindex(f" {title} ") for title in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("busy", "words"), [(None, "cannot be told from this recording"), (60.0, "CPU of the sender:")]
)
def test_the_page_has_the_words_of_explain(busy: float | None, words: str) -> None:
    """Also those that need the outcome: how long the sender's threads ran."""
    trace = record(writer(30, 12), 60.0, uncapped=40.0)
    dumped = [to_line(item) for item in trace.items]
    explanation = explain(read_trace(dumped), busy)
    recorded = [json.loads(line) for line in dumped]
    cost = {"migration_cpu_seconds": busy}
    text = text_of(render(recorded, {**ENDED, "cost": cost})).replace("&#x27;", "'")
    assert words in text
    for line in explanation.reasons:
        assert line in text
    assert explanation.opening[0] not in text
    assert explanation.opening[0] in text_of(render(recorded, None))


def test_an_old_run_has_none_of_it() -> None:
    text = text_of(render(FULL, OUTCOME))
    for title in ("Forecast", "Odds", "Heat map", "X-ray", "Rehearsal"):
        assert title not in text
    assert "Dirty memory left" in text
