"""The laws of the forecast: closed forms, monotony, and QEMU's rules where they can be told."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmferry.errors import UsageError
from vmferry.precopy.case import Case, Host, Link, Setting, Standing
from vmferry.precopy.forecast import (
    CERTAIN,
    Forecast,
    converges_with,
    forecast,
    forecast_many,
    p_converge,
)
from vmferry.precopy.forecast_words import describe
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.units import GIB, MIB

PAGE, HEADER, ZERO = 4096, 8, 9
HOST = Host(
    setup_seconds=0.0,
    sync_seconds=0.0,
    fixed_downtime_seconds=Quantiles.exact(0.02),
)


def exact(rate: float) -> Link:
    return Link(Quantiles.exact(rate), Quantiles.exact(rate))


def steady(rate: float, memory: int = GIB, **more: Any) -> DirtyProfile:
    """A guest that dirties new pages at a constant rate, without end."""
    points = tuple(
        CurvePoint(seconds, rate * seconds, rate * seconds, rate * seconds)
        for seconds in (0.01, 1.0, 100.0, 10_000.0)
    )
    values = {"ram_bytes": 64 * 1024 * GIB, "zero_pages": 0, "non_zero_bytes": memory, **more}
    return DirtyProfile(points, **values)


def rewriting(size: float, rate: float, memory: int = GIB) -> DirtyProfile:
    """A guest that rewrites a set of `size` bytes, any page as likely as the others."""
    windows = [0.02 * 2**i for i in range(13)]
    sizes = [size * -math.expm1(-rate * window / size) for window in windows]
    points = tuple(CurvePoint(t, w, w, w) for t, w in zip(windows, sizes, strict=True))
    return DirtyProfile(points, 4 * GIB, 0, memory)


def widened(profile: DirtyProfile, times: float) -> DirtyProfile:
    return replace(
        profile,
        points=tuple(
            replace(point, low=point.bytes / times, high=point.bytes * times)
            for point in profile.points
        ),
    )


@given(
    memory=st.integers(64 * MIB, 64 * GIB),
    speed=st.floats(16 * MIB, 4096 * MIB),
    share=st.floats(0.0, 0.8),
    limit_ms=st.integers(50, 3000),
    capped=st.booleans(),
)
@settings(max_examples=200)
def test_a_constant_rate_is_the_geometric_series(
    memory: int, speed: float, share: float, limit_ms: int, capped: bool
) -> None:
    # All that was sent is the memory and what was dirtied meanwhile, less what is left at the end,
    # so the passes take (memory - left) / (speed - rate), the sum of the series.
    speed = float(int(speed))
    wire = (PAGE + HEADER) / PAGE
    rate = max(share * speed / wire, 1.0)
    setting = Setting(bandwidth=int(speed) if capped else 0, downtime_limit_ms=limit_ms)
    found = forecast(steady(rate, memory), setting, exact(speed), HOST)
    assert found.verdict == "converges" and found.p_converge > 0.95
    assert found.total_ms and found.downtime_ms and found.bytes
    allowed = speed * limit_ms / 1000
    downtime = found.downtime_ms.p50 / 1000
    passes = found.total_ms.p50 / 1000 - downtime
    longest = memory / (speed / wire - rate)
    saved = allowed / (speed / wire - rate)
    assert 0.99 * longest - 1.5 * saved - 0.5 <= passes + downtime
    assert passes <= 1.01 * longest + 0.2
    assert found.bytes.p50 <= (memory + rate * (passes + 0.15)) * wire * 1.005
    assert 0.02 - 1e-9 <= downtime <= 0.02 + limit_ms / 1000 * wire


@given(share=st.floats(1.3, 50.0), limit_ms=st.integers(50, 300))
def test_new_pages_faster_than_the_speed_never_converge(share: float, limit_ms: int) -> None:
    speed = 100 * MIB
    found = forecast(steady(share * speed), Setting(0, limit_ms), exact(speed), HOST)
    assert found.verdict == "does-not-converge"
    assert found.total_ms is found.downtime_ms is found.bytes is found.passes is None


@pytest.mark.parametrize(("limit_ms", "verdict"), [(800, "converges"), (200, "does-not-converge")])
def test_what_is_left_over_is_dirtied_again(limit_ms: int, verdict: str) -> None:
    # 100 MiB rewritten at 110 MiB/s over 80 MiB/s: the threshold of 800 ms holds so much of the set
    # that little of what is dirtied is new.
    profile = rewriting(100 * MIB, 110 * MIB)
    found = forecast(profile, Setting(80 * MIB, limit_ms), exact(500 * MIB), HOST)
    assert found.verdict == verdict


def test_a_set_that_fits_into_the_threshold_converges_at_any_rate() -> None:
    profile = rewriting(20 * MIB, 10_000 * MIB)
    found = forecast(profile, Setting(100 * MIB, 300), exact(500 * MIB), HOST)
    assert found.verdict == "converges"
    assert found.downtime_ms is not None
    assert found.downtime_ms.p90 <= 1000 * (0.3 * 100 / 500 + 0.02)


def test_an_idle_guest_takes_its_memory_over_the_speed_and_the_zero_scan() -> None:
    zero_pages, scan = 4_000_000, 1.5e6
    profile = steady(1.0, memory=GIB, zero_pages=zero_pages)
    host = replace(HOST, zero_pages_per_second=scan)
    found = forecast(profile, Setting(), exact(200 * MIB), host)
    wire = GIB * (PAGE + HEADER) / PAGE
    assert found.total_ms and found.bytes
    assert found.bytes.p50 == pytest.approx(wire + zero_pages * ZERO, rel=1e-3)
    expected = wire / (200 * MIB) + zero_pages / scan
    assert found.total_ms.p50 / 1000 == pytest.approx(expected, abs=0.35)


def test_zero_pages_at_the_end_leave_nothing_over_in_pass_1() -> None:
    ends = [
        forecast(steady(1.0, zero_end=end), Setting(100 * MIB, 1000), exact(500 * MIB), HOST)
        for end in (0, GIB)
    ]
    assert ends[0].downtime_ms and ends[1].downtime_ms
    assert ends[0].downtime_ms.p50 > 150 and ends[1].downtime_ms.p50 < 25


def test_the_burst_of_the_switchover_ignores_the_cap() -> None:
    slow, fast = (
        forecast(
            steady(20 * MIB),
            Setting(64 * MIB, 300),
            Link(Quantiles.exact(640 * MIB), Quantiles.exact(burst)),
            HOST,
        )
        for burst in (640 * MIB, 6400 * MIB)
    )
    assert slow.downtime_ms and fast.downtime_ms
    # 19 MiB are allowed to be left: at most 30 ms of burst, not 300 ms.
    assert 20 < fast.downtime_ms.p50 < 24 < slow.downtime_ms.p50 < 51


curves = st.builds(
    rewriting, st.floats(1 * MIB, 800 * MIB), st.floats(1 * MIB, 2000 * MIB)
) | st.builds(steady, st.floats(1 * MIB, 500 * MIB))


@given(curves, st.integers(8, 400), st.floats(1.0, 6.0), st.integers(50, 2000))
@settings(max_examples=100)
def test_more_bandwidth_never_makes_it_less_likely(
    profile: DirtyProfile, mib: int, times: float, limit_ms: int
) -> None:
    link = exact(3000 * MIB)
    case = Case(profile, Setting(mib * MIB, limit_ms), link, HOST)
    faster = replace(case.setting, bandwidth=round(mib * MIB * times))
    # A pass lasts a whole number of QEMU's looks, so near the edge the odds move in steps.
    assert converges_with(case, faster) >= converges_with(case, case.setting) - 0.15


@given(curves, st.integers(8, 400), st.integers(30, 1000), st.floats(1.0, 6.0))
@settings(max_examples=100)
def test_a_higher_limit_never_makes_it_less_likely(
    profile: DirtyProfile, mib: int, limit_ms: int, times: float
) -> None:
    case = Case(profile, Setting(mib * MIB, limit_ms), exact(3000 * MIB), HOST)
    higher = replace(case.setting, downtime_limit_ms=round(limit_ms * times))
    assert converges_with(case, higher) >= converges_with(case, case.setting) - 0.12


@given(curves, st.integers(8, 400), st.integers(0, 80), st.integers(0, 19))
@settings(max_examples=100)
def test_more_throttle_never_makes_it_less_likely(
    profile: DirtyProfile, mib: int, throttle: int, more: int
) -> None:
    case = Case(profile, Setting(mib * MIB, throttle=throttle), exact(3000 * MIB), HOST)
    slower = replace(case.setting, throttle=float(throttle + more))
    assert converges_with(case, slower) >= converges_with(case, case.setting) - 0.12


def test_a_throttle_is_a_slower_clock() -> None:
    free = forecast(steady(60 * MIB), Setting(100 * MIB, throttle=50), exact(500 * MIB), HOST)
    half = forecast(steady(30 * MIB), Setting(100 * MIB), exact(500 * MIB), HOST)
    assert free.total_ms and half.total_ms
    assert free.total_ms.p50 == pytest.approx(half.total_ms.p50, rel=1e-6)


def test_a_curve_of_a_throttled_guest_is_of_a_slower_clock() -> None:
    held = forecast(
        steady(30 * MIB, throttle=50), Setting(100 * MIB, throttle=50), exact(500 * MIB), HOST
    )
    free = forecast(steady(30 * MIB, throttle=50), Setting(100 * MIB), exact(500 * MIB), HOST)
    twice = forecast(steady(60 * MIB), Setting(100 * MIB), exact(500 * MIB), HOST)
    assert held.total_ms and free.total_ms and twice.total_ms
    assert held.total_ms.p50 < free.total_ms.p50
    assert free.total_ms.p50 == pytest.approx(twice.total_ms.p50, rel=1e-6)


def test_auto_converge_slows_the_guest_until_it_converges() -> None:
    profile, link = steady(300 * MIB), exact(500 * MIB)
    left_alone = forecast(profile, Setting(100 * MIB), link, HOST)
    steered = forecast(profile, Setting(100 * MIB, auto_converge=True), link, HOST)
    assert left_alone.verdict == "does-not-converge"
    assert steered.verdict == "converges"
    assert "auto-converge" in steered.why


def test_post_copy_ends_the_passes_after_the_first() -> None:
    profile = steady(300 * MIB)
    found = forecast(profile, Setting(100 * MIB, post_copy=True), exact(500 * MIB), HOST)
    assert found.verdict == "converges" and found.p_converge == 1.0
    assert found.passes == Quantiles.exact(3.0)
    assert found.downtime_ms and found.downtime_ms.p90 == pytest.approx(20.0)
    assert found.bytes and found.bytes.p50 > 2 * GIB


def test_compression_sends_the_same_memory_with_fewer_bytes() -> None:
    profile = steady(30 * MIB, compress={"zstd-1": 2.0})
    plain, half = (
        forecast(profile, Setting(100 * MIB, compress=name), exact(500 * MIB), HOST)
        for name in ("", "zstd-1")
    )
    assert plain.bytes and half.bytes and plain.total_ms and half.total_ms
    assert half.bytes.p50 < 0.5 * plain.bytes.p50
    assert half.total_ms.p50 < 0.5 * plain.total_ms.p50


def test_xbzrle_saves_only_what_is_sent_again() -> None:
    profile = steady(30 * MIB, xbzrle_ratio=4.0)
    plain, delta = (
        forecast(profile, Setting(100 * MIB, xbzrle=on), exact(500 * MIB), HOST)
        for on in (False, True)
    )
    assert plain.bytes and delta.bytes
    assert GIB < delta.bytes.p50 < plain.bytes.p50


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting(compress="zstd-1"), "how well 'zstd-1' compresses"),
        (Setting(xbzrle=True), "what XBZRLE would save was not measured"),
    ],
)
def test_what_was_not_measured_cannot_be_forecast(setting: Setting, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        forecast(steady(MIB), setting, exact(500 * MIB))


def test_a_running_migration_counts_what_is_behind_it() -> None:
    profile, setting, link = steady(30 * MIB), Setting(100 * MIB), exact(500 * MIB)
    before = forecast(profile, setting, link, HOST)
    # Pass 1 is over after 10.26 s: 1 GiB was sent, and 308 MiB were dirtied.
    standing = Standing(t=10.26, number=2, remaining=308 * MIB, sent=1026 * MIB, pass_elapsed=0.0)
    during = forecast(profile, setting, link, HOST, standing)
    assert before.total_ms and during.total_ms and before.bytes and during.bytes
    assert during.total_ms.p50 == pytest.approx(before.total_ms.p50, rel=0.03)
    assert during.bytes.p50 == pytest.approx(before.bytes.p50, rel=0.03)


def test_pass_1_half_done_needs_half_of_it_more() -> None:
    zero_pages = 100_000
    profile = steady(MIB, zero_pages=zero_pages)
    sent = GIB / 2 * (PAGE + HEADER) / PAGE + zero_pages / 2 * ZERO
    standing = Standing(5.0, 1, GIB / 2 + zero_pages / 2 * PAGE, sent, 5.0)
    host = replace(HOST, zero_pages_per_second=10_000)
    found = forecast(profile, Setting(100 * MIB), exact(500 * MIB), host, standing)
    assert found.total_ms
    rest = GIB / 2 * (PAGE + HEADER) / PAGE / (100 * MIB) + zero_pages / 2 / 10_000
    assert found.total_ms.p50 / 1000 == pytest.approx(5.0 + rest, abs=0.4)


def test_wider_points_make_a_wider_forecast_and_a_less_certain_one() -> None:
    sharp = rewriting(200 * MIB, 85 * MIB)
    wide = widened(sharp, 1.5)
    one, other = (
        forecast(profile, Setting(100 * MIB), exact(500 * MIB), HOST) for profile in (sharp, wide)
    )
    assert one.total_ms and other.total_ms
    assert other.total_ms.p90 - other.total_ms.p10 > 2 * (one.total_ms.p90 - one.total_ms.p10)
    assert other.p_converge < one.p_converge


def test_a_guest_without_any_point_is_taken_for_idle() -> None:
    profile = DirtyProfile((), GIB, 0, GIB)
    assert forecast(profile, Setting(), exact(100 * MIB)).verdict == "converges"


def test_many_at_once_are_each_as_alone() -> None:
    cases = [
        Case(rewriting(size * MIB, rate * MIB), Setting(64 * MIB), exact(500 * MIB), HOST)
        for size in (10, 100)
        for rate in (1, 50, 200)
    ]
    together = forecast_many(cases)
    assert together == [forecast_many([case])[0] for case in cases]
    assert [one.p_converge for one in together] == [round(float(p), 3) for p in p_converge(cases)]
    assert forecast_many([]) == []


def test_what_falls_for_hundreds_of_passes_is_on_the_edge() -> None:
    found = forecast(steady(63.5 * MIB), Setting(64 * MIB), exact(500 * MIB), HOST)
    assert found.verdict == "uncertain" and found.total_ms is None


def test_the_same_case_has_the_same_forecast() -> None:
    case = Case(rewriting(90 * MIB, 70 * MIB), Setting(64 * MIB), exact(500 * MIB))
    assert forecast_many([case]) == forecast_many([case])


@given(curves, st.integers(8, 400), st.integers(50, 2000))
@settings(max_examples=50)
def test_every_forecast_is_in_order(profile: DirtyProfile, mib: int, limit_ms: int) -> None:
    found = forecast(profile, Setting(mib * MIB, limit_ms), exact(3000 * MIB))
    assert 0.0 <= found.p_converge <= 1.0
    assert (found.verdict == "converges") is (found.p_converge >= CERTAIN)
    known = (found.total_ms, found.downtime_ms, found.bytes, found.passes)
    assert found.verdict != "does-not-converge" or known == (None,) * 4
    for one in known:
        assert one is None or 0 <= one.p10 <= one.p50 <= one.p90 < 1e15


def test_the_record_holds_every_input_and_is_json() -> None:
    found = forecast(rewriting(50 * MIB, 20 * MIB), Setting(64 * MIB), exact(500 * MIB))
    record = json.loads(json.dumps(found.to_json()))
    assert record["format"] == 1 and record["verdict"] == "converges"
    assert record["given"]["bandwidth"] == 64 * MIB
    assert record["given"]["curve"]["points"][0]["seconds"] == 0.02
    assert set(record["total_ms"]) == {"p10", "p50", "p90"}
    assert record["remedies"] == []


def told(verdict: str, found: Forecast) -> str:
    assert found.verdict == verdict
    return "\n".join(describe(found))


def test_the_words() -> None:
    link = exact(500 * MIB)
    fine = told("converges", forecast(steady(5 * MIB), Setting(64 * MIB), link, HOST))
    assert fine.startswith("The migration converges (odds: > 99 %).")
    assert "the VM stands still for about" in fine and "cross the link" in fine
    never = told("does-not-converge", forecast(steady(200 * MIB), Setting(64 * MIB), link, HOST))
    assert "does not converge" in never and "stands still" not in never
    assert "the guest dirties" in never and "can be sent" in never
    doubtful = widened(steady(62 * MIB), 1.3)
    unsure = told("uncertain", forecast(doubtful, Setting(64 * MIB), link, HOST))
    assert "uncertain" in unsure and "If it does, it takes" in unsure
