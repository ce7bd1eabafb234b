"""From calc-dirty-rate's figures to the dirty curve: the errors are as large as they say."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.precopy.dirty_sampling import (
    FRACTIONS,
    WHOLE_SECONDS,
    Measurement,
    next_window,
    points_of,
    samples_for,
)
from vmferry.units import GIB, MIB


def told(seconds: float, changed: int, drawn: int, ram_bytes: int) -> int:
    """The rate that QEMU computes (migration/dirtyrate.c, update_dirtyrate)."""
    milliseconds = round(1000 * seconds)
    return changed * (ram_bytes >> 20) * 1000 // (drawn * milliseconds)


def measured(seconds: float, share: float, ram_bytes: int, chance: random.Random) -> Measurement:
    """One window in which this share of the memory changed."""
    samples = samples_for(ram_bytes)
    drawn = ram_bytes * samples // GIB
    changed = sum(chance.random() < share for _ in range(drawn))
    return Measurement(seconds, told(seconds, changed, drawn, ram_bytes), samples, 0.0)


def uniform(seconds: float, working_set: float, rate: float) -> float:
    """W of a guest that writes uniformly at random."""
    return working_set * -math.expm1(-rate * seconds / working_set)


@given(st.integers(1, 2**46))
def test_the_number_of_samples_is_one_that_qemu_takes(ram_bytes: int) -> None:
    assert 128 <= samples_for(ram_bytes) <= 16384


@given(
    st.integers(1, 64),
    st.sampled_from((*WHOLE_SECONDS, *FRACTIONS)),
    st.floats(0.0, 1.0),
)
def test_the_share_that_changed_is_within_the_band(gib: int, seconds: float, share: float) -> None:
    """Whatever QEMU cuts off its figure."""
    ram = gib * GIB
    samples = samples_for(ram)
    drawn = ram * samples // GIB
    changed = round(share * drawn)
    rate = told(seconds, changed, drawn, ram)
    (point,) = points_of([Measurement(seconds, rate, samples, 5.0)], ram)
    assert point.low - 1 <= changed / drawn * ram <= point.high + 1
    assert 0 <= point.low <= point.bytes <= point.high <= ram
    assert (point.seconds, point.n, point.at) == (seconds, 1, 5.0)


@pytest.mark.parametrize("windows", [WHOLE_SECONDS, FRACTIONS])
@pytest.mark.parametrize(
    ("ram", "working_set", "rate"),
    [
        (256 * MIB, 64 * MIB, 16 * MIB),
        (256 * MIB, 100 * MIB, 400 * MIB),
        (GIB, 300 * MIB, 40 * MIB),
    ],
)
def test_bands_hold_eight_truths_of_ten(
    windows: tuple[float, ...], ram: int, working_set: int, rate: int
) -> None:
    chance = random.Random(7)
    right = seen = 0
    for _ in range(15):
        done: list[Measurement] = []
        left = 8.0
        while (window := next_window(done, windows, ram, left)) is not None:
            left -= window
            share = uniform(window, working_set, rate) / ram
            done.append(measured(window, share, ram, chance))
        assert left >= 0
        for point in points_of(done, ram):
            seen += 1
            right += point.low <= uniform(point.seconds, working_set, rate) <= point.high
    assert right >= 0.8 * seen


def test_windows_begin_with_the_shortest_and_double() -> None:
    ram = GIB
    done: list[Measurement] = []
    chance = random.Random(1)
    for expected in (1.0, 2.0, 4.0):
        window = next_window(done, WHOLE_SECONDS, ram, 8.0)
        assert window == expected
        done.append(measured(window, 0.02 * window, ram, chance))


def test_a_curve_that_lies_flat_is_not_followed() -> None:
    """The longer windows would tell nothing, and the short ones are exact enough."""
    chance = random.Random(1)
    done = [measured(seconds, 0.5, GIB, chance) for seconds in (1.0, 2.0)]
    assert next_window(done, WHOLE_SECONDS, GIB, 60.0) is None


def test_an_idle_guest_is_measured_once() -> None:
    samples = samples_for(GIB)
    assert next_window([Measurement(1.0, 0, samples, 0.0)], WHOLE_SECONDS, GIB, 60.0) is None


def test_what_is_most_uncertain_is_measured_again() -> None:
    chance = random.Random(1)
    ram = 256 * MIB
    done = [measured(seconds, 0.01 * seconds, ram, chance) for seconds in (0.1, 0.2, 0.4, 0.8)]
    assert next_window(done, FRACTIONS, ram, 0.5) in (0.1, 0.2)


def test_nothing_is_measured_without_time() -> None:
    assert next_window([], WHOLE_SECONDS, GIB, 0.9) is None


def test_measured_again_the_band_is_narrower_unless_the_load_is_unsteady() -> None:
    ram, samples = 4 * GIB, samples_for(4 * GIB)

    def band(*rates: int) -> float:
        (point,) = points_of([Measurement(1.0, rate, samples, 0.0) for rate in rates], ram)
        return point.high - point.low

    assert band(100, 100, 100, 100) < 0.7 * band(100)
    assert band(10, 190, 10, 190) > 5 * band(100, 100, 100, 100)
