"""The smallest changes that converge: roots of the forecast's map, true in the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pure.simulated_trace import completes, record, writer
from vmferry.precopy.case import Case, Link, Setting
from vmferry.precopy.case_of import case_of
from vmferry.precopy.evidence import evidence_of
from vmferry.precopy.forecast import Remedy, converges_with, p_converge
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.remedies import ENOUGH, MARGIN, describe_remedies, remedies_of
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB


def case(rate: float, working_set: float, bandwidth: float, limit_ms: int = 300) -> Case:
    """MiB, MiB/s: a guest that rewrites so much, over a link ten times as fast as the cap."""
    points = tuple(
        CurvePoint(t, size := min(rate * t, working_set) * MIB, size * 0.95, size * 1.05)
        for t in (0.1, 0.4, 1.6, 6.4)
    )
    profile = DirtyProfile(
        points,
        ram_bytes=round(4 * working_set * MIB),
        zero_pages=0,
        non_zero_bytes=round(2 * working_set * MIB),
        working_set=working_set * MIB,
        source="run",
    )
    link = Quantiles.exact(10 * bandwidth * MIB)
    return Case(profile, Setting(round(bandwidth * MIB), limit_ms), Link(link, link))


def by_change(remedies: tuple[Remedy, ...]) -> Mapping[str, Remedy]:
    return {remedy.change: remedy for remedy in remedies}


BUSY = case(rate=60, working_set=200, bandwidth=40)


def test_what_converges_needs_no_remedy() -> None:
    assert remedies_of(case(rate=5, working_set=50, bandwidth=40)) == ()


def test_every_kind_is_proposed_with_its_forecast() -> None:
    remedies = remedies_of(BUSY)
    assert [remedy.change for remedy in remedies] == [
        "bandwidth",
        "downtime",
        "throttle",
        "post-copy",
    ]
    for remedy in remedies:
        assert remedy.forecast.p_converge >= ENOUGH
        assert remedy.forecast.total_ms is not None


@settings(max_examples=25, deadline=None)
@given(
    rate=st.floats(30, 120),
    share=st.floats(0.3, 0.9),
    seconds=st.floats(1.0, 8.0),
    limit_ms=st.integers(50, 1000),
)
def test_a_remedy_is_a_root_to_a_few_per_cent(
    rate: float, share: float, seconds: float, limit_ms: int
) -> None:
    busy = case(rate, rate * seconds, rate * share, limit_ms)
    found = by_change(remedies_of(busy))
    if "bandwidth" in found:
        before = float(found["bandwidth"].before)
        after = float(found["bandwidth"].after) / MARGIN
        fast = Link(Quantiles.exact(2 * after), Quantiles.exact(2 * after))
        faster = replace(busy, link=fast)
        assert after > before
        assert converges_with(faster, replace(busy.setting, bandwidth=round(after))) >= ENOUGH
        less = max(0.97 * after, before)
        assert converges_with(faster, replace(busy.setting, bandwidth=round(less))) < ENOUGH
    if "throttle" in found:
        value = float(found["throttle"].after)
        assert converges_with(busy, replace(busy.setting, throttle=value)) >= ENOUGH
        less = max(value - 2, 0.0)
        assert converges_with(busy, replace(busy.setting, throttle=less)) < ENOUGH


def test_compression_is_proposed_only_where_it_was_measured_and_helps() -> None:
    def with_ratios(**ratios: float) -> Case:
        return replace(BUSY, profile=replace(BUSY.profile, compress=ratios))

    assert "compression" not in by_change(remedies_of(with_ratios(fast=1.05)))
    found = by_change(remedies_of(with_ratios(good=8.0, best=9.0, poor=1.05)))
    assert found["compression"].after == "good"
    xbzrle = replace(BUSY, profile=replace(BUSY.profile, xbzrle_ratio=10.0))
    assert by_change(remedies_of(xbzrle))["compression"].after == "xbzrle"


def test_what_hovered_did_not_converge_whatever_the_map_says() -> None:
    calm = case(rate=30, working_set=200, bandwidth=40)
    assert remedies_of(calm) == ()
    found = by_change(remedies_of(calm, hovered_at=20 * MIB))
    assert float(found["bandwidth"].after) > calm.setting.bandwidth
    assert float(found["downtime"].after) > calm.setting.downtime_limit_ms


def test_a_threshold_at_which_it_hovered_is_enough() -> None:
    hovered_at = 1.5 * 40 * MIB * 0.3
    limit = float(by_change(remedies_of(BUSY, hovered_at))["downtime"].after)
    assert limit <= 1.1 * 1.5 * 300 * 1.01


def test_where_no_cap_holds_it_the_link_has_to_be_faster() -> None:
    speed = Quantiles.exact(40 * MIB)
    slow = replace(BUSY, setting=Setting(0, 300), link=Link(speed, speed))
    remedies = remedies_of(slow)
    needed = float(by_change(remedies)["bandwidth"].after)
    assert needed > 40 * MIB
    assert p_converge([replace(slow, link=Link(Quantiles.exact(needed), speed))])[0] >= ENOUGH
    assert "a link, and ends, that carry" in describe_remedies(slow, remedies)[1]


def test_a_cap_that_does_not_hold_it_is_not_proposed_as_a_change() -> None:
    speed = Quantiles.exact(40 * MIB)
    slow = replace(BUSY, link=Link(speed, speed))
    for cap in (50, 1000):
        below = replace(slow, setting=Setting(cap * MIB, 300))
        words = describe_remedies(below, remedies_of(below))[1]
        assert "a link, and ends, that carry" in words
        assert ("cap no lower than that instead of 50.0 MiB/s" in words) is (cap == 50)


def test_a_cap_that_the_link_does_not_carry_is_not_enough_alone() -> None:
    speed = Quantiles.exact(45 * MIB)
    narrow = replace(BUSY, link=Link(speed, speed))
    words = describe_remedies(narrow, remedies_of(narrow))[1]
    assert "they are thought to carry 45.0 MiB/s at most" in words
    assert "at most" not in describe_remedies(BUSY, remedies_of(BUSY))[1]


LOADS = {
    "uniform": (writer(32, 64), 35.0),
    "hot": (writer(32, 64, hot_writes=90, hot_pages=25), 21.0),
    "large": (writer(64, 96), 55.0),
}


@pytest.mark.parametrize("name", LOADS)
def test_applied_in_the_simulator_a_remedy_is_true(name: str) -> None:
    load, cap = LOADS[name]
    evidence = evidence_of(record(load, 15.0, cap=cap))
    assert evidence.status == "active"
    assert evidence.hover is not None
    found = by_change(remedies_of(case_of(evidence.trace), evidence.hover.dirty))
    assert completes(load, float(found["bandwidth"].after) / MIB, 300, 60.0)
    assert completes(load, cap, float(found["downtime"].after), 60.0)
    _does_not_with_half_the_change(load, cap, found)


def _does_not_with_half_the_change(
    load: PageWriterSettings, cap: float, found: Mapping[str, Remedy]
) -> None:
    """The simulator's own edge lies in between: the change is not far more than is needed."""
    half = (cap + float(found["bandwidth"].after) / MIB) / 2
    assert not completes(load, half * 0.85, 300, 15.0)
    assert not completes(load, cap, 300 + (float(found["downtime"].after) - 300) / 3, 15.0)
