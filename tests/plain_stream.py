"""A second reader of QEMU's migration stream, slow and plain: the oracle of the fast one.

Written from migration/savevm.c and migration/ram.c alone, and shares nothing with vmferry.stream.
It takes the whole stream at once, one page after the other, and says what it met in plain tuples:

    ("blocks", ((name, size, page size, backing page size or None), …))
    ("page", kind, name of the block, offset, bytes on the wire, content)
    ("end", offset)                          a section of RAM has ended before that byte
    ("stage3", offset)

and last of all ("done" | "wrong" | "cut", offset): the device state begins there, or the record
there is broken or unknown, or the stream ends inside the record that begins there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

Event = tuple[Any, ...]


class Cut(Exception):
    pass


class Bad(Exception):
    pass


class PlainStream:
    """One stream, read to its end by `events`."""

    def __init__(self, data: bytes, page_size: int = 4096) -> None:
        self.last = b""  # the block of the last page
        self.data = data
        self.page = page_size
        self.pos = 0
        self.record = 0
        self.shared = False
        self.advised = False
        self.blocks: dict[bytes, int] = {}

    def get(self, fmt: str) -> int:
        size = struct.calcsize(fmt)
        if self.pos + size > len(self.data):
            raise Cut
        (value,) = struct.unpack(fmt, self.data[self.pos : self.pos + size])
        self.pos += size
        return int(value)

    def raw(self, size: int) -> bytes:
        if self.pos + size > len(self.data):
            raise Cut
        self.pos += size
        return self.data[self.pos - size : self.pos]

    def string(self) -> bytes:
        return self.raw(self.get(">B"))

    def ahead(self, fmt: str) -> int:
        here = self.pos
        value = self.get(fmt)
        self.pos = here
        return value

    def need(self, condition: bool) -> None:
        if not condition:
            raise Bad

    def events(self) -> list[Event]:
        found = []
        how = "done"
        try:
            for event in self.stream():
                found.append(event)
        except Cut:
            how = "cut"
        except Bad:
            how = "wrong"
        found.append((how, self.record))
        return found

    def stream(self) -> Iterator[Event]:
        self.need(self.get(">I") == 0x5145564D)
        self.need(self.get(">I") == 3)
        self.record = self.pos
        if self.ahead(">B") == 0x07:
            self.configuration()
        ram = None  # the identifier of its section
        running = False
        stage3 = False
        while True:
            self.record = self.pos
            mark = self.get(">B")
            if mark == 0x08:
                if self.command(ram is not None):
                    self.need(ram is not None and not stage3)
                    stage3 = True
                    yield ("stage3", self.record)
                continue
            if mark == 0x01:
                identifier, name = self.get(">I"), self.string()
                head = (self.get(">I"), self.get(">I"))
                self.need(name == b"ram" and head == (0, 4) and ram is None)
                ram = identifier
                running = True
            elif mark in (0x02, 0x03):
                identifier = self.get(">I")
                self.need(running and identifier == ram)
                if mark == 0x03:
                    running = False
                    if not stage3:
                        stage3 = True
                        yield ("stage3", self.record)
            else:
                # Device state, or the end of it all; neither while RAM is under way.
                self.need(mark in (0x00, 0x04) and ram is not None and not running)
                return
            self.record = self.pos
            yield from self.ram_section()
            self.record = self.pos
            self.need(self.get(">B") == 0x7E)
            self.need(self.get(">I") == ram)

    def configuration(self) -> None:
        self.get(">B")
        length = self.get(">I")
        self.need(length <= 1024)
        self.raw(length)
        while True:
            self.record = self.pos
            if self.ahead(">B") != 0x05:
                return
            self.get(">B")
            name = self.string()
            self.need(self.get(">I") == 1)
            if name == b"configuration/target-page-bits":
                self.set_page(2 ** min(self.get(">I"), 100))
            elif name == b"configuration/capabilities":
                count = self.get(">I")
                self.need(count <= 64)
                for _ in range(count):
                    self.need(self.string() == b"x-ignore-shared")
                    self.shared = True
            elif name == b"configuration/uuid":
                self.raw(16)
            else:
                raise Bad

    def set_page(self, size: int) -> None:
        self.need(size in (1024, 2048, 4096, 8192, 16384, 32768, 65536))
        self.page = size

    def command(self, ram_seen: bool) -> bool:
        command = self.get(">H")
        self.need(command in (1, 2, 3, 11))
        length = self.get(">H")
        if command == 3:
            self.need(length in (0, 16) and not ram_seen)
            if length == 16:
                self.get(">Q")
                self.set_page(self.get(">Q"))
                self.advised = True
        else:
            self.need(length == {1: 0, 2: 4, 11: 0}[command])
            self.raw(length)
        return command == 11

    def ram_section(self) -> Iterator[Event]:
        while True:
            self.record = self.pos
            word = self.get(">Q")
            offset = word // self.page * self.page
            flags = word % self.page
            if word == 0x10:
                self.need(bool(self.blocks))
                yield ("end", self.pos)
                return
            if flags == 0x04:
                self.need(not self.blocks and 0 < offset <= 2**62)
                yield self.block_list(offset)
                continue
            kind = {0x02: "zero", 0x08: "ordinary", 0x40: "xbzrle"}.get(flags & ~0x20)
            self.need(kind is not None)
            if flags & 0x20:
                self.need(self.last != b"")
            else:
                self.last = self.string()
                self.need(self.last in self.blocks)
            self.need(offset + self.page <= self.blocks[self.last])
            if kind == "zero":
                self.need(self.get(">B") == 0)
                content = b""
            elif kind == "ordinary":
                content = self.raw(self.page)
            else:
                self.need(self.get(">B") == 1)
                length = self.get(">H")
                self.need(1 <= length <= self.page)
                content = self.raw(length)
            yield ("page", kind, text(self.last), offset, self.pos - self.record, content)

    def block_list(self, total: int) -> Event:
        entries: list[Event] = []
        while total:
            self.record = self.pos
            name = self.string()
            size = self.get(">Q")
            self.need(name != b"" and name not in self.blocks)
            self.need(size <= total and size % self.page == 0)
            total -= size
            backing = self.after_size(total == 0)
            self.blocks[name] = size
            entries.append((text(name), size, self.page, backing))
        return ("blocks", tuple(entries))

    def after_size(self, last: bool) -> int | None:
        """Page size and address of a block, of which the page size need not be there.

        So look at what would follow without it: the name of the next block (not empty, and then
        its first byte is not zero) or, after the last, the flags of the next record.
        """
        if not self.advised:
            if self.shared:
                self.get(">Q")
            return None
        first = self.get(">Q") if self.shared else None
        over = 0 < self.ahead(">Q") < self.page if last else self.ahead(">B") > 0
        if over:
            return None
        second = self.get(">Q")
        size = second if first is None else first
        self.need(size >= 1024 and size.bit_count() == 1)
        return size


def text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def plain_events(data: bytes, page_size: int = 4096) -> list[Event]:
    """All that is in a stream."""
    return PlainStream(data, page_size).events()
