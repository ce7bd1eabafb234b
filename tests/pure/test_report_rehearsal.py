"""What the report says of a rehearsal: its answer, forecasts, dirty curve, heat map and X-ray."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.pure.simulated_trace import record, writer
from tests.pure.test_report import text_of
from vmferry.precopy.case_of import case_of
from vmferry.precopy.trace import to_line
from vmferry.precopy.xray import Compression, HeatMap, HotRegion, Region, Row, XRayResult
from vmferry.rehearsal.learnt import forecasts
from vmferry.report.curve import curves
from vmferry.report.page import render
from vmferry.report.recording import Recording
from vmferry.units import MIB

Line = Mapping[str, Any]
LIMITS = {"max_downtime_ms": 300, "downtime_limit_ms": 300, "bandwidth": 10 * MIB}
HEADER = {"format": 1, "run": "7", "vm": "web", "policy": "rehearse", "limits": LIMITS}
OUTCOME = {
    "run": "7",
    "vm": "web",
    "status": "cancelled",
    "vm_runs_at": "source",
    "policy": "rehearse",
    "total_ms": 20_000.0,
    "bytes": 200 * MIB,
    "why": "a rehearsal: the move would not converge; 6 passes were enough to tell; a problem\n"
    "words of another version",
}
XRAY = XRayResult(
    by="pass",
    page_size=4096,
    ram_bytes=160 * MIB,
    memory_bytes=MIB,
    rows=(
        Row(1, zero=20_000, ordinary=20_000, first=40_000, bytes=80 * MIB),
        Row(2, ordinary=5000, resent=5000, bytes=20 * MIB, resent_bytes=20 * MIB),
    ),
    repeats=(),
    distinct_resent=5000,
    hot=(HotRegion("pc.ram", 0, MIB, 15 * MIB, 0.75),),
    heat=HeatMap((Region("pc.ram", 0, 160 * MIB),), 1, ((40_000, 5000),)),
    compress=(
        Compression(
            1, ratio=2.5, first_ratio=2.5, again_ratio=None, cpu_seconds_per_gib=1.2, sampled=900
        ),
    ),
    delta=None,
    sampled_share=1.0,
)


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    """A guest that rewrites faster than 10 MiB/s can send."""
    trace = record(writer(60, 30), 20.0, cap=10.0, cancel=True)
    case = case_of(replace(trace, header=HEADER), "rehearsal")
    case = replace(case, profile=replace(case.profile, slowdown=0.12))
    told = [one.to_json() for one in forecasts(case)]
    found = {
        "format": 1,
        "verdict": "does-not-converge",
        "why": "6 passes were enough to tell",
        "slowdown": 0.12,
        "profile": case.profile.to_json(),
        "forecast": told[0],
        "others": told[1:],
        "not_measured": ["tls"],
        "warnings": ["the figures are <b>too low</b>"],
    }
    return [
        {"vmferry": HEADER},
        *(json.loads(to_line(item)) for item in trace.items),
        {"t": 20.1, "xray": XRAY.to_json()},
        {"t": 20.1, "profile": case.profile.to_json()},
        {"t": 20.1, "rehearsal": found},
    ]


def test_it_is_told_as_a_rehearsal(lines: list[Line]) -> None:
    text = text_of(render(lines, OUTCOME))
    assert "Rehearsal 7 web Rehearsal: a move of VM web would not converge." in text
    # What else the outcome tells is kept; the answer is the headline.
    assert "6 passes were enough to tell; a problem Total time" in text
    assert "was cancelled" not in text
    assert "words of another version" not in text
    assert "The move would not converge:" in text
    assert "Guest slowed by 12 %" in text


def test_its_forecasts_are_a_table_with_the_planned_move_first(lines: list[Line]) -> None:
    page = render(lines, OUTCOME)
    text = text_of(page)
    planned = "10.0 MiB/s, 300 ms ✕ no, "
    others = ["5.00 MiB/s, 300 ms", "20.0 MiB/s, 300 ms", "10.0 MiB/s, 150 ms"]
    places = [text.index(one) for one in (planned, *others)]
    assert places == sorted(places)
    assert page.count('class="planned"') == 1
    assert '<tr class="planned"><td>10.0 MiB/s, 300 ms</td>' in page
    assert "The cost of TLS was not measured" in text
    assert "The figures are &lt;b&gt;too low&lt;/b&gt;." in page


def test_forecasts_that_converge_have_bands_on_one_scale(lines: list[Line]) -> None:
    found = {**lines[-1]["rehearsal"]}
    times = {"p10": 1000.0, "p50": 2000.0, "p90": 4000.0}
    quick = found["forecast"] | {
        "verdict": "converges",
        "p_converge": 0.9,
        "total_ms": times,
        "downtime_ms": times,
        "bytes": times,
    }
    slow = quick | {"total_ms": {key: 2 * value for key, value in times.items()}}
    found |= {"forecast": quick, "others": [slow]}
    page = render([*lines[:-1], {"t": 20.1, "rehearsal": found}], OUTCOME)
    assert "✓ yes, 90 % 2.0 s, 1.0 s to 4.0 s 2.0 s 1.0 s to 4.0 s" in text_of(page)
    marks = [float(x) for x in re.findall(r'class="middle" x1="([\d.]+)%"', page)]
    first, _, second, _ = marks
    assert second == pytest.approx(2 * first, rel=0.01)


def test_the_curve_is_what_it_found(lines: list[Line]) -> None:
    known = curves(Recording.read(lines))
    assert known is not None and known.found is not None and known.earlier is None
    assert known.found.slowdown == 0.12
    assert "Dirty curve" in text_of(render(lines, OUTCOME))


def test_heat_map_and_x_ray(lines: list[Line]) -> None:
    page = render(lines, OUTCOME)
    text = text_of(page)
    assert 'id="heat-map"' in page
    assert "hot: pc.ram from 0x0 to 0x100000 (1.00 MiB): 75 % of the bytes sent again" in text
    assert "zstd-1 would cut pass 1 by" in text
    assert "all 20,000 25,000 0 40,000 5,000" in text


def test_an_x_ray_of_a_later_format_is_said_to_be_one(lines: list[Line]) -> None:
    later = [{**line, "xray": {"format": 2}} if "xray" in line else line for line in lines]
    page = render(later, OUTCOME)
    assert "this X-ray has format 2" in text_of(page)
    assert 'id="heat-map"' not in page and "Dirty curve" in text_of(page)


def test_a_rehearsal_that_failed_is_told_as_one(lines: list[Line]) -> None:
    failed = {**OUTCOME, "status": "failed", "why": "a rehearsal that failed: the sink died"}
    text = text_of(render(lines[:-3], failed))
    assert "The rehearsal of VM web failed after 20.0 s. It runs on at the source." in text
    assert "A rehearsal that failed: the sink died" in text
    assert "Forecast" not in text and "Heat map" not in text
