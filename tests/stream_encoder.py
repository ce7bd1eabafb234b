"""Writes migration streams for the tests of their readers, as migration/ram.c of QEMU does."""

from __future__ import annotations

import struct

HEADER = struct.pack(">II", 0x5145564D, 3)

# A RAM block: its name, its size, and maybe one more word.
Row = tuple[bytes, int] | tuple[bytes, int, int]


def named(name: bytes) -> bytes:
    """A string with its length before it."""
    return bytes([len(name)]) + name


class Encoder:
    """Appends one record after the other to `out`."""

    def __init__(self, page_size: int = 4096, ram_id: int = 2) -> None:
        self.out = bytearray(HEADER)
        self.page_size = page_size
        self.ram_id = ram_id
        self.last: bytes | None = None

    def configuration(self, *subsections: bytes, machine: bytes = b"pc-q35-7.2") -> None:
        self.out += b"\x07" + struct.pack(">I", len(machine)) + machine + b"".join(subsections)

    def command(self, command: int, data: bytes = b"") -> None:
        self.out += struct.pack(">BHH", 8, command, len(data)) + data

    def advise(self, summary: int) -> None:
        """Post-copy is on: blocks may come with the size of their pages."""
        self.command(3, struct.pack(">QQ", summary, self.page_size))

    def start(self, name: bytes = b"ram", version: int = 4) -> None:
        self.out += (
            struct.pack(">BI", 1, self.ram_id) + named(name) + struct.pack(">II", 0, version)
        )

    def part(self) -> None:
        self.out += struct.pack(">BI", 2, self.ram_id)

    def end(self) -> None:
        self.out += struct.pack(">BI", 3, self.ram_id)

    def word(self, word: int) -> None:
        self.out += struct.pack(">Q", word)

    def blocks(self, *blocks: Row) -> None:
        """The list of all of them."""
        self.word(sum(block[1] for block in blocks) | 0x04)
        for name, *words in blocks:
            self.out += named(name) + struct.pack(f">{len(words)}Q", *words)

    def page_head(self, block: bytes, offset: int, flag: int) -> None:
        if block == self.last:
            self.word(offset | flag | 0x20)
        else:
            self.word(offset | flag)
            self.out += named(block)
            self.last = block

    def zero(self, block: bytes, offset: int) -> None:
        self.page_head(block, offset, 0x02)
        self.out += b"\0"

    def ordinary(self, block: bytes, offset: int, content: bytes) -> None:
        assert len(content) == self.page_size
        self.page_head(block, offset, 0x08)
        self.out += content

    def xbzrle(self, block: bytes, offset: int, delta: bytes) -> None:
        self.page_head(block, offset, 0x40)
        self.out += struct.pack(">BH", 1, len(delta)) + delta

    def close_section(self) -> None:
        """The end mark and the footer."""
        self.word(0x10)
        self.out += struct.pack(">BI", 0x7E, self.ram_id)

    def devices(self) -> None:
        self.out += b"\x04" + struct.pack(">I", 3) + named(b"timer") + struct.pack(">II", 0, 2)
        self.out += bytes(40)


def subsection(name: bytes, fields: bytes, version: int = 1) -> bytes:
    """An optional part of the configuration."""
    return b"\x05" + named(name) + struct.pack(">I", version) + fields


def target_page_bits(bits: int) -> bytes:
    return subsection(b"configuration/target-page-bits", struct.pack(">I", bits))


def capabilities(*names: bytes) -> bytes:
    body = b"".join(map(named, names))
    return subsection(b"configuration/capabilities", struct.pack(">I", len(names)) + body)


def small_stream() -> bytes:
    """A stream of all the kinds there are, of two RAM blocks."""
    e = Encoder()
    e.configuration(subsection(b"configuration/uuid", bytes(16)))
    e.command(1)
    e.command(2, bytes(4))
    e.start()
    e.blocks((b"pc.ram", 64 * 4096), (b"0000:00:01.0/vga.vram", 16 * 4096))
    e.close_section()
    for number in range(3):
        e.part()
        for page in range(40):
            if page % 16 < 8:
                e.zero(b"pc.ram", page * 4096)
            else:
                e.ordinary(b"pc.ram", page * 4096, bytes([page, number]) * 2048)
        e.xbzrle(b"0000:00:01.0/vga.vram", 4096, b"\x07\x01\x55")
        e.xbzrle(b"0000:00:01.0/vga.vram", 0, b"\x00\x02\x55\x66")
        e.zero(b"0000:00:01.0/vga.vram", 8192)
        e.close_section()
    e.end()
    e.ordinary(b"pc.ram", 0, bytes(range(256)) * 16)
    e.close_section()
    e.devices()
    return bytes(e.out)
