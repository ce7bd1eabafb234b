"""A stream made in memory, sent through a socket pair on one core that both ends share."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import socket
import struct
from collections.abc import Callable

from bench._bench_results import Row
from bench._stream_sink import drain
from vmferry.stream.reader import StreamReader
from vmferry.units import GIB, MIB

PAGE = 4096
RAM = GIB
BLOCK = b"pc.ram"
DELTA_BYTES = 200
_SEED = 1
_FOOTER = b"\x7e" + struct.pack(">I", 2)
_PART = b"\x02" + struct.pack(">I", 2)
_EOS = struct.pack(">Q", 0x10)
_HEAD = struct.pack(">II", 0x5145564D, 3) + b"\x01" + struct.pack(">I", 2)


def _zero(offset: int, content: bytes) -> bytes:
    return struct.pack(">QB", offset | 0x22, 0)


def _ordinary(offset: int, content: bytes) -> bytes:
    return struct.pack(">Q", offset | 0x28) + content


def _xbzrle(offset: int, content: bytes) -> bytes:
    return struct.pack(">QBH", offset | 0x60, 1, DELTA_BYTES) + content[:DELTA_BYTES]


Writer = Callable[[int, bytes], bytes]
# Runs of so many pages of one kind, then so many of the next, over and over; how many bytes.
MIXES: dict[str, tuple[tuple[tuple[Writer, int], ...], int]] = {
    "ordinary": (((_ordinary, 1),), GIB),
    "zero": (((_zero, 1),), 96 * MIB),
    "xbzrle": (((_xbzrle, 1),), 128 * MIB),
    "16 ordinary, 16 zero": (((_ordinary, 16), (_zero, 16)), 512 * MIB),
    "1 ordinary, 1 zero": (((_ordinary, 1), (_zero, 1)), 256 * MIB),
}


def measure(mix: str, with_reader: bool, core: int) -> Row:
    """Send one stream; what came out at the other end of the pair."""
    parts, size = MIXES[mix]
    section = _section(parts)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # the sender inherits it
    ours, theirs = socket.socketpair()
    sender = multiprocessing.get_context("fork").Process(
        target=_send, args=(ours, theirs, section, max(1, size // len(section)))
    )
    try:
        sender.start()
        ours.close()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        row = drain(theirs, StreamReader() if with_reader else None)
    finally:
        theirs.close()
        sender.join()
        os.sched_setaffinity(0, before)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row["sender_cpu_seconds"] = (after.ru_utime - used.ru_utime) + (after.ru_stime - used.ru_stime)
    return row


def _send(ours: socket.socket, theirs: socket.socket, section: bytes, times: int) -> None:
    theirs.close()
    length = struct.pack(">Q", RAM)
    total = struct.pack(">Q", RAM | 0x04)
    ours.sendall(_HEAD + b"\x03ram" + struct.pack(">II", 0, 4))
    ours.sendall(total + bytes([len(BLOCK)]) + BLOCK + length + _EOS + _FOOTER)
    # The first page names its block; all others continue it.
    ours.sendall(_PART + struct.pack(">Q", 0x02) + bytes([len(BLOCK)]) + BLOCK + b"\0")
    ours.sendall(_EOS + _FOOTER)
    for _ in range(times):
        ours.sendall(section)
    ours.sendall(b"\x03" + struct.pack(">I", 2) + _EOS + _FOOTER + b"\0")
    ours.close()


def _section(parts: tuple[tuple[Writer, int], ...]) -> bytes:
    """Some MiB as QEMU sends them in one go: pages in the order of their addresses."""
    contents = [random.Random(_SEED + n).randbytes(PAGE) for n in range(64)]
    out = bytearray(_PART)
    page = 0
    while len(out) < 8 * MIB and page < RAM // PAGE:
        for write, length in parts:
            for _ in range(length):
                out += write(page % (RAM // PAGE) * PAGE, contents[page % 64])
                page += 1
    return bytes(out + _EOS + _FOOTER)
