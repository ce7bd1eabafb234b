"""How far a run of like page records goes, found for many at once: speed is why this is numpy."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from vmferry.stream.format import CONTINUE, ENCODING_XBZRLE, PAGE, XBZRLE, ZERO

Offsets = NDArray[np.int64]

_WORD = struct.Struct(">Q").unpack_from
_DELTA = struct.Struct(">QBH").unpack_from
ZERO_RECORD = 9
WORD = 8
DELTA_HEAD = 11
_SHORT = 8
# What numpy looks at first; a window that is one run all through is followed by one so much larger.
_WINDOW = 32
_GROWTH = 8


def ordinary_run(view: memoryview, at: int, first: int, limit: int, page_size: int) -> Offsets:
    """Offsets of `first` and of the ordinary pages from `at` on that continue its block."""
    return _run(view, at, first, limit, WORD + page_size, page_size - 1, PAGE | CONTINUE)


def zero_run(view: memoryview, at: int, first: int, limit: int, page_size: int) -> Offsets:
    """Offsets of `first` and of the zero pages from `at` on that continue its block."""
    return _run(view, at, first, limit, ZERO_RECORD, page_size - 1, ZERO | CONTINUE)


def _run(
    view: memoryview, at: int, first: int, limit: int, stride: int, low: int, flags: int
) -> Offsets:
    """Records of `stride` bytes with these flags whose page lies at `limit` in the block at most.

    Ends before the first that is another one, is wrong or is not all there: that is for the caller.
    """
    left = (len(view) - at) // stride
    # Without numpy first: where kinds alternate or little comes at a time, runs are short.
    short = [first]
    for _ in range(min(left, _SHORT)):
        word = _WORD(view, at)[0]
        offset = word - flags
        if word & low != flags or offset > limit or (flags & ZERO and view[at + WORD]):
            return np.array(short, np.int64)
        short.append(offset)
        at += stride
    left -= len(short) - 1
    if not left:
        return np.array(short, np.int64)
    found = [np.array(short, np.int64)]
    window = _WINDOW
    while left:
        n = min(window, left)
        words = np.ndarray((n,), ">u8", view, at, (stride,)).astype(np.uint64)
        offsets = words - np.uint64(flags)
        good = ((words & np.uint64(low)) == flags) & (offsets <= limit)
        if flags & ZERO:
            good &= np.ndarray((n,), np.uint8, view, at + WORD, (stride,)) == 0
        length = n if good.all() else int(good.argmin())
        found.append(offsets[:length].view(np.int64))
        if length < n:
            break
        at += n * stride
        left -= n
        window *= _GROWTH
    return np.concatenate(found)


def xbzrle_run(
    view: memoryview, at: int, limit: int, page_size: int
) -> tuple[list[int], list[bytes], int]:
    """Offsets and deltas of the XBZRLE pages from `at` on that continue a block; where they end.

    Ends like the other runs.
    """
    low = page_size - 1
    offsets: list[int] = []
    encoded: list[bytes] = []
    end = len(view)
    while at + DELTA_HEAD <= end:
        word, encoding, size = _DELTA(view, at)
        after = at + DELTA_HEAD + size
        if word & low != XBZRLE | CONTINUE or encoding != ENCODING_XBZRLE or after > end:
            break
        offset = word - (XBZRLE | CONTINUE)
        if offset > limit or not 0 < size <= page_size:
            break
        offsets.append(offset)
        encoded.append(bytes(view[at + DELTA_HEAD : after]))
        at = after
    return offsets, encoded, at
