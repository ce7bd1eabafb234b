"""A QEMU's process seen from outside: its open files and its kernel threads."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vmferry.fastpath.collect_files import read_text

PROC = Path("/proc")
SYS = Path("/sys")
_TAP = re.compile(r"^iff:\s*(\S+)", re.MULTILINE)
# Where sysfs has the character device of a macvtap: below its interface.
_MACVTAP = re.compile(r"/net/([^/]+)/(?:\w+/)?tap\d+$")
_VFIO = re.compile(r"/dev/vfio/(vfio|\d+|devices/\w+)")


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """What of a process's open files matters here. `taps`: interfaces by descriptor; `vhost_net`
    counts /dev/vhost-net; `vfio` has what of /dev/vfio and /dev/iommu is open."""

    taps: Mapping[int, str]
    vhost_net: int
    vfio: frozenset[str]


def read_open_files(pid: int, proc: Path = PROC, sys: Path = SYS) -> OpenFiles:
    """Raises OSError where this user may not look."""
    taps: dict[int, str] = {}
    vhost_net = 0
    vfio = set()
    for entry in (proc / str(pid) / "fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        if target == "/dev/vhost-net":
            vhost_net += 1
        elif target == "/dev/iommu" or _VFIO.fullmatch(target):
            vfio.add(target)
        elif target == "/dev/net/tun":
            with contextlib.suppress(OSError):
                name = _TAP.search(read_text(proc / str(pid) / "fdinfo" / entry.name))
                if name is not None:
                    taps[int(entry.name)] = name[1]
        elif target.startswith("/dev/"):
            with contextlib.suppress(OSError):
                name = _MACVTAP.search(_place_of(entry, sys))
                if name is not None:
                    taps[int(entry.name)] = name[1]
    return OpenFiles(taps, vhost_net, frozenset(vfio))


def _place_of(opened: Path, sys: Path) -> str:
    """Where sysfs has an open character device. Raises OSError where it has none."""
    number = opened.stat().st_rdev
    return str((sys / f"dev/char/{os.major(number)}:{os.minor(number)}").readlink())


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
