"""No input that a file may hold makes a forecast fail, overflow or fall out of order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vmferry.precopy.case import Case, Host, Link, Setting, Standing
from vmferry.precopy.forecast import forecast_many
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.quantiles import Quantiles

sizes = st.just(0.0) | st.floats(1e-3, 1e15)
shares = st.floats(0.0, 1.0)
speeds = st.lists(st.floats(1.0, 1e13), min_size=3, max_size=3).map(lambda q: Quantiles(*sorted(q)))


@st.composite
def points(draw: st.DrawFn) -> CurvePoint:
    size = draw(sizes)
    return CurvePoint(
        seconds=draw(st.floats(1e-6, 1e8)),
        bytes=size,
        low=size * draw(shares),
        high=size * draw(st.floats(1.0, 1e6)),
        n=draw(st.integers(0, 9)),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    ram = draw(st.integers(1, 10**14))
    profile = DirtyProfile(
        points=tuple(draw(st.lists(points(), max_size=6))),
        ram_bytes=ram,
        zero_pages=draw(st.integers(0, 10**9)),
        non_zero_bytes=draw(st.integers(0, ram)),
        page_size=draw(st.sampled_from((512, 4096, 65536))),
        throttle=draw(st.integers(0, 99)),
        overlap=draw(st.none() | shares),
        compress={"zstd-1": draw(st.floats(0.01, 1e4))},
        xbzrle_ratio=draw(st.floats(0.01, 1e4)),
        working_set=draw(sizes),
        zero_share=draw(shares),
        zero_end=draw(st.integers(0, ram)),
    )
    setting = Setting(
        bandwidth=draw(st.just(0) | st.integers(1, 10**13)),
        downtime_limit_ms=draw(st.sampled_from((1, 300, 2_000_000))),
        throttle=draw(st.sampled_from((0.0, 50.5, 99.0))),
        compress=draw(st.sampled_from(("", "zstd-1"))),
        xbzrle=draw(st.booleans()),
        post_copy=draw(st.booleans()),
        auto_converge=draw(st.booleans()),
    )
    standing = st.builds(
        Standing,
        t=st.floats(0, 1e5),
        number=st.integers(1, 9),
        remaining=st.floats(0, ram),
        sent=st.floats(0, 1e12),
        pass_elapsed=st.floats(0, 1e4),
    )
    host = Host(zero_pages_per_second=draw(st.floats(1.0, 1e12)))
    link = Link(draw(speeds), draw(speeds))
    return Case(profile, setting, link, host, draw(st.none() | standing))


@given(st.lists(cases(), min_size=1, max_size=3))
@settings(max_examples=150)
def test_every_case_has_a_forecast_in_order(several: list[Case]) -> None:
    with np.errstate(all="raise", under="ignore"):
        found = forecast_many(several)
    for case, one in zip(several, found, strict=True):
        assert 0.0 <= one.p_converge <= 1.0
        for quantity in (one.total_ms, one.downtime_ms, one.bytes, one.passes):
            if quantity is not None:
                assert 0 <= quantity.p10 <= quantity.p50 <= quantity.p90 < 1e100
        if case.setting.post_copy:
            assert one.verdict == "converges"
        behind = case.standing.t if case.standing is not None else 0.0
        assert one.total_ms is None or one.total_ms.p10 >= behind * 1000 - 1e-6
