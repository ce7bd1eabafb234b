"""A 64-bit number for the content of each page, fast enough for every page of a stream.

NH of UMAC (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, CRYPTO 1999) over pairs of 32-bit
words: two given pages that differ get the same number with a chance of at most 2^-32, over the
choice of the keys. The keys are drawn from a fixed seed, so a guest that knows them can build
pages that collide; what is counted with it is worth no attack.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_SEED = 0x766D6665727279
# Rows at a time: the scratch memory of such a piece stays in the second-level cache.
_ROWS = 64
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


class PageHash:
    """Hashes pages of one size, in bytes: a multiple of 8. Not for several threads at once."""

    def __init__(self, page_size: int) -> None:
        self._keys = _keys(page_size)
        self._sums = np.empty((_ROWS, page_size // 4), np.uint32)
        self._high = np.empty((_ROWS, page_size // 8), np.uint64)

    def __call__(self, pages: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """A number for each row of `pages`, shape (n, page_size), C-contiguous."""
        numbers = np.empty(len(pages), np.uint64)
        for start in range(0, len(pages), _ROWS):
            piece = pages[start : start + _ROWS].view(np.uint32)
            sums = np.add(piece, self._keys, out=self._sums[: len(piece)])
            words = sums.view(np.uint64)
            high = np.right_shift(words, _SHIFT, out=self._high[: len(piece)])
            np.bitwise_and(words, _LOW, out=words)
            np.multiply(words, high, out=words)
            np.add.reduce(words, axis=1, out=numbers[start : start + len(piece)])
        return numbers

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return self._sums.nbytes + self._high.nbytes + self._keys.nbytes


@cache
def _keys(page_size: int) -> NDArray[np.uint32]:
    generator = np.random.Generator(np.random.PCG64(_SEED))
    return generator.integers(0, 1 << 32, page_size // 4, dtype=np.uint32)


def mixed(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Numbers that look random, always the same for the same ones (splitmix64's finalizer)."""
    words = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixture: NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return mixture
