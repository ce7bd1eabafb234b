"""The X-ray: what the pages of a migration stream tell that QMP does not.

    see ──counts, by page──> Tally ──> rows by pass or sweep, heat map          exact
     └──copy in a buffer──> Analyst ──> same content, deltas, compressibility   where one was free

Counting is done at once and for every page. Contents are looked at in a thread beside the stream,
as far as it keeps up; what it has not seen it does not compare. Memory is at most 5 % of RAM, for
VMs from 256 MiB on: 21 bytes a page, the budgets below, and 5 MiB for zstd and the like.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vmferry.precopy.xray import Repeats, XRayResult
from vmferry.stream.analyst import Analyst, Buffer
from vmferry.stream.contents import Contents, Task
from vmferry.stream.items import Block, Pages
from vmferry.stream.pagetable import PageTable
from vmferry.stream.regions import hot_regions
from vmferry.stream.tally import CHANGED, ORDINARY, UNKNOWN, XBZRLE, ZERO, Piece, Tally
from vmferry.units import MIB

__all__ = ["XRay", "XRayResult"]

_KINDS = {"zero": ZERO, "ordinary": ORDINARY, "xbzrle": XBZRLE}
# Parts of RAM, and the most in any case: more samples would tell no more.
_VERSIONS = (0.0125, 64 * MIB)
_BUFFERS = (0.0075, 32 * MIB)
_PIECES = (0.005, 16 * MIB)
# The analysis beside a stream takes no more of a core: the guest needs the rest.
_CPU_SHARE = 0.25
# Pages are counted so many at a time.
_BATCH_PAGES = 1024


@dataclass(slots=True, eq=False)
class _Batch:
    """Pages of one block in rising order that have not been counted yet.

    The first `fill` ordinary ones are in `buffer`; `refused`: there was none.
    """

    table: PageTable
    numbers: list[NDArray[np.int64]] = field(default_factory=list)
    sizes: list[NDArray[np.int32]] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    pages: int = 0
    last: int = -1
    buffer: Buffer | None = None
    refused: bool = False
    fill: int = 0


class XRay:
    """Takes the pages of one stream in their order; `result` tells what was seen so far.

    `ram_bytes` is the guest's memory. With `beside` the contents are looked at in a thread, for
    which the stream never waits; without, at once: a file can wait. Not for several threads.
    """

    def __init__(self, ram_bytes: int, *, beside: bool = True) -> None:
        self._ram_bytes = max(1, ram_bytes)
        self._beside = beside
        self._tables: dict[str, PageTable] = {}
        self._pages = self._cells = 0
        self._tally = Tally(self._budget(_PIECES))
        self._batch: _Batch | None = None
        self._counted = 0
        self._sweep = 1
        self._ordinary = self._looked_at = 0
        self._resent_ordinary = self._resent_twice = 0
        self._xbzrle_bytes = 0
        self._contents: Contents | None = None
        self._analyst: Analyst[Task] | None = None

    def see(self, pages: Pages) -> None:
        """Count the pages and have their contents looked at. Raises UsageError: RAM too large."""
        table = self._tables.get(pages.block.name) or self._new_table(pages.block)
        numbers = pages.offsets >> (pages.block.page_size.bit_length() - 1)
        sizes = _wire_sizes(pages)
        if pages.sizes is not None:
            self._xbzrle_bytes += int(pages.sizes.sum())
        for start, end in _rising(numbers):
            while start < end:
                batch = self._batch_for(table, int(numbers[start]))
                until = min(end, start + _BATCH_PAGES - batch.pages)
                if pages.data is not None:
                    until = self._copy(batch, pages.data[start:until]) + start
                batch.numbers.append(numbers[start:until])
                batch.sizes.append(sizes[start:until])
                batch.kinds.append(_KINDS[pages.kind])
                batch.pages += until - start
                batch.last = int(numbers[until - 1])
                start = until
                if batch.pages == _BATCH_PAGES or _is_full(batch):
                    self._count()

    def mark_pass(self, sent_pages: int) -> None:
        """A pass began when QEMU had sent `sent_pages` pages in all; once a pass, late or early."""
        self._tally.mark(sent_pages)

    def close(self) -> None:
        """Have all that was taken looked at and end the thread; nothing more may be seen."""
        self._count()
        if self._analyst is not None and self._contents is not None:
            self._analyst.close()
            self._contents.finish()

    def result(self) -> XRayResult:
        """What was seen so far; of contents, all that was taken only after `close`."""
        self._count()
        rows, heat = self._tally.result()
        tables = list(self._tables.values())
        sends = [table.sends for table in tables]
        contents = self._contents
        usable = self._resent_twice / self._resent_ordinary if self._resent_ordinary else 0.0
        return XRayResult(
            by="pass" if self._tally.marked else "sweep",
            page_size=tables[0].block.page_size if tables else 0,
            ram_bytes=self._ram_bytes,
            memory_bytes=self._memory(),
            rows=rows,
            repeats=_repeats(sends),
            distinct_resent=sum(int(np.count_nonzero(one > 1)) for one in sends),
            hot=hot_regions([table.resent() for table in tables]),
            heat=heat.result([region for table in tables for region in table.regions()]),
            compress=contents.compressions() if contents else (),
            delta=contents.delta(usable) if contents and not self._xbzrle_bytes else None,
            sampled_share=self._looked_at / self._ordinary if self._ordinary else 1.0,
            xbzrle_bytes=self._xbzrle_bytes,
            late_marks=self._tally.late_marks,
        )

    def _budget(self, part: tuple[float, int]) -> int:
        share, most = part
        return min(int(share * self._ram_bytes), most)

    def _new_table(self, block: Block) -> PageTable:
        table = PageTable(block, self._ram_bytes, self._pages, self._cells)
        self._tables[block.name] = table
        self._pages += len(table)
        self._cells += len(table.regions())
        if self._analyst is None:
            # All blocks of a QEMU have pages of one size.
            self._contents = Contents(block.page_size, self._budget(_VERSIONS))
            self._analyst = Analyst(
                self._contents.look,
                block.page_size,
                self._budget(_BUFFERS),
                cpu_share=_CPU_SHARE,
                inline=not self._beside,
            )
        return table

    def _batch_for(self, table: PageTable, number: int) -> _Batch:
        """The batch at hand, or a new one where `number` cannot follow in it."""
        batch = self._batch
        if batch is None or batch.table is not table or number <= batch.last:
            self._count()
            batch = self._batch = _Batch(table)
        return batch

    def _copy(self, batch: _Batch, data: NDArray[np.uint8]) -> int:
        """How many pages of `data` the batch can take; they are copied if there is a buffer."""
        if batch.buffer is None and not batch.refused and self._analyst is not None:
            batch.buffer = self._analyst.buffer()
            batch.refused = batch.buffer is None
        if batch.buffer is None:
            return len(data)
        taken = min(len(data), len(batch.buffer) - batch.fill)
        batch.buffer[batch.fill : batch.fill + taken] = data[:taken]
        batch.fill += taken
        return taken

    def _count(self) -> None:
        """Count the batch at hand, and have the analyst look at what was copied of it."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        table = batch.table
        numbers, sizes = np.concatenate(batch.numbers), np.concatenate(batch.sizes)
        lengths = [len(one) for one in batch.numbers]
        kinds = np.repeat(np.array(batch.kinds, np.uint8), lengths)
        ordinary = kinds == ORDINARY
        sends = table.sends[numbers] + np.uint32(1)
        table.sends[numbers] = sends
        again = sends > 1
        was_zero = table.is_zero[numbers]
        table.is_zero[numbers] = kinds == ZERO
        self._follow_sweep(table, numbers)
        if again.any():
            cells = numbers[again] >> table.fine_shift
            np.add.at(table.resent_bytes, cells, sizes[again])
        self._ordinary += int(np.count_nonzero(ordinary))
        self._resent_ordinary += int(np.count_nonzero(ordinary & again))
        self._resent_twice += int(np.count_nonzero(ordinary & (sends > 2)))
        content = np.full(len(numbers), UNKNOWN, np.int8)
        content[ordinary & again & was_zero] = CHANGED
        piece = Piece(
            start=self._counted,
            kinds=kinds,
            first=~again,
            cells=(numbers >> table.map_shift).astype(np.int32),
            bytes=sizes,
            content=content,
            first_cell=table.first_cell,
            settled=batch.buffer is None,
        )
        if batch.buffer is not None and self._analyst is not None:
            self._looked_at += batch.fill
            places = np.flatnonzero(ordinary)[: batch.fill]
            data = batch.buffer[: batch.fill]
            task = Task(table, numbers[places], sends[places], data, piece, places)
            self._analyst.submit(task, batch.buffer)
        self._counted += len(numbers)
        self._tally.add(piece)

    def _follow_sweep(self, table: PageTable, numbers: NDArray[np.int64]) -> None:
        """A page that this sweep has had already begins the next one."""
        repeated = table.sweep[numbers] == self._sweep
        if repeated.any():
            place = int(repeated.argmax())
            table.sweep[numbers[:place]] = self._sweep
            numbers = numbers[place:]
            self._sweep += 1
            self._tally.sweep(self._counted + place)
        table.sweep[numbers] = self._sweep

    def _memory(self) -> int:
        held = sum(table.nbytes for table in self._tables.values()) + self._tally.nbytes
        for part in (self._contents, self._analyst):
            held += part.nbytes if part is not None else 0
        return held


