"""Where memory is hot, and that the X-ray stays within its memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.stream.items import Block, Pages
from vmferry.stream.regions import FINE_CELLS, MAP_CELLS, Resent, cell_pages, hot_regions
from vmferry.stream.xray import XRay
from vmferry.units import MIB

PAGE = 4096
CELL = 64 * 1024


def resent(*cells: int, block: str = "pc.ram") -> Resent:
    return Resent(block, len(cells) * CELL, CELL, np.array(cells, np.int64))


def test_nothing_is_hot_where_nothing_was_sent_again() -> None:
    assert hot_regions([]) == ()
    assert hot_regions([resent(0, 0, 0)]) == ()


def test_the_hot_part_of_a_working_set_is_found() -> None:
    """Cold pages are sent again too, but far less often."""
    cold, hot = [10] * 40, [100, 90, 110, 95]
    (region,) = hot_regions([resent(*cold, *hot, *cold)])
    assert (region.block, region.start, region.end) == ("pc.ram", 40 * CELL, 44 * CELL)
    assert region.resent_bytes == 395
    assert region.share == pytest.approx(395 / 1195)


def test_a_lukewarm_cell_does_not_cut_a_region() -> None:
    (region,) = hot_regions([resent(0, 100, 30, 100, 0)])
    assert (region.start, region.end) == (CELL, 4 * CELL)


def test_regions_end_with_their_block() -> None:
    first, second = hot_regions([resent(0, 50), resent(60, 0, block="vga.vram")])
    assert (first.block, first.start, first.end) == ("vga.vram", 0, CELL)
    assert (second.block, second.start, second.end) == ("pc.ram", CELL, 2 * CELL)


def test_the_last_cell_of_a_block_ends_with_it() -> None:
    (region,) = hot_regions([Resent("rom", CELL + PAGE, CELL, np.array([0, 5]))])
    assert region.end == CELL + PAGE


@given(st.integers(PAGE, 1 << 46), st.sampled_from([4096, 65536]))
def test_cells_are_as_many_as_they_may_be(ram: int, page_size: int) -> None:
    for cells in (MAP_CELLS, FINE_CELLS):
        size = cell_pages(ram, page_size, cells) * page_size
        assert -(-ram // size) <= cells
        assert size == page_size or -(-ram // (size // 2)) > cells


def test_memory_stays_within_five_per_cent() -> None:
    """All of the smallest guest that it is promised for, twice over, by numpy's allocations."""
    ram = 256 * MIB
    block = Block("pc.ram", ram, PAGE)
    data = np.random.default_rng(1).integers(0, 256, (256, PAGE), dtype=np.uint8)
    tracemalloc.start()
    try:
        found = XRay(ram, beside=False)
        for _ in range(2):
            for start in range(0, ram // PAGE, 256):
                offsets = np.arange(start, start + 256, dtype=np.int64) * PAGE
                found.see(
                    Pages(
                        block=block,
                        kind="ordinary",
                        offsets=offsets,
                        stream_bytes=256 * (PAGE + 8),
                        data=data,
                    )
                )
        found.close()
        _, traced = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    memory = found.result().memory_bytes
    assert memory <= ram * 0.05
    # zstd's memory is not numpy's, and is counted with `memory`.
    assert traced <= ram * 0.05
