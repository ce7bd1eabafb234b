"""What of a QEMU's open files matters: its taps, vhost, and devices of the host."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vmferry.host.kernel_files import PROC, read_text

_SYS = Path("/sys")
_TAP = re.compile(r"^iff:\s*(\S+)", re.MULTILINE)
# Where sysfs has the character device of a macvtap: below its interface.
_MACVTAP = re.compile(r"/net/([^/]+)/(?:\w+/)?tap\d+$")
_VFIO = re.compile(r"/dev/vfio/(vfio|\d+|devices/\w+)")


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """`taps`: interfaces by descriptor; `vhost_net`
    counts /dev/vhost-net; `vfio` has what of /dev/vfio and /dev/iommu is open."""

    taps: Mapping[int, str]
    vhost_net: int
    vfio: frozenset[str]


def read_open_files(pid: int, proc: Path = PROC, sys: Path = _SYS) -> OpenFiles:
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
