"""Marks and flags of QEMU's migration stream, and a cursor over a part of it.

Sources: migration/savevm.c, migration/ram.c and migration/migration.c of QEMU 7.2 and 10.0.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType

MAGIC = 0x5145564D  # "QEVM"
VERSION = 3
MULTIFD_MAGIC = 0x11223344
RAM_VERSION = 4

EOF = 0x00
SECTION_START = 0x01
SECTION_PART = 0x02
SECTION_END = 0x03
SECTION_FULL = 0x04
SUBSECTION = 0x05
CONFIGURATION = 0x07
COMMAND = 0x08
SECTION_FOOTER = 0x7E

ZERO = 0x02
MEM_SIZE = 0x04
PAGE = 0x08
EOS = 0x10
CONTINUE = 0x20
XBZRLE = 0x40
# The byte before the delta of an XBZRLE page.
ENCODING_XBZRLE = 0x01

UNREADABLE: Mapping[int, str] = MappingProxyType(
    {
        0x001: "an obsolete page flag",
        0x080: "RDMA's hook: pages that go by RDMA are not in the stream",
        0x100: "a page compressed by QEMU (capability compress)",
        0x200: "a multifd flush: with multifd the pages are in other channels",
    }
)

OPEN_RETURN_PATH = 1
PING = 2
POSTCOPY_ADVISE = 3
SWITCHOVER_START = 11
# The length of each command's data. ADVISE has none where only dirty bitmaps may be post-copied.
COMMAND_LENGTHS: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {OPEN_RETURN_PATH: (0,), PING: (4,), POSTCOPY_ADVISE: (0, 16), SWITCHOVER_START: (0,)}
)
UNREADABLE_COMMANDS: Mapping[int, str] = MappingProxyType(
    {
        4: "post-copy begins (LISTEN)",
        5: "post-copy begins (RUN)",
        6: "post-copy begins (RAM_DISCARD)",
        7: "a post-copy migration is resumed",
        8: "post-copy begins (a package of device state)",
        9: "a post-copy migration is recovered",
        10: "COLO is on",
    }
)

IGNORE_SHARED = b"x-ignore-shared"
# Of vmstate_configuration; a name longer than this is none.
MAX_MACHINE_NAME = 1024
MAX_CAPABILITIES = 64
# All flags must fit below the smallest page; the largest is that of a target of QEMU's.
MIN_PAGE_SIZE = 1024
MAX_PAGE_SIZE = 65536

_BE16 = struct.Struct(">H")
_BE32 = struct.Struct(">I")
_BE64 = struct.Struct(">Q")


class Wrong(Exception):
    """The record is broken or not known; the reader adds where it is."""


class Incomplete(Exception):
    """A record needs at least `need` bytes from its first one on, and fewer are there."""

    def __init__(self, need: int) -> None:
        self.need = need


class Cursor:
    """Reads the fields of one record after another; `mark` is where the record began."""

    __slots__ = ("at", "end", "mark", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.mark = self.at = 0
        self.end = len(view)

    def skip(self, length: int) -> int:
        """Pass over `length` bytes; where they begin. Incomplete where they are not all there."""
        begin = self.at
        if begin + length > self.end:
            raise Incomplete(begin + length - self.mark)
        self.at = begin + length
        return begin

    def u8(self) -> int:
        return self.view[self.skip(1)]

    def be16(self) -> int:
        value: int = _BE16.unpack_from(self.view, self.skip(2))[0]
        return value

    def be32(self) -> int:
        value: int = _BE32.unpack_from(self.view, self.skip(4))[0]
        return value

    def be64(self) -> int:
        value: int = _BE64.unpack_from(self.view, self.skip(8))[0]
        return value

    def take(self, length: int) -> bytes:
        begin = self.skip(length)
        return bytes(self.view[begin : begin + length])

    def name(self) -> bytes:
        """A string with its length in the byte before it."""
        return self.take(self.u8())

    def peek8(self) -> int:
        """The next byte, which stays to be read."""
        begin = self.skip(1)
        self.at = begin
        return self.view[begin]

    def peek64(self) -> int:
        """The next big-endian word, which stays to be read."""
        begin = self.skip(8)
        self.at = begin
        value: int = _BE64.unpack_from(self.view, begin)[0]
        return value


def shown(name: bytes) -> str:
    """A name as text; bytes that are none are shown as escapes."""
    return name.decode("utf-8", "backslashreplace")
