"""The falling trend of what the syncs find dirty."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmferry.precopy.trend import TREND_PASSES, falls, settled_at, still_falls

# Of a real writer with hot pages, below the bandwidth that it needs (bench/edge.py).
TENTHS_OF_MIB = (
    "311 189 152 111 120 88 82 89 91 89 71 76 83 92 100 72 86 94 "
    "72 92 95 91 80 70 95 103 87 93 92 90 84 70 75 81 73 72"
)
HOT_AND_COLD = [float(word) for word in TENTHS_OF_MIB.split(" ")]


@given(st.lists(st.floats(1, 1e12), max_size=TREND_PASSES))
def test_few_passes_do_not_tell(dirty: list[float]) -> None:
    assert falls(dirty)


@given(st.floats(1, 1e12), st.floats(0.5, 0.97), st.integers(TREND_PASSES + 1, 60))
def test_a_steady_fall_is_one(first: float, factor: float, count: int) -> None:
    assert falls([first * factor**n for n in range(count)])


@given(st.lists(st.floats(0.95, 1.05), min_size=TREND_PASSES + 1, max_size=60))
def test_passes_that_wander_about_a_level_do_not_fall(dirty: list[float]) -> None:
    assert not falls(dirty)


def test_hot_pages_make_it_wander_by_a_third() -> None:
    told = [falls(HOT_AND_COLD[:count]) for count in range(19, len(HOT_AND_COLD) + 1)]
    assert not any(told)


def test_the_end_of_a_busy_phase_is_a_fall() -> None:
    """Though the passes were lower before it began."""
    calm, fall = [12.0] * 9, [90.0, 80.0, 70.0, 60.0, 50.0, 40.0, 30.0, 20.0]
    assert not falls(calm)
    assert falls(calm + fall)


@given(st.lists(st.floats(1, 1e12), min_size=1, max_size=30), st.floats(0, 1e12))
def test_what_passes_prove_is_not_still_falling(dirty: list[float], threshold: float) -> None:
    if settled_at(dirty, threshold) is not None:
        assert not still_falls(dirty)
        assert min(dirty[-TREND_PASSES:]) > threshold


def test_two_syncs_without_a_new_low_are_asked_for() -> None:
    assert still_falls([100.0])
    assert still_falls([100.0, 80.0])
    assert not still_falls([100.0, 95.0])
    assert still_falls([100.0, 80.0, 79.0])
    assert not still_falls([100.0, 80.0, 79.0, 78.0])
    assert still_falls([100.0, 80.0, 79.0, 78.0, 60.0])
