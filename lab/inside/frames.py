"""The frames that a client and the agent exchange over a virtio-serial port.

A port is one stream of bytes for all the clients that come one after another, and keeps what a
killed one left half said. So each frame has a mark, the session it belongs to and a checksum, and
both sides first send more zeros than a frame can have: whatever was begun before ends there.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MARK = b"\xf5LAB"
_HEAD = struct.Struct("<4sc8sII")  # mark, kind, session, length and checksum of the contents
MOST = 32 * 1024
PADDING = bytes(_HEAD.size + MOST)

# To the agent. A request is JSON; what it may hold, the agent's docstring says.
HELLO, REQUEST, GO, INPUT, INPUT_END, WINDOW = (bytes([n]) for n in b"HRGIEW")
# From the agent.
READY, OUTPUT, ERRORS, EXIT = (bytes([n]) for n in b"rox?")


class Frame(NamedTuple):
    """One message: its kind, the session it belongs to, and its contents."""

    kind: bytes
    session: bytes
    data: bytes


def pack(kind: bytes, session: bytes, data: bytes = b"") -> bytes:
    """The frames of `data`: as many as it needs, and at least one."""
    pieces = [data[at : at + MOST] for at in range(0, len(data), MOST)] or [b""]
    return b"".join(
        _HEAD.pack(MARK, kind, session, len(piece), zlib.crc32(kind + session + piece)) + piece
        for piece in pieces
    )


class Parser:
    """Finds the frames in a stream that may begin or be cut anywhere."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now."""
        buffer = self._buffer
        buffer += data
        while True:
            at = buffer.find(MARK)
            if at < 0:
                # The first bytes of a mark may be the last ones here.
                del buffer[: max(0, len(buffer) - len(MARK) + 1)]
                return
            del buffer[:at]
            if len(buffer) < _HEAD.size:
                return
            _, kind, session, length, check = _HEAD.unpack_from(buffer)
            end = _HEAD.size + length
            if length <= MOST and len(buffer) < end:
                return
            contents = bytes(buffer[_HEAD.size : end])
            if length > MOST or zlib.crc32(kind + session + contents) != check:
                del buffer[: len(MARK)]
                continue
            del buffer[:end]
            yield Frame(kind, session, contents)
