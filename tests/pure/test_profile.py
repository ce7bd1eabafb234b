"""The laws of the dirty profile: its curve, what merging and ageing do, and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import UsageError
from vmferry.precopy.profile import (
    SOURCES,
    CurvePoint,
    DirtyProfile,
    Source,
    extended,
    log_deviations,
    merge,
)
from vmferry.units import GIB, MIB

NOW = 1_800_000_000.0
sources: st.SearchStrategy[Source] = st.sampled_from(SOURCES)


@st.composite
def curve_points(draw: st.DrawFn) -> CurvePoint:
    size = draw(st.floats(4096, 1e10))
    return CurvePoint(
        seconds=draw(st.floats(0.01, 200.0)),
        bytes=size,
        low=size * draw(st.floats(0.2, 1.0)),
        high=size * draw(st.floats(1.0, 5.0)),
        n=draw(st.integers(1, 9)),
        at=NOW - draw(st.floats(0.0, 1e6)),
    )


@st.composite
def profiles(draw: st.DrawFn) -> DirtyProfile:
    return DirtyProfile(
        points=tuple(draw(st.lists(curve_points(), min_size=1, max_size=8))),
        ram_bytes=16 * GIB,
        zero_pages=draw(st.integers(0, 10**6)),
        non_zero_bytes=draw(st.integers(0, 16 * GIB)),
        throttle=draw(st.sampled_from((0, 20, 50))),
        overlap=draw(st.none() | st.floats(0.0, 1.0)),
        compress=draw(st.dictionaries(st.sampled_from(("zstd-1", "zstd-3")), st.floats(1.0, 9.0))),
        xbzrle_ratio=draw(st.none() | st.floats(1.0, 9.0)),
        source=draw(sources),
    )


def point(seconds: float, size: float, *, at: float = NOW) -> CurvePoint:
    return CurvePoint(seconds, size, size * 0.9, size * 1.1, 1, at)


def profile(*points: CurvePoint, **more: Any) -> DirtyProfile:
    values: dict[str, Any] = {"ram_bytes": GIB, "zero_pages": 0, "non_zero_bytes": GIB, **more}
    return DirtyProfile(points, **values)


@given(st.lists(profiles(), min_size=1, max_size=4), st.floats(0, 300), st.floats(0, 300))
def test_a_merged_curve_rises_and_bends_down(
    several: list[DirtyProfile], one: float, other: float
) -> None:
    curve = merge(several, NOW).curve
    tolerance = 1e-9 * (1 + curve.plateau)
    low, high = sorted((one, other))
    assert curve(0.0) == 0.0
    assert curve(low) <= curve(high) + tolerance
    assert curve((low + high) / 2) >= (curve(low) + curve(high)) / 2 - tolerance


@given(st.lists(profiles(), min_size=1, max_size=4))
def test_the_most_trusted_source_gives_all_its_points(several: list[DirtyProfile]) -> None:
    merged = merge(several, NOW)
    best = min(several, key=lambda one: SOURCES.index(one.source))
    assert merged.source == best.source
    kept = {(one.seconds, one.bytes) for one in merged.points}
    alike = [one for one in several if one.source == best.source]
    assert any({(p.seconds, p.bytes) for p in one.points} <= kept for one in alike)


@given(profiles(), st.floats(0, 1e6), st.floats(0, 1e6))
def test_doubts_grow_with_age(one: DirtyProfile, sooner: float, later: float) -> None:
    sooner, later = sorted((sooner, later))
    for a, b in zip(one.aged(NOW + sooner).points, one.aged(NOW + later).points, strict=True):
        assert b.low <= a.low * (1 + 1e-9) and b.high >= a.high * (1 - 1e-9)
        assert b.bytes == a.bytes


def test_an_hour_and_a_day_widen_a_point_by_the_drift_of_a_load() -> None:
    sharp = profile(CurvePoint(1.0, 100.0, 100.0, 100.0, 1, NOW))
    for hours, drift in ((1, 0.05), (24, 0.05 * 24**0.5), (10_000, 0.5)):
        down, up = log_deviations(sharp.aged(NOW + 3600 * hours).points[0])
        assert down == pytest.approx(drift) and up == pytest.approx(drift)


def test_a_point_that_nobody_dated_does_not_age() -> None:
    undated = profile(point(1.0, 100.0, at=0.0))
    assert undated.aged(NOW) == undated


def test_a_window_of_a_throttled_guest_is_a_shorter_one_of_the_free_guest() -> None:
    free = profile(point(1.0, 10 * MIB), source="rehearsal")
    throttled = profile(point(20.0, 60 * MIB), source="run", throttle=50)
    assert [one.seconds for one in merge([throttled, free], NOW).points] == [1.0, 10.0]


def test_less_trusted_points_only_fill_in_windows_of_their_own() -> None:
    rehearsal = profile(point(1.0, 10.0 * MIB), source="rehearsal")
    sampled = profile(point(1.2, 99.0 * MIB), point(8.0, 30.0 * MIB), source="calc-dirty-rate")
    merged = merge([sampled, rehearsal], NOW)
    assert [one.bytes for one in merged.points] == [10.0 * MIB, 30.0 * MIB]
    assert merged.source == "rehearsal"


def test_what_only_a_less_trusted_source_measured_is_kept() -> None:
    rehearsal = profile(point(1.0, 10.0), source="rehearsal", compress={"zstd-1": 2.0})
    run = profile(
        point(1.0, 9.0), source="run", overlap=0.3, compress={"zstd-1": 9.0, "zstd-3": 3.0}
    )
    merged = merge([run, rehearsal], NOW)
    assert merged.overlap == 0.3
    assert merged.compress == {"zstd-1": 2.0, "zstd-3": 3.0}


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([], NOW)


@given(st.lists(st.tuples(st.floats(0.1, 50), st.floats(1e3, 1e9)), min_size=1, max_size=6))
def test_beyond_its_windows_the_curve_goes_on_to_rise(windows: list[tuple[float, float]]) -> None:
    curve = extended(windows)
    sizes = [curve(0.01 * 1.3**i) for i in range(50)]
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(sizes))


@given(profiles())
def test_the_file_holds_all_of_it(one: DirtyProfile) -> None:
    text = json.dumps(one.to_json())
    assert DirtyProfile.parse(text, "curve.json") == one
    assert json.loads(text)["format"] == 1


def test_the_least_that_a_file_needs() -> None:
    text = """{"points": [{"seconds": 1, "bytes": 1048576}], "ram_bytes": 1073741824,
               "zero_pages": 10, "non_zero_bytes": 1000000000}"""
    found = DirtyProfile.parse(text, "curve.json")
    assert found.source == "assumed" and found.page_size == 4096
    assert found.points == (CurvePoint(1.0, MIB, MIB, MIB),)


BASE = profile(point(1.0, MIB, at=0.0)).to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "'format' is not known: this vmferry reads format 1; it is 2"),
        ({"points": 3}, "'points' must be a list"),
        ({"points": [7]}, r"points\[0\] must be a JSON object, not 7"),
        ({"points": [{"bytes": 1}]}, r"points\[0\]: 'seconds' is missing"),
        ({"points": [{"seconds": 0, "bytes": 1}]}, "'seconds' must be more than 0 seconds"),
        (
            {"points": [{"seconds": 1, "bytes": -1}]},
            "'bytes' must be a number of bytes, from 0 to 1 EiB",
        ),
        ({"points": [{"seconds": 1, "bytes": True}]}, "'bytes' must be a number"),
        ({"points": [{"seconds": 1, "bytes": 5, "low": 6}]}, "'low' must be .* from 0 to 'bytes'"),
        ({"points": [{"seconds": 1, "bytes": 5, "high": 4}]}, "'high' must be at least 'bytes'"),
        (
            {"ram_bytes": 0},
            "'ram_bytes' must be the size of the memory in bytes, at most 1 EiB; it is 0",
        ),
        ({"ram_bytes": None}, "'ram_bytes' must be"),
        ({"non_zero_bytes": 2 * GIB}, "'non_zero_bytes' must be .* at most ram_bytes"),
        ({"throttle": 100}, "'throttle' must be per cent, from 0 to 99"),
        ({"overlap": 1.5}, "'overlap' must be a share from 0 to 1"),
        ({"compress": {"zstd-1": 0}}, "compress: 'zstd-1' must be a ratio from 0.01 to 10000"),
        ({"compress": []}, r"compress must be a JSON object, not \[\]"),
        ({"xbzrle_ratio": "2"}, "'xbzrle_ratio' must be a ratio from 0.01 to 10000"),
        ({"source": "guess"}, "'source' must be one of rehearsal, run"),
        (
            {"zero_pages": 1.5},
            "'zero_pages' must be a number of pages, no more than the memory has; it is 1.5",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        DirtyProfile.parse(json.dumps({**BASE, **change}), "curve.json")
    assert caught.value.message.startswith("curve.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "curve.json, line 1: this is not JSON"),
        ("[]", r"curve.json must be a JSON object, not \[\]"),
        ('{"ram_bytes": NaN}', "curve.json: NaN is not a number in JSON"),
        ("[" * 100_000, "curve.json: this is nested too deeply"),
        ("1" * 5000, "curve.json"),
    ],
)
def test_a_file_that_is_no_curve(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DirtyProfile.parse(text, "curve.json")


def test_a_guest_that_writes_nothing_has_a_curve() -> None:
    idle = profile(replace(point(1.0, 0.0), low=0.0, high=0.0))
    assert idle.curve(5.0) == 0.0
