"""The sections of RAM: the list of blocks, and the pages (migration/ram.c)."""

from __future__ import annotations

import numpy as np

from vmferry.stream import format as f
from vmferry.stream import runs
from vmferry.stream.format import Cursor, Wrong, shown
from vmferry.stream.items import Block, Blocks, Counts, Pages
from vmferry.stream.setup import Setup

_MAX_RAM = 1 << 62


class Ram:
    """Reads the records of RAM sections; what it remembers lasts from one section to the next."""

    def __init__(self, setup: Setup) -> None:
        self.counts = Counts()
        self.known = False  # the list of blocks has been read
        self._page_size = setup.page_size
        self._setup = setup
        self._left: int | None = None  # of the list of blocks, in bytes of RAM
        self._blocks: dict[bytes, Block] = {}
        self._current: Block | None = None

    def record(self, c: Cursor) -> Pages | Blocks | bool:
        """The next record or run of pages; True for the end mark of the section, else False."""
        if self._left:
            return self._list_entry(c, self._left)
        word = c.be64()
        flags = word & (self._page_size - 1)
        kind = flags & ~f.CONTINUE
        if kind in (f.PAGE, f.ZERO, f.XBZRLE):
            block = self._block_of(c, flags, word - flags)
            if kind == f.PAGE:
                return self._ordinary(c, block, word - flags)
            if kind == f.ZERO:
                return self._zero(c, block, word - flags)
            return self._xbzrle(c, block, word - flags)
        if word == f.EOS:
            if not self.known:
                raise Wrong("RAM begins without a list of its blocks")
            return True
        if flags == f.MEM_SIZE:
            return self._list_begin(word - flags)
        for flag, what in f.UNREADABLE.items():
            if flags & flag:
                raise Wrong(what)
        raise Wrong(f"0x{word:x} is no page and no end of a section of RAM")

    def _list_begin(self, total: int) -> bool:
        if self.known:
            raise Wrong("a second list of RAM blocks")
        if not 0 < total <= _MAX_RAM:
            raise Wrong(f"RAM of {total} bytes")
        self._left = total
        return False

    def _list_entry(self, c: Cursor, left: int) -> Blocks | bool:
        name = c.name()
        size = c.be64()
        if not name or name in self._blocks:
            raise Wrong(f"a RAM block without a name of its own: '{shown(name)}'")
        if size > left or size % self._page_size:
            raise Wrong(f"RAM block '{shown(name)}' of {size} bytes, where {left} are left")
        backing = self._backing(c, last=size == left)
        self._blocks[name] = Block(shown(name), size, self._page_size, backing)
        self._left = left - size
        if self._left:
            return False
        self.known = True
        return Blocks(tuple(self._blocks.values()))

    def _backing(self, c: Cursor, last: bool) -> int | None:
        """Pass over what may follow a block's size; the size of the pages behind it where told.

        Nothing says whether that size is there (it is where it differs from the host's page), but
        neither the name of the next block nor the end mark looks like it.
        """
        addresses, sizes = int(self._setup.ignores_shared), int(self._setup.says_page_sizes)
        words: list[int] = []
        while len(words) < addresses + sizes:
            if len(words) == addresses and self._ends_entry(c, last):
                return None
            words.append(c.be64())
        if not sizes:
            return None
        size = words[0]
        if size & (size - 1) or size < f.MIN_PAGE_SIZE:
            raise Wrong(f"a RAM block with pages of {size} bytes")
        return size

    def _ends_entry(self, c: Cursor, last: bool) -> bool:
        if not last:
            return c.peek8() != 0  # the length of a name; sizes and addresses begin with a 0
        return 0 < c.peek64() < self._page_size  # flags, and no offset

    def _block_of(self, c: Cursor, flags: int, offset: int) -> Block:
        if flags & f.CONTINUE:
            if self._current is None:
                raise Wrong("a page that continues no block")
            block = self._current
        else:
            name = c.name()
            found = self._blocks.get(name)
            if found is None:
                raise Wrong(f"a page of '{shown(name)}', which is no RAM block")
            block = found
        if offset > block.size - self._page_size:
            raise Wrong(f"a page at 0x{offset:x} of '{block.name}', which has {block.size} bytes")
        return block

    def _ordinary(self, c: Cursor, block: Block, offset: int) -> Pages:
        size = self._page_size
        data = c.skip(size)
        offsets = runs.ordinary_run(c.view, c.at, offset, block.size - size, size)
        n = len(offsets)
        c.skip((n - 1) * (runs.WORD + size))
        self._current = block
        self.counts.ordinary += n
        return Pages(
            block=block,
            kind="ordinary",
            offsets=offsets,
            stream_bytes=self._took(c),
            data=np.ndarray((n, size), np.uint8, c.view, data, (runs.WORD + size, 1)),
        )

    def _zero(self, c: Cursor, block: Block, offset: int) -> Pages:
        if (byte := c.u8()) != 0:
            raise Wrong(f"a page filled with 0x{byte:02x}, where only zero pages are known")
        limit = block.size - self._page_size
        offsets = runs.zero_run(c.view, c.at, offset, limit, self._page_size)
        c.skip((len(offsets) - 1) * runs.ZERO_RECORD)
        self._current = block
        self.counts.zero += len(offsets)
        return Pages(block=block, kind="zero", offsets=offsets, stream_bytes=self._took(c))

    def _xbzrle(self, c: Cursor, block: Block, offset: int) -> Pages:
        if (encoding := c.u8()) != f.ENCODING_XBZRLE:
            raise Wrong(f"an XBZRLE page in encoding {encoding}, and only 1 is known")
        size = c.be16()
        if not 0 < size <= self._page_size:
            raise Wrong(f"an XBZRLE page of {size} bytes")
        first = c.take(size)
        limit = block.size - self._page_size
        offsets, encoded, end = runs.xbzrle_run(c.view, c.at, limit, self._page_size)
        c.at = end
        encoded.insert(0, first)
        self._current = block
        self.counts.xbzrle += len(encoded)
        return Pages(
            block=block,
            kind="xbzrle",
            offsets=np.array([offset, *offsets], np.int64),
            stream_bytes=self._took(c),
            sizes=np.array([len(delta) for delta in encoded], np.int32),
            encoded=tuple(encoded),
        )

    def _took(self, c: Cursor) -> int:
        taken = c.at - c.mark
        self.counts.bytes += taken
        return taken
