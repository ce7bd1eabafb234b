"""How interrupts of a device's queues are spread over queues and CPUs of the guest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

from vmferry.fastpath.facts import PerCpu
from vmferry.units import format_share

# Below this share of all, a queue's or CPU's interrupts are noise (a control message, a timer).
BUSY_SHARE = 0.05
# From this share on, one CPU has them all: two queues on two CPUs would come to a half each.
CONCENTRATED = 0.9
# So few interrupts tell nothing about shares: at 50 the error of a half is 7 per cent.
FEWEST_INTERRUPTS = 50

_QUEUE_NUMBER = re.compile(r"\.(\d+)$")
_BY_LINE = re.compile(r"(?:^|, )virtio\d+(?:,|$)")


@dataclass(frozen=True, slots=True)
class Spread:
    """`rows`: interrupts by queue and CPU, a queue's input and output together; `shared`: those of
    a vector that serves all queues; `cpus`: all of them by CPU."""

    rows: Mapping[str, PerCpu]
    shared: int
    cpus: PerCpu

    @property
    def queues(self) -> Mapping[str, int]:
        return {name: sum(counts) for name, counts in self.rows.items()}

    @property
    def total(self) -> int:
        return sum(self.cpus)

    @property
    def busy_queues(self) -> int:
        return _busy(tuple(self.queues.values()))

    @property
    def busy_cpus(self) -> int:
        return _busy(self.cpus)

    @property
    def top_share(self) -> float:
        """The share of the CPU that has most."""
        return max(self.cpus, default=0) / self.total if self.total else 0.0

    @property
    def concentrated(self) -> bool:
        """Whether one CPU has the interrupts of all queues in use. One queue that has most of the
        load gives its CPU most interrupts too, wherever those of the others go."""
        busy = [
            row for row in self.rows.values() if self.total and sum(row) >= BUSY_SHARE * self.total
        ]
        own = {row.index(max(row)) for row in busy}
        return self.top_share >= CONCENTRATED and len(own) == 1

    def __str__(self) -> str:
        queues = ", ".join(f"{name}: {count:,}" for name, count in sorted(self.queues.items()))
        if self.shared:
            queues = ", ".join(filter(None, [queues, f"all queues together: {self.shared:,}"]))
        cpus = ", ".join(f"CPU {index}: {count:,}" for index, count in enumerate(self.cpus))
        top = f"; the busiest CPU has {format_share(self.top_share)}" if self.total else ""
        return f"{queues or 'none'}; by CPU {cpus or 'none'}{top}"


def spread_of(interrupts: Mapping[str, PerCpu]) -> Spread:
    """From the rows of /proc/interrupts of one device; configuration's vector does not count."""
    rows: dict[str, PerCpu] = {}
    shared = 0
    cpus: tuple[int, ...] = ()
    for name, counts in interrupts.items():
        if not _serves_queues(name):
            continue
        cpus = _sum(cpus, counts)
        if _is_shared(name):
            shared += sum(counts)
            continue
        found = _QUEUE_NUMBER.search(name)
        # virtio-scsi gives all its queues one name; the reader tells them apart by their interrupt.
        queue = f"queue {found[1]}" if found else name
        rows[queue] = _sum(rows.get(queue, ()), counts)
    return Spread(rows, shared, cpus)


def shares_one_vector(interrupts: Mapping[str, PerCpu]) -> bool:
    """Whether the driver had too few vectors and put all queues on one."""
    names = [name for name in interrupts if _serves_queues(name)]
    return bool(names) and all(_is_shared(name) for name in names)


def _sum(one: PerCpu, other: PerCpu) -> PerCpu:
    return tuple(a + b for a, b in zip_longest(one, other, fillvalue=0))


def _is_shared(name: str) -> bool:
    """The kernel's own name is `virtio0-virtqueues`; with INTx it is `virtio0`, alone or beside
    other devices on the same line (`virtio0, uhci_hcd:usb1`)."""
    return name.endswith("virtqueues") or _BY_LINE.search(name) is not None


def _serves_queues(name: str) -> bool:
    return not name.endswith(("config", "control", "event"))


def _busy(counts: tuple[int, ...]) -> int:
    total = sum(counts)
    return sum(1 for count in counts if total and count / total >= BUSY_SHARE)
