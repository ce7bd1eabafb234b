"""Quantities: what is read, what is written, what is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.units import (
    UnitError,
    format_duration,
    format_share,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4096", 4096),
        ("1G", 1024**3),
        ("1GiB", 1024**3),
        ("1GB", 10**9),
        ("1.5 MiB", 3 * 2**19),
        ("64k", 65536),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    ("text", "rate"),
    [("32MiB/s", 32 * 2**20), ("1Gbit/s", 125_000_000), ("32M", 32 * 2**20), ("8 kbit/s", 1000)],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["1Gb/s", "100Mb/s", "100mb/s", "1Gb"])
def test_a_rate_that_may_be_bits_or_bytes_is_refused(text: str) -> None:
    with pytest.raises(UnitError, match="bits or bytes"):
        parse_rate(text)
    assert parse_rate(text.replace("b", "B")) > 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("300ms", 0.3), ("10", 10.0), ("2min", 120.0), ("1h", 3600.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "1e3",
        "nan",
        "inf",
        "1 parsec",
        "1GiB/s/s",
        "٣MiB",
        "1,5G",
        "G",
        "0x10",
        "9" * 400,
    ],
)
@pytest.mark.parametrize("parse", [parse_size, parse_rate, parse_duration])
def test_what_is_no_quantity_is_named(text: str, parse: object) -> None:
    assert callable(parse)
    with pytest.raises(UnitError) as caught:
        parse(text)
    assert f"'{text}'" in str(caught.value)


@given(st.text())
def test_no_text_raises_anything_but_a_unit_error(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration):
        with contextlib.suppress(UnitError):
            assert parse(text) >= 0


@given(st.integers(min_value=0, max_value=2**60))
def test_a_written_size_is_read_back_to_three_digits(count: int) -> None:
    assert parse_size(format_size(count)) == pytest.approx(count, rel=0.006)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.3, "300 ms"), (12.34, "12.3 s"), (245, "4 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations_as_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.004, "less than 1 %"),
        (0.005, "less than 1 %"),
        (0.006, "1 %"),
        (0.714, "71 %"),
    ],
)
def test_a_small_share_is_not_called_none(share: float, text: str) -> None:
    assert format_share(share) == text
