"""How much of a guest's memory is not zero, seen from outside the QEMU process that holds it.

The kernel tells which pages of the process were ever touched, and lets its owner read them; the
guest is not disturbed. Pages are drawn at random. Nothing of what they hold is kept.
"""

from __future__ import annotations

import os
import random
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from vmferry.host.process import ProcessId

_SAMPLES = 8192
_ENTRY = struct.Struct("<Q")
# Documentation/admin-guide/mm/pagemap: in RAM, in the swap.
_PRESENT, _SWAPPED = 1 << 63, 1 << 62
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class NonZero:
    """Bytes that are not zero. `sampled` says that it is an estimate from a sample of the pages
    (to about a hundredth of the RAM), otherwise it is only an upper bound."""

    bytes: int
    sampled: bool


def non_zero_bytes(process: ProcessId | None, ram_bytes: int) -> NonZero:
    """The non-zero memory of a guest with `ram_bytes`.

    Where its pages may not be read, what the process has in RAM; where there is no process to
    look at, all of the RAM.
    """
    if process is None or not process.alive():
        return NonZero(ram_bytes, sampled=False)
    try:
        share = _share(process.pid, ram_bytes)
    except OSError:
        resident = process.resident_bytes()
        return NonZero(min(resident or ram_bytes, ram_bytes), sampled=False)
    if share is None:
        return NonZero(min(process.resident_bytes() or ram_bytes, ram_bytes), sampled=False)
    return NonZero(round(share * ram_bytes), sampled=True)


def _share(pid: int, ram_bytes: int) -> float | None:
    """The share of non-zero pages; None where the RAM cannot be told from other memory.

    Raises OSError where this user may not look.
    """
    found = _ram(Path(f"/proc/{pid}/maps").read_text(errors="replace"), ram_bytes)
    if found is None:
        return None
    size = os.sysconf("SC_PAGE_SIZE")
    zero = bytes(size)
    filled = 0
    with (
        Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap,
        Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory,
    ):
        for _ in range(_SAMPLES):
            page = found // size + random.randrange(ram_bytes // size)
            (entry,) = _ENTRY.unpack(os.pread(pagemap.fileno(), _ENTRY.size, page * _ENTRY.size))
            if entry & _SWAPPED:
                filled += 1
            elif entry & _PRESENT:
                filled += os.pread(memory.fileno(), size, page * size) != zero
    return filled / _SAMPLES


def _ram(maps: str, ram_bytes: int) -> int | None:
    """Where the guest's RAM begins: the one mapping of its size (QEMU fences it with others)."""
    starts = [
        int(start, 16)
        for start, end in _MAPPING.findall(maps)
        if int(end, 16) - int(start, 16) == ram_bytes
    ]
    return starts[0] if len(starts) == 1 else None
