"""The advice lines: what each optimisation is worth, and silence where it is worth nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmferry.precopy.advice import advise, compression_cut, xbzrle_cut
from vmferry.precopy.xray import Compression, Delta, HeatMap, Row, XRayResult
from vmferry.units import MIB

PAGE = 4096
RECORD = PAGE + 8


def row(n: int, *, ordinary: int = 0, zero: int = 0, resent: int = 0, same: int = 0) -> Row:
    return Row(
        n=n,
        zero=zero,
        ordinary=ordinary,
        first=ordinary + zero - resent,
        resent=resent,
        resent_ordinary=resent,
        compared=resent,
        same=same,
        bytes=ordinary * RECORD + zero * 9,
        resent_bytes=resent * RECORD,
    )


PLAIN = XRayResult(
    by="pass",
    page_size=PAGE,
    ram_bytes=256 * MIB,
    memory_bytes=10 * MIB,
    rows=(row(1, ordinary=10_000), row(2, ordinary=1000, resent=1000)),
    repeats=(),
    distinct_resent=1000,
    hot=(),
    heat=HeatMap(),
    compress=(),
    delta=None,
    sampled_share=1.0,
)
DELTA = Delta(ratio=0.1, overflow=0.0, unchanged=0.0, sampled=500, usable=0.8, usable_ratio=0.1)
ZSTD = Compression(
    level=1,
    ratio=2.0,
    first_ratio=2.0,
    again_ratio=None,
    cpu_seconds_per_gib=1.2,
    sampled=1000,
)


def test_nothing_is_said_where_there_is_no_worth() -> None:
    useless = replace(DELTA, ratio=1.0, overflow=1.0, usable_ratio=1.0)
    dense = replace(ZSTD, ratio=1.0, first_ratio=1.0)
    assert advise(replace(PLAIN, delta=useless, compress=(dense,))) == []


def test_nothing_is_said_of_a_handful_of_samples() -> None:
    few = replace(PLAIN, delta=replace(DELTA, sampled=7), compress=(replace(ZSTD, sampled=7),))
    assert advise(few) == []


def test_xbzrle_counts_from_the_third_time_on() -> None:
    """90 % off four fifths of the pages: the second sends are not deltas, whatever they hold."""
    cut = xbzrle_cut(replace(PLAIN, delta=DELTA))
    assert cut is not None
    assert cut == pytest.approx(0.8 * (1 - (0.1 * PAGE + 11) / RECORD), abs=0.001)
    (line,) = advise(replace(PLAIN, delta=DELTA))
    assert line.startswith("XBZRLE would cut the bytes sent again by 72 %, and by up to 90 % in a")
    assert "500 pages sampled, deltas of 10 % of a page" in line


def test_xbzrle_spares_unchanged_pages_whole() -> None:
    same = replace(DELTA, ratio=0.0, unchanged=1.0, usable=1.0, usable_ratio=0.0)
    assert xbzrle_cut(replace(PLAIN, delta=same)) == 1.0


def test_the_cache_is_named_where_the_default_is_too_small() -> None:
    many = replace(PLAIN, delta=DELTA, distinct_resent=17_000)
    assert any("it takes a cache of 128 MiB" in line for line in advise(many))
    assert not any("cache" in line for line in advise(replace(many, distinct_resent=16_384)))


def test_zstd_is_told_with_its_cores() -> None:
    (line,) = advise(replace(PLAIN, compress=(ZSTD,)))
    assert line.startswith("zstd-1 would cut pass 1 by 50 % and needs 1.2 cores at 1.00 GiB/s")
    assert "1,000 pages compressed on a core of this machine" in line


def test_zstd_does_nothing_to_zero_pages() -> None:
    """Ten thousand pages of content and as many zero ones: the nine bytes of these stay."""
    half = replace(PLAIN, rows=(row(1, ordinary=100, zero=90_000),), compress=(ZSTD,))
    cut = compression_cut(half, 1)
    assert cut == pytest.approx(0.5 * 100 * RECORD / (100 * RECORD + 90_000 * 9))


def test_a_higher_level_must_be_worth_it() -> None:
    def level_3(ratio: float) -> XRayResult:
        three = replace(ZSTD, level=3, first_ratio=ratio, cpu_seconds_per_gib=3.0)
        return replace(PLAIN, compress=(ZSTD, three))

    assert [line[:6] for line in advise(level_3(2.05))] == ["zstd-1"]
    assert [line[:6] for line in advise(level_3(3.0))] == ["zstd-1", "zstd-3"]


def test_unchanged_pages_are_told() -> None:
    rows = (row(1, ordinary=1000), row(2, ordinary=1000, resent=1000, same=140))
    (line,) = advise(replace(PLAIN, rows=rows))
    assert line.startswith("14 % of the pages with content that were sent again had not changed")


def test_zero_pages_are_told() -> None:
    (line,) = advise(replace(PLAIN, rows=(row(1, ordinary=1000, zero=3000),)))
    assert line.startswith("zero pages: 75 % of the pages sent (3,000) were zero")
    assert "11.7 MiB" in line


def test_a_sweep_is_called_one() -> None:
    (line,) = advise(replace(PLAIN, by="sweep", compress=(ZSTD,)))
    assert "cut sweep 1 by" in line


def test_a_stream_with_xbzrle_is_told_what_it_took() -> None:
    used = replace(
        PLAIN,
        rows=(row(1, ordinary=1000), Row(n=2, xbzrle=100, resent=100)),
        xbzrle_bytes=100 * PAGE // 4,
        delta=None,
    )
    assert advise(used) == ["XBZRLE is on: its 100 pages took 25 % of a page each on the average"]