def _is_full(batch: _Batch) -> bool:
    return batch.buffer is not None and batch.fill == len(batch.buffer)


def _rising(numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Begin and end of the parts that rise: QEMU goes up through a block, again and again."""
    falls = (np.flatnonzero(numbers[1:] <= numbers[:-1]) + 1).tolist()
    ends = [0, *falls, len(numbers)]
    yield from pairwise(ends)


def _wire_sizes(pages: Pages) -> NDArray[np.int32]:
    """What each page took on the wire; what the pages share falls to the first."""
    count = len(pages.offsets)
    encoded = 0 if pages.sizes is None else int(pages.sizes.sum())
    each, rest = divmod(pages.stream_bytes - encoded, count)
    sizes = np.full(count, each, np.int32)
    sizes[0] += rest
    return sizes if pages.sizes is None else sizes + pages.sizes


def _repeats(sends: list[NDArray[np.uint32]]) -> tuple[Repeats, ...]:
    """The histogram: 1, 2, 3, 4, then up to twice as many each."""
    found = []
    low, high, most = 1, 1, max((int(one.max(initial=0)) for one in sends), default=0)
    while low <= most:
        inside = [one[(one >= low) & (one <= high)] for one in sends]
        pages = sum(len(one) for one in inside)
        total = sum(int(one.sum(dtype=np.int64)) for one in inside)
        found.append(Repeats(low, high, pages, total))
        low, high = high + 1, high + 1 if high < 4 else high * 2
    return tuple(found)
