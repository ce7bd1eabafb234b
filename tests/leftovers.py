"""Finds what a test left behind: processes that know its runtime folder, and files in it."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from vmferry.host.process import ProcessId


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process still alive, and what it is."""

    process: ProcessId
    command: str

    def __str__(self) -> str:
        return f"process {self.process.pid}: {self.command[:200]}"


def processes(runtime: Path) -> list[Leftover]:
    """Processes that name `runtime` in their command line or environment.

    Never this one: its environment was written before the test began.
    """
    name = os.fsencode(runtime)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            command = (folder / "cmdline").read_bytes()
            mentioned = name in command or name in (folder / "environ").read_bytes()
            if mentioned and pid != os.getpid():
                text = command.replace(b"\0", b" ").decode(errors="replace").strip()
                found.append(Leftover(ProcessId.of(pid), text))
        except (ProcessLookupError, FileNotFoundError, PermissionError):
            continue
    return found


def files(runtime: Path) -> list[str]:
    """Sockets, and anything that an instance of a VM left, relative to `runtime`.

    Lock files may stay: to remove one is a race with the next who locks it.
    """
    left = []
    for path in sorted(runtime.rglob("*")):
        inside = path.relative_to(runtime)
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
        if is_socket or ("instances" in inside.parts[:-1]):
            left.append(str(inside))
    return left


def collect(runtime: Path, patience: float = 5.0) -> list[str]:
    """What is still there after at most `patience` seconds, in words. Ends such processes."""
    last = time.monotonic() + patience
    while (alive := processes(runtime)) and time.monotonic() < last:
        time.sleep(0.05)
    found = [str(item) for item in alive]
    for item in alive:
        item.process.kill()
        item.process.wait_dead(5.0)
    return found + files(runtime)
