"""Reading what a kernel shows in files: one that is missing is an answer.

Nothing is waited for (a FIFO in a strange place), nothing is read without end, and what cannot be
read has its reason in words.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import MutableMapping
from pathlib import Path

PROC = Path("/proc")
MOST_BYTES = 1 << 20
_WORDS = {
    errno.ENOENT: "is not there",
    errno.ENOTDIR: "is not there",
    errno.ESRCH: "has ended",
    errno.EACCES: "may not be read by this user",
    errno.EPERM: "may not be read by this user",
}


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """At most `most` bytes of a file as text. Raises OSError, also where it is no plain file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        # Files of /proc and /sys are plain ones too.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Not a plain file", str(path))
        parts = []
        while most > 0 and (part := file.read(min(most, 1 << 16))):
            parts.append(part)
            most -= len(part)
    return b"".join(parts).decode(errors="replace")


def names_in(folder: Path) -> list[str]:
    """What a folder has, sorted. Raises OSError."""
    return sorted(entry.name for entry in folder.iterdir())


def reason_of(error: OSError, path: object = None) -> str:
    """`/proc/cmdline is not there`: why it could not be read, for people."""
    where = path if path is not None else error.filename
    words = _WORDS.get(error.errno or 0)
    if words is None:
        words = f"cannot be read: {error.strerror or type(error).__name__}"
    return f"{where} {words}"


class Tree:
    """The files below `root`, read with the reasons of what could not be read in `unread`."""

    def __init__(self, root: Path, unread: MutableMapping[str, str]) -> None:
        self.root = root
        self.unread = unread

    def path(self, name: str) -> Path:
        """`/proc/cmdline` below the root."""
        return self.root / name.lstrip("/")

    def text(self, field: str, name: str) -> str | None:
        """A file's text, stripped; None, and why under `field`, where it has none."""
        try:
            text = read_text(self.path(name)).strip()
        except OSError as error:
            self.unread[field] = reason_of(error, name)
            return None
        if not text:
            self.unread[field] = f"{name} is empty"
        return text or None

    def names(self, field: str, name: str) -> list[str] | None:
        """What a folder has; None, and why under `field`, where it cannot be read."""
        try:
            return names_in(self.path(name))
        except OSError as error:
            self.unread[field] = reason_of(error, name)
            return None

    def has_folder(self, name: str) -> bool:
        """Whether there is such a folder; not, where this user may not look (a container)."""
        try:
            return self.path(name).is_dir()
        except OSError:
            return False

    def maybe(self, name: str) -> str | None:
        """A file's text, stripped, where a missing one needs no reason."""
        try:
            return read_text(self.path(name)).strip()
        except OSError:
            return None
