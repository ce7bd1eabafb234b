"""What the reader of QEMU's migration stream yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vmferry.errors import UsageError

Kind = Literal["zero", "ordinary", "xbzrle"]


class StreamError(UsageError):
    """The stream is broken, or has something that the reader does not know, at byte `offset`."""

    def __init__(self, message: str, offset: int, *, hint: str | None = None) -> None:
        super().__init__(f"the migration stream at byte {offset}: {message}", hint=hint)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Block:
    """A RAM block of the VM; sizes in bytes.

    `page_size` is that of the pages in the stream (the target's). Huge pages are sent in such
    pages too; `backing_page_size` is known only where the stream says it (post-copy-ram is on).
    """

    name: str
    size: int
    page_size: int
    backing_page_size: int | None = None


@dataclass(frozen=True, slots=True)
class Blocks:
    """All RAM blocks: the set-up section of RAM has been read."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pages:
    """A run of pages of one kind in one block, in the order of the stream.

    `offsets` are in the block, `stream_bytes` is what the run took on the wire. Ordinary pages have
    `data`, a view of what was fed, one page a row; it is valid as long as that memory is left as
    it is. XBZRLE pages have `encoded`, and the length of each in `sizes`.
    """

    block: Block
    kind: Kind
    offsets: NDArray[np.int64]
    stream_bytes: int
    data: NDArray[np.uint8] | None = None
    sizes: NDArray[np.int32] | None = None
    encoded: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class EndOfIteration:
    """A section of RAM has ended; `offset` is the first byte after its end mark."""

    offset: int


@dataclass(frozen=True, slots=True)
class Stage3:
    """The byte at `offset` is the first one of the switchover: the source has stopped its vCPUs.

    The pages of the last RAM section still follow as items; the reader ends at the device state.
    """

    offset: int
    what: str


Item = Pages | Blocks | EndOfIteration | Stage3


@dataclass(slots=True)
class Counts:
    """Pages read so far by kind, as QEMU counts them, and the bytes they took on the wire."""

    zero: int = 0
    ordinary: int = 0
    xbzrle: int = 0
    bytes: int = 0
