"""Processes and kernel threads beside a QEMU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vmferry.host.kernel_files import PROC, read_text


def processes(proc: Path = PROC) -> Iterator[tuple[int, str]]:
    """Pid and name of every process that can be seen."""
    for entry in proc.iterdir():
        if entry.name.isascii() and entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), read_text(entry / "comm").rstrip("\n")


def vhost_threads(pid: int, proc: Path = PROC) -> list[int]:
    """The kernel's own threads for this process's vhost devices: up to Linux 6.3, by their name.

    Later ones are threads of the process itself (Linux f9010dbdce91).
    """
    return [other for other, name in processes(proc) if name == f"vhost-{pid}"[:15]]
