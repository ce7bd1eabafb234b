"""Guest memory as pre-copy sees it: which pages are zero, which are dirty, what comes next.

Two bitmaps, as in QEMU: the log of pages written since the last sync, and the migration's own
bitmap of pages still to be sent, which only a sync can add to. So the order of sending is known
at a sync: dirty pages by address from where the last pass stopped, and around.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pages = NDArray[np.int64]
Flags = NDArray[np.bool_]

PAGE_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Layout:
    """What is where in the guest's RAM, in pages, from the lowest address up.

    Static pages, the writer's working set, its cold pages, zero pages, and at the top static pages
    with `top_zero` zero pages strewn among them.
    """

    pages: int
    low: int
    working_set: int
    cold: int
    top: int
    top_zero: int

    def __post_init__(self) -> None:
        if self._zero_gap.start > self._zero_gap.stop or self.top_zero > self.top:
            raise ValueError("static pages, working set and cold pages do not fit into the RAM")

    @property
    def _zero_gap(self) -> slice:
        return slice(self.low + self.working_set + self.cold, self.pages - self.top)

    def zero(self) -> Flags:
        """Which pages are zero."""
        zero: Flags = np.zeros(self.pages, dtype=np.bool_)
        zero[self._zero_gap] = True
        strewn = np.arange(self.top_zero) * self.top // max(self.top_zero, 1)
        zero[self.pages - self.top + strewn] = True
        return zero

    def working_set_pages(self) -> Pages:
        """The page numbers of the working set, in the writer's own order."""
        return np.arange(self.low, self.low + self.working_set)

    def static_pages(self) -> Pages:
        """The page numbers of what the writer does not own and is not zero."""
        owned = slice(self.low, self.low + self.working_set + self.cold)
        static = ~self.zero()
        static[owned] = False
        return np.flatnonzero(static)


class Memory:
    """The pages of one guest and what of them is left to send."""

    def __init__(self, layout: Layout) -> None:
        self.pages = layout.pages
        self._zero: Flags = layout.zero()
        self._written: Flags = np.zeros(self.pages, dtype=np.bool_)
        self._dirty: Flags = np.ones(self.pages, dtype=np.bool_)
        self._cursor = 0
        self._order: Pages = np.arange(self.pages)
        self._sent = 0

    @property
    def dirty_pages(self) -> int:
        """Pages left to send."""
        return len(self._order) - self._sent

    @property
    def written_pages(self) -> int:
        """Unique pages written since the last sync."""
        return int(np.count_nonzero(self._written))

    def write(self, pages: Pages) -> None:
        """Log writes to these pages."""
        self._written[pages] = True
        self._zero[pages] = False

    def sync(self) -> int:
        """Move the log into the bitmap; returns the pages that are newly dirty."""
        left = self.dirty_pages
        self._dirty[self._order[: self._sent]] = False
        if self._sent:
            self._cursor = int(self._order[self._sent - 1]) + 1
        self._dirty |= self._written
        self._written[:] = False
        dirty = np.flatnonzero(self._dirty)
        first = int(np.searchsorted(dirty, self._cursor))
        self._order = np.concatenate((dirty[first:], dirty[:first]))
        self._sent = 0
        return len(self._order) - left

    def zero_ahead(self) -> Flags:
        """Which of the pages left to send are zero, in the order of sending."""
        zero: Flags = self._zero[self._order[self._sent :]]
        return zero

    def send(self, count: int) -> None:
        """The next `count` pages are sent."""
        self._sent += count
