"""How long QEMU's XBZRLE encoding of a page is, against its previous version.

A page is pairs of runs: how many bytes are equal, how many differ, and these themselves. Both
lengths are ULEB128 numbers; equal bytes at the end are left out (QEMU's migration/xbzrle.c,
`xbzrle_encode_buffer` with a buffer of one page).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The encoding would not fit into a page: QEMU sends an ordinary one.
OVERFLOW = -1
# Pages at a time, which bounds the scratch memory.
_ROWS = 16


def encoded_sizes(old: NDArray[np.uint8], new: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The length for each row, in bytes; 0: the same, nothing is sent; OVERFLOW.

    `old` and `new` have the shape (n, page_size).
    """
    pieces = [
        _encoded_sizes(old[start : start + _ROWS], new[start : start + _ROWS])
        for start in range(0, len(new), _ROWS)
    ]
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def _encoded_sizes(old: NDArray[np.uint8], new: NDArray[np.uint8]) -> NDArray[np.int64]:
    count, page_size = new.shape
    # A run begins and ends where this changes; equal bytes on both sides close every run.
    differs = np.zeros((count, page_size + 2), bool)
    np.not_equal(old, new, out=differs[:, 1:-1])
    rows, columns = np.nonzero(differs[:, 1:] != differs[:, :-1])
    row, begins, ends = rows[::2], columns[::2], columns[1::2]
    previous_end = np.zeros_like(ends)
    previous_end[1:] = np.where(row[1:] == row[:-1], ends[:-1], 0)
    different = ends - begins
    pair = _uleb128(begins - previous_end) + _uleb128(different) + different
    sizes = np.bincount(row, weights=pair, minlength=count).astype(np.int64)
    # The encoder wants room for two more bytes before it looks at equal bytes at the end.
    room = np.where(differs[:, -2], page_size, page_size - 2)
    return np.where((sizes > 0) & (sizes > room), OVERFLOW, sizes)


def _uleb128(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes that each number takes; pages have less than 2^21 bytes."""
    return 1 + (numbers >= 1 << 7).astype(np.int64) + (numbers >= 1 << 14)
