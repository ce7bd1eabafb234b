"""Looks into ordinary pages: whether they changed since they were sent last, and by how much."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmferry.precopy.xray import Compression, Delta
from vmferry.stream.compressibility import LEVELS, Compressibility, compressors
from vmferry.stream.delta import OVERFLOW, encoded_sizes
from vmferry.stream.pagehash import PageHash
from vmferry.stream.pagetable import PageTable
from vmferry.stream.sampling import Versions
from vmferry.stream.tally import CHANGED, SAME, Piece
from vmferry.units import GIB

# QEMU's XBZRLE keeps nothing of pass 1, so that a page can be a delta from its third time on.
_FIRST_DELTA = 3


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Ordinary pages of one block, each once.

    `sends` is how often each was sent by now, `places` where they are in the piece that counted
    them.
    """

    table: PageTable
    numbers: NDArray[np.int64]
    sends: NDArray[np.uint32]
    data: NDArray[np.uint8]
    piece: Piece
    places: NDArray[np.intp]


class Contents:
    """All that is learned from contents; `look` is called in one thread, the rest in any."""

    def __init__(self, page_size: int, versions_budget: int) -> None:
        self._page_size = page_size
        self._hash = PageHash(page_size)
        self._versions = Versions(page_size, versions_budget)
        self._compressors = compressors()
        self._first = Compressibility(page_size, self._compressors)
        self._again = Compressibility(page_size, self._compressors)
        self._second_send, self._later_send = _Deltas(page_size), _Deltas(page_size)
        self._lock = threading.Lock()

    def look(self, task: Task) -> None:
        """Take a task, in the order of the stream."""
        try:
            with self._lock:
                self._compare(task)
                self._measure_deltas(task)
                self._sample(task)
        finally:
            task.piece.settled = True

    def finish(self) -> None:
        """Measure what waits for more pages to come."""
        with self._lock:
            self._first.finish()
            self._again.finish()

    def compressions(self) -> tuple[Compression, ...]:
        """One for each level; none where no page was measured."""
        with self._lock:
            both = (self._first, self._again)
            sampled = sum(one.measured for one in both)
            if not sampled:
                return ()
            plain = sum(one.plain for one in both)
            return tuple(
                Compression(
                    level=level,
                    ratio=plain / sum(one.packed[level] for one in both),
                    first_ratio=self._first.ratio(level),
                    again_ratio=self._again.ratio(level),
                    cpu_seconds_per_gib=sum(one.seconds[level] for one in both) * GIB / plain,
                    sampled=sampled // self._page_size,
                )
                for level in LEVELS
            )

    def delta(self, usable: float) -> Delta | None:
        """The deltas together; None where none was measured. `usable` as Delta has it."""
        with self._lock:
            sums = (self._second_send, self._later_send)
            pages = sum(one.pages for one in sums)
            if not pages:
                return None
            later = self._later_send
            return Delta(
                ratio=sum(one.encoded for one in sums) / (pages * self._page_size),
                overflow=sum(one.overflow for one in sums) / pages,
                unchanged=sum(one.unchanged for one in sums) / pages,
                sampled=pages,
                usable=usable,
                usable_ratio=(
                    later.encoded / (later.pages * self._page_size) if later.pages else None
                ),
            )

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        contexts = sum(one.memory_size() for one in self._compressors.values())
        packets = self._first.nbytes + self._again.nbytes
        return self._hash.nbytes + self._versions.nbytes + contexts + packets

    def _compare(self, task: Task) -> None:
        table, numbers, sends = task.table, task.numbers, task.sends
        hashes = self._hash(task.data)
        known = (sends > 1) & (table.hashed_send[numbers] == sends - 1)
        same = table.hashes[numbers[known]] == hashes[known]
        task.piece.content[task.places[known]] = np.where(same, SAME, CHANGED)
        table.hashes[numbers] = hashes
        table.hashed_send[numbers] = sends

    def _measure_deltas(self, task: Task) -> None:
        numbers = task.numbers + task.table.first_page
        found, before = self._versions.exchange(numbers, task.sends, task.data)
        if len(found):
            sizes = encoded_sizes(before, task.data[found])
            later = task.sends[found] >= _FIRST_DELTA
            self._second_send.add(sizes[~later])
            self._later_send.add(sizes[later])

    def _sample(self, task: Task) -> None:
        first = task.sends == 1
        if first.all():
            self._first.take(task.data)
        elif not first.any():
            self._again.take(task.data)
        else:
            self._first.take(task.data[first])
            self._again.take(task.data[~first])


class _Deltas:
    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self.pages = self.encoded = self.overflow = self.unchanged = 0

    def add(self, sizes: NDArray[np.int64]) -> None:
        overflow = sizes == OVERFLOW
        self.pages += len(sizes)
        self.overflow += int(np.count_nonzero(overflow))
        self.unchanged += int(np.count_nonzero(sizes == 0))
        self.encoded += int(np.where(overflow, self._page_size, sizes).sum())
