"""What a process of somebody else writes to its standard error, where that can be read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from vmferry.host.process import ProcessId

_LAST_BYTES = 16 * 1024


class StandardError:
    """What is written from now on, where it goes to a file that this user may read.

    Of a terminal or a pipe nothing can be read without taking it from others.
    """

    def __init__(self, process: ProcessId | None) -> None:
        self._file: BinaryIO | None = None
        if process is None:
            return
        path = Path(f"/proc/{process.pid}/fd/2")
        with contextlib.suppress(OSError):
            if path.is_file():
                self._file = path.open("rb")
                self._file.seek(0, os.SEEK_END)

    def said(self) -> str:
        """What came since the last call, at most its last 16 KiB."""
        if self._file is None:
            return ""
        return self._file.read()[-_LAST_BYTES:].decode(errors="replace").strip()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
