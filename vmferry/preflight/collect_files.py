"""Files as a QEMU process sees them: it may be in a container, or in another folder."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vmferry.host.process import ProcessId
from vmferry.preflight.facts import FileId

# Stands for the device in the identity of a block device, which has nodes of several names.
_BLOCK_DEVICE = -1
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Look:
    """What became of a look at one file: which it is, or that it is open and has no name any more;
    neither where that cannot be told."""

    file_id: FileId | None = None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one process: those that it has open, and by which names those were opened that
    have none any more. Of no process nothing is seen."""

    process: ProcessId | None = None
    opened: frozenset[FileId] = frozenset()
    deleted: tuple[str, ...] = ()

    @classmethod
    def of(cls, process: ProcessId | None) -> Self:
        """What can be seen now."""
        opened, deleted = set(), []
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir() if process else ():
                with contextlib.suppress(OSError):
                    target = str(descriptor.readlink())
                    if (file_id := _identity(descriptor.stat())) is not None:
                        opened.add(file_id)
                    if target.endswith(_DELETED):
                        deleted.append(target.removesuffix(_DELETED))
        return cls(process, frozenset(opened), tuple(deleted))

    def named(self, name: str) -> FileId | None:
        """The file that has this name now; a folder is none."""
        if self.process is None:
            return None
        folder = Path(f"/proc/{self.process.pid}")
        path = folder / "root" / name.lstrip("/") if name.startswith("/") else folder / "cwd" / name
        try:
            return _identity(path.stat())
        except OSError:
            return None

    def opened_as(self, name: str) -> Look:
        """The file that the process has opened by this name, which may be another's by now, or lead
        nowhere: a file may be passed open (/dev/fdset), or named from a folder that was left."""
        file_id = self.named(name)
        if file_id is not None and file_id in self.opened:
            return Look(file_id)
        return Look(gone=any(one == name or one.endswith(f"/{name}") for one in self.deleted))


def _identity(status: os.stat_result) -> FileId | None:
    if stat.S_ISBLK(status.st_mode):
        return _BLOCK_DEVICE, status.st_rdev
    if stat.S_ISREG(status.st_mode):
        return status.st_dev, status.st_ino
    return None
