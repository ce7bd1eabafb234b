"""How well sampled pages compress with zstd, and what that costs in CPU time.

Pages are packed as multifd packs them: 128 pages of 4 KiB (MULTIFD_PACKET_SIZE in QEMU's
migration/multifd.h, 512 KiB) make a packet, and a packet is compressed at once. QEMU keeps its
window from packet to packet and may do slightly better.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import zstandard
from numpy.typing import NDArray

from vmferry.stream.pagehash import mixed

LEVELS = (1, 3)
_PACKET_BYTES = 512 * 1024
# One packet of eight is measured; of those after the first 256 MiB, one of 64.
_OFTEN, _SELDOM = 8, 64
_OFTEN_PACKETS = 512


def compressors() -> dict[int, zstandard.ZstdCompressor]:
    """One a level; they are large, so share them within a thread."""
    return {level: zstandard.ZstdCompressor(level=level) for level in LEVELS}


class Compressibility:
    """Takes pages as they come and measures some. Not for several threads at once.

    `plain` bytes became `packed[level]` bytes in `seconds[level]` of CPU time. All three stand for
    all pages taken: what was measured, times how seldom it was. `measured` is the plain bytes that
    were really compressed.
    """

    def __init__(self, page_size: int, compressors: Mapping[int, zstandard.ZstdCompressor]) -> None:
        self._compressors = compressors
        self._packet = np.empty((max(1, _PACKET_BYTES // page_size), page_size), np.uint8)
        self._fill = 0
        self._number = 0
        self._weight = _weight(0)
        self.measured = 0
        self.plain = 0
        self.packed = dict.fromkeys(LEVELS, 0)
        self.seconds = dict.fromkeys(LEVELS, 0.0)

    def take(self, data: NDArray[np.uint8]) -> None:
        """Pages of content, shape (n, page_size), in the order of the stream."""
        start = 0
        while start < len(data):
            piece = data[start : start + len(self._packet) - self._fill]
            if self._weight:
                self._packet[self._fill : self._fill + len(piece)] = piece
            self._fill += len(piece)
            start += len(piece)
            if self._fill == len(self._packet):
                self.finish()

    def finish(self) -> None:
        """The packet at hand is all that comes for now."""
        if self._weight and self._fill:
            self._measure(self._packet[: self._fill])
        self._fill = 0
        self._number += 1
        self._weight = _weight(self._number)

    def ratio(self, level: int) -> float | None:
        """Bytes before by bytes after; None where nothing was measured."""
        return self.plain / self.packed[level] if self.plain else None

    @property
    def nbytes(self) -> int:
        """Memory that it holds beside the compressors, in bytes."""
        return self._packet.nbytes

    def _measure(self, packet: NDArray[np.uint8]) -> None:
        self.measured += packet.nbytes
        self.plain += packet.nbytes * self._weight
        for level, compressor in self._compressors.items():
            begin = time.thread_time()
            size = len(compressor.compress(packet.data))
            self.seconds[level] += (time.thread_time() - begin) * self._weight
            self.packed[level] += size * self._weight


def _weight(number: int) -> int:
    """How many packets that one stands for; 0: it is not measured."""
    every = _OFTEN if number < _OFTEN_PACKETS else _SELDOM
    chosen = number == 0 or int(mixed(np.array([number]))[0]) % every == 0
    return every if chosen else 0
