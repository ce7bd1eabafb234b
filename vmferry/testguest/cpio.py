"""Writes a newc cpio archive, the format of an initial RAM disk. Pure."""

from __future__ import annotations

import stat
from collections.abc import Mapping

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


def pack(files: Mapping[str, bytes], links: Mapping[str, str], executable: frozenset[str]) -> bytes:
    """The archive of `files` and symbolic `links` by path, with the folders that they need.

    Everything belongs to root and is of time 0, so equal contents give equal bytes.
    """
    archive = bytearray()
    number = 0

    def add(path: str, mode: int, data: bytes) -> None:
        nonlocal number
        number += 1
        _entry(archive, path, mode, data, number)

    for folder in sorted({parent for path in (*files, *links) for parent in _parents(path)}):
        add(folder, stat.S_IFDIR | 0o755, b"")
    for path, data in sorted(files.items()):
        add(path, stat.S_IFREG | (0o755 if path in executable else 0o644), data)
    for path, target in sorted(links.items()):
        add(path, stat.S_IFLNK | 0o777, target.encode())
    _entry(archive, _TRAILER, 0, b"", 0)
    return bytes(archive)


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _entry(archive: bytearray, path: str, mode: int, data: bytes, number: int) -> None:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name's length, 0
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name), 0)
    archive += _MAGIC + b"".join(b"%08x" % field for field in fields) + name
    archive += b"\0" * (-len(archive) % 4)
    archive += data
    archive += b"\0" * (-len(archive) % 4)
