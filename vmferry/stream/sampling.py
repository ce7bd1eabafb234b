"""Earlier versions of sampled pages: which pages are sampled, and what they held when last sent.

A page is sampled by a hash of its address, so that a sampled page is one in every pass. The share
begins at `START_SHARE` and is halved whenever the memory is full.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vmferry.stream.pagehash import mixed

# More would cost CPU time rather than tell more.
START_SHARE = 1 / 16
# A slot in Python's table: key, number and their place.
_TABLE_BYTES = 100


class Versions:
    """Holds at most `budget` bytes. Not for several threads at once."""

    def __init__(self, page_size: int, budget: int, share: float = START_SHARE) -> None:
        self.share = share
        capacity = max(1, budget // (page_size + _TABLE_BYTES))
        # Untouched rows take no memory.
        self._rows = np.empty((capacity, page_size), np.uint8)
        self._sends = np.zeros(capacity, np.uint32)
        self._slots: dict[int, int] = {}
        self._free = list(range(capacity - 1, -1, -1))

    @property
    def nbytes(self) -> int:
        """Memory that it may hold, in bytes."""
        return self._rows.nbytes + self._sends.nbytes + _TABLE_BYTES * len(self._rows)

    def exchange(
        self, pages: NDArray[np.int64], sends: NDArray[np.uint32], data: NDArray[np.uint8]
    ) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
        """Take what `pages` hold now; returns what sampled ones held before.

        `pages` are distinct numbers over all blocks, `sends` how often each was sent by now. Given
        back: which of `pages` have an earlier version, and these versions, a row each. A version
        counts only where it is of the send before this one.
        """
        found: list[int] = []
        slots: list[int] = []
        for i in np.flatnonzero(self._sampled(pages)).tolist():
            slot = self._slots.get(int(pages[i]))
            if slot is not None and self._sends[slot] + 1 == sends[i]:
                found.append(i)
                slots.append(slot)
        before = self._rows[slots]
        for i in np.flatnonzero(self._sampled(pages)).tolist():
            self._keep(int(pages[i]), sends[i], data[i])
        return np.array(found, np.intp), before

    def _keep(self, page: int, sends: np.uint32, data: NDArray[np.uint8]) -> None:
        slot = self._slots.get(page)
        if slot is None:
            while not self._free:
                self._thin_out()
            if not self._sampled(np.array([page]))[0]:
                return
            slot = self._slots[page] = self._free.pop()
        self._rows[slot] = data
        self._sends[slot] = sends

    def _sampled(self, pages: NDArray[np.int64]) -> NDArray[np.bool_]:
        sampled: NDArray[np.bool_] = mixed(pages) >> np.uint64(32) < int(self.share * 2**32)
        return sampled

    def _thin_out(self) -> None:
        self.share /= 2
        pages = np.fromiter(self._slots, np.int64, len(self._slots))
        for page in pages[~self._sampled(pages)].tolist():
            self._free.append(self._slots.pop(page))
