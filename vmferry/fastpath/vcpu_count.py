"""How many vCPUs a VM has, and may have: further ones can be plugged in while it runs. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from vmferry.fastpath.facts import VmFacts
from vmferry.fastpath.finding import Evidence
from vmferry.fastpath.verdicts import counted, saw


@dataclass(frozen=True, slots=True)
class VcpuCount:
    """vCPUs that there are, and the most that there may be (maxcpus)."""

    now: int
    most: int

    @classmethod
    def of(cls, vm: VmFacts | None, now: int) -> VcpuCount:
        """Where QEMU does not say how many there may be, `now`."""
        return cls(now, max(now, (vm.most_vcpus if vm else None) or 0))

    def __str__(self) -> str:
        words = counted(self.now, "vCPU")
        return words if self.most == self.now else f"{words}, of which there may be {self.most}"

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        found = (saw("QMP query-cpus-fast", counted(self.now, "vCPU")),)
        more = (saw("QOM /machine smp, maxcpus", self.most),) if self.most > self.now else ()
        return (*found, *more)
