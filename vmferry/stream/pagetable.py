"""What an X-ray knows of every page of one RAM block: 21 bytes a page."""

from __future__ import annotations

import numpy as np

from vmferry.errors import UsageError
from vmferry.precopy.xray import Region
from vmferry.stream.items import Block
from vmferry.stream.regions import FINE_CELLS, MAP_CELLS, Resent, cell_pages


class PageTable:
    """Arrays by page. `sends` counts them, `sweep` is the last one that had the page.

    `hashes` are of contents, each of the send `hashed_send`; these two belong to the analysis.
    `first_page` and `first_cell` count over all blocks. Raises UsageError: the block is too large.
    """

    def __init__(self, block: Block, ram_bytes: int, first_page: int, first_cell: int) -> None:
        pages = -(-block.size // block.page_size)
        self.block = block
        self.first_page = first_page
        self.first_cell = first_cell
        self.map_shift = cell_pages(ram_bytes, block.page_size, MAP_CELLS).bit_length() - 1
        self.fine_shift = cell_pages(ram_bytes, block.page_size, FINE_CELLS).bit_length() - 1
        try:
            # Fresh zeros take no memory until they are written.
            self.sends = np.zeros(pages, np.uint32)
            self.sweep = np.zeros(pages, np.uint32)
            self.is_zero = np.zeros(pages, bool)
            self.hashes = np.zeros(pages, np.uint64)
            self.hashed_send = np.zeros(pages, np.uint32)
            self.resent_bytes = np.zeros(-(-pages >> self.fine_shift), np.int64)
        except (MemoryError, ValueError):
            raise UsageError(
                f"RAM block '{block.name}' of {block.size} bytes is too large to be looked into"
                " on this machine"
            ) from None

    def __len__(self) -> int:
        return len(self.sends)

    def regions(self) -> list[Region]:
        """The cells of the heat map."""
        size, step = self.block.size, self.block.page_size << self.map_shift
        return [
            Region(self.block.name, start, min(start + step, size))
            for start in range(0, size, step)
        ]

    def resent(self) -> Resent:
        """The bytes sent again, by fine cell."""
        cell = self.block.page_size << self.fine_shift
        return Resent(self.block.name, self.block.size, cell, self.resent_bytes)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        arrays = (self.sends, self.sweep, self.is_zero, self.hashes, self.hashed_send)
        return sum(array.nbytes for array in (*arrays, self.resent_bytes))
