"""Guest memory cut into cells: where pages are sent again, and the heat map over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmferry.precopy.xray import HeatMap, HotRegion, Region

MOST_COLUMNS = 64
# Cells of the heat map and of the search for hot regions, for all of RAM; a power of two cuts it,
# and each block begins a cell of its own, so that there are 64 to a few more than 128.
MAP_CELLS, FINE_CELLS = 128, 4096
MOST_REGIONS = 8
# Of all bytes sent again; the first region is named in any case.
_LEAST_SHARE = 0.03
# The cells that are as hot or hotter hold so much of all bytes that are sent again.
_HOTTEST = 1 / 10
# A region is hot where its cells are at least so hot as this part of those...
_HOT = 1 / 2
# ...and goes on while they are at least so hot, so that noise does not cut it to pieces.
_WARM = 1 / 4


def cell_pages(ram_bytes: int, page_size: int, cells: int) -> int:
    """Pages in a cell, a power of two."""
    return 1 << max(0, -(-ram_bytes // (page_size * cells)) - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Resent:
    """Bytes sent again by cell of one block; `cell` is the cell's size in bytes."""

    block: str
    size: int
    cell: int
    bytes: NDArray[np.int64]


def hot_regions(resent: Sequence[Resent]) -> tuple[HotRegion, ...]:
    """The hottest regions, those with the most bytes first.

    Their heat is judged by that of the hottest cells, a tenth of all bytes sent again.
    """
    everything = np.concatenate([one.bytes for one in resent] or [np.empty(0, np.int64)])
    total = int(everything.sum())
    if not total:
        return ()
    falling = np.sort(everything)[::-1]
    hottest = int(falling[np.searchsorted(np.cumsum(falling), total * _HOTTEST)])
    found = [region for one in resent for region in _hot_in(one, hottest, total)]
    found.sort(key=lambda region: -region.resent_bytes)
    named = [region for region in found[1:MOST_REGIONS] if region.share >= _LEAST_SHARE]
    return (*found[:1], *named)


def _hot_in(resent: Resent, hottest: int, total: int) -> list[HotRegion]:
    warm = np.concatenate([[False], resent.bytes >= hottest * _WARM, [False]])
    edges = np.flatnonzero(warm[1:] != warm[:-1])
    found = []
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        cells = resent.bytes[first:end]
        if cells.max() < hottest * _HOT:
            continue
        found.append(
            HotRegion(
                block=resent.block,
                start=first * resent.cell,
                end=min(end * resent.cell, resent.size),
                resent_bytes=int(cells.sum()),
                share=int(cells.sum()) / total,
            )
        )
    return found


class Heat:
    """Counts sends by cell and row; when there are too many rows, two make one."""

    def __init__(self) -> None:
        self.per_column = 1
        self._columns: list[NDArray[np.int64]] = []

    def copy(self) -> Heat:
        other = Heat()
        other.per_column = self.per_column
        other._columns = [column.copy() for column in self._columns]
        return other

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(column.nbytes for column in self._columns)

    def add(self, row: int, first_cell: int, cells: NDArray[np.int32]) -> None:
        """Count one send in each of `cells` of a block whose cells begin at `first_cell`."""
        while row // self.per_column >= MOST_COLUMNS:
            self._halve()
        place = row // self.per_column
        while len(self._columns) <= place:
            self._columns.append(np.zeros(0, np.int64))
        counts = np.bincount(cells)
        end = first_cell + len(counts)
        if len(self._columns[place]) < end:
            self._columns[place] = _longer(self._columns[place], end)
        self._columns[place][first_cell:end] += counts

    def result(self, regions: Sequence[Region]) -> HeatMap:
        """The map; `regions` are the cells in their order."""
        columns = [_longer(column, len(regions)).tolist() for column in self._columns]
        sends = tuple(zip(*columns, strict=True)) if columns else ()
        return HeatMap(tuple(regions), self.per_column, sends)

    def _halve(self) -> None:
        size = max((len(column) for column in self._columns), default=0)
        columns = [_longer(column, size) for column in self._columns]
        if len(columns) % 2:
            columns.append(np.zeros(size, np.int64))
        self._columns = [a + b for a, b in zip(columns[::2], columns[1::2], strict=True)]
        self.per_column *= 2


def _longer(counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    return np.pad(counts, (0, size - len(counts)))
