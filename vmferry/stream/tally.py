"""Counts pages by pass or sweep, though where a pass began is often told late.

What was counted last is kept page by page, in *pieces* of consecutive pages; a pass may begin
anywhere in them. Pieces that are too old are summed up into the rows that they belong to by then.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vmferry.precopy.xray import Row
from vmferry.stream.regions import Heat

ZERO, ORDINARY, XBZRLE = 0, 1, 2
# Whether an ordinary page that was sent again had changed.
UNKNOWN, CHANGED, SAME = -1, 0, 1
# The arrays of a piece, by page, and the objects themselves.
_PAGE_BYTES, _PIECE_BYTES = 11, 800


@dataclass(slots=True, eq=False)
class Piece:
    """Consecutive pages of the stream in one block, from the page number `start` on.

    `cells` are the heat map's, `first_cell` is the block's first. `settled` is false as long as the
    contents are still being looked at, which fills in `content`.
    """

    start: int
    kinds: NDArray[np.uint8]
    first: NDArray[np.bool_]
    cells: NDArray[np.int32]
    bytes: NDArray[np.int32]
    content: NDArray[np.int8]
    first_cell: int
    settled: bool = True

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def nbytes(self) -> int:
        return len(self) * _PAGE_BYTES + _PIECE_BYTES


@dataclass(slots=True)
class _Rows:
    rows: list[Row] = field(default_factory=list)
    heat: Heat = field(default_factory=Heat)

    def add(self, piece: Piece, starts: list[int]) -> None:
        end = piece.start + len(piece)
        at = piece.start
        while at < end:
            row = bisect_right(starts, at) - 1
            until = min(end, starts[row + 1]) if row + 1 < len(starts) else end
            self._add(row, piece, slice(at - piece.start, until - piece.start))
            at = until

    def _add(self, number: int, piece: Piece, part: slice) -> None:
        while len(self.rows) <= number:
            self.rows.append(Row(n=len(self.rows) + 1))
        row = self.rows[number]
        kinds = np.bincount(piece.kinds[part], minlength=3).tolist()
        again = ~piece.first[part]
        resent = int(np.count_nonzero(again))
        resent_ordinary = int(np.count_nonzero(again & (piece.kinds[part] == ORDINARY)))
        sizes, content = piece.bytes[part], piece.content[part]
        self.rows[number] = Row(
            n=row.n,
            zero=row.zero + kinds[ZERO],
            ordinary=row.ordinary + kinds[ORDINARY],
            xbzrle=row.xbzrle + kinds[XBZRLE],
            first=row.first + len(sizes) - resent,
            resent=row.resent + resent,
            resent_ordinary=row.resent_ordinary + resent_ordinary,
            compared=row.compared + int(np.count_nonzero(content != UNKNOWN)),
            same=row.same + int(np.count_nonzero(content == SAME)),
            bytes=row.bytes + int(sizes.sum(dtype=np.int64)),
            resent_bytes=row.resent_bytes + int(sizes[again].sum(dtype=np.int64)),
        )
        self.heat.add(number, piece.first_cell, piece.cells[part])


class Tally:
    """Rows by sweep, or by pass from the first `mark` on; keeps about `budget` bytes of pieces."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held = 0
        self._starts = [0]
        self._settled = _Rows()
        self._settled_to = 0
        self._pieces: deque[Piece] = deque()
        self.marked = False
        self.late_marks = 0

    def sweep(self, start: int) -> None:
        """A sweep begins with the page number `start`."""
        if not self.marked:
            self._starts.append(start)

    def mark(self, start: int) -> None:
        """A pass began with the page number `start`, counted from 0 over the stream.

        The first pass need not be told. The page may long have come, or be still to come.
        """
        if not self.marked:
            self.marked = True
            self._starts = [one for one in self._starts if one < self._settled_to] or [0]
            self.late_marks += len(self._starts) - 1
        if start < self._settled_to:
            self.late_marks += 1
            start = self._settled_to
        if start:
            insort(self._starts, start)

    def add(self, piece: Piece) -> None:
        """Count the next pages."""
        self._pieces.append(piece)
        self._held += piece.nbytes
        # What the analysis has not done with is bounded by its own queue.
        while self._held > self._budget and self._pieces[0].settled:
            oldest = self._pieces.popleft()
            self._held -= oldest.nbytes
            self._settled.add(oldest, self._starts)
            self._settled_to = oldest.start + len(oldest)

    def result(self) -> tuple[tuple[Row, ...], Heat]:
        """The rows so far, and the heat map. A last pass that has no page yet has no row."""
        rows = _Rows(list(self._settled.rows), self._settled.heat.copy())
        for piece in self._pieces:
            rows.add(piece, self._starts)
        return tuple(rows.rows), rows.heat

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return self._held + self._settled.heat.nbytes
