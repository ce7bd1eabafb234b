"""Takes a kernel out of its compressed image.

QEMU starts such a plain kernel directly, by its PVH entry; to have it unpack itself first costs
seconds in an emulated machine.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable

import zstandard

from lab.errors import LabError

# Offsets of Documentation/arch/x86/boot.rst.
_SETUP_SECTORS = 0x1F1
_PAYLOAD = 0x248  # offset and length, 32 bits each
_SECTOR = 512
_ELF = b"\x7fELF"


def _gzip(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data)


def _xz(data: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(data)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


_KINDS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\0": _xz,
    b"\x28\xb5\x2f\xfd": _zstd,
}
_LZ4 = b"\x02\x21\x4c\x18"


def plain_kernel(image: bytes, unpack_lz4: Callable[[bytes], bytes]) -> bytes:
    """The ELF file in a bzImage. Raises LabError where it is packed in an unknown way."""
    try:
        start = ((image[_SETUP_SECTORS] or 4) + 1) * _SECTOR
        offset, length = struct.unpack_from("<II", image, _PAYLOAD)
        payload = image[start + offset : start + offset + length]
        unpack = unpack_lz4 if payload.startswith(_LZ4) else None
        for mark, known in _KINDS.items():
            if payload.startswith(mark):
                unpack = known
        plain = unpack(payload) if unpack is not None else b""
    except (IndexError, struct.error, lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
        raise LabError(f"the kernel's image is damaged: {error}") from None
    if not plain.startswith(_ELF):
        raise LabError(f"the kernel is packed in an unknown way ({payload[:6].hex()})")
    return plain
