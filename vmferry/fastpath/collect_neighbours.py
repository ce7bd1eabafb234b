"""vCPUs of other VMs that share the CPUs of a VM, as far as their threads can be seen.

A VM none of whose vCPUs ran in the window does not count: it is paused, or it is a destination
that waits for its migration. Its own QMP socket is not ours to ask.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from vmferry.fastpath.collect_process import processes
from vmferry.fastpath.facts import VmFacts
from vmferry.host.kernel_files import PROC, read_text, reason_of
from vmferry.host.threads import cores_of

# Seconds that each vCPU of a process has run so far, by its thread; 0 where nobody counts.
Ran: TypeAlias = Mapping[int, Mapping[int, float]]

# Threads that are vCPUs: QEMU's with debug-threads=on, cloud-hypervisor's, Firecracker's.
_VCPU = re.compile(r"CPU \d+/(KVM|TCG)|vcpu\d+|fc_vcpu \d+")
_QEMU = re.compile(r"qemu-system-\S*|qemu-kvm|kvm")
_SMP = re.compile(r"(?:cpus=)?(\d{1,4})(?:,|$)")


def read_neighbours(pid: int, proc: Path = PROC) -> Ran:
    """The vCPUs of all processes but this one. Raises OSError."""
    return {
        other: {tid: _ran(proc / str(other) / "task" / str(tid)) for tid in tids}
        for other, name in processes(proc)
        if other != pid and (tids := _vcpu_threads(other, name, proc))
    }


def with_neighbours(vm: VmFacts, first: Ran) -> VmFacts:
    """`vm` with the neighbours that ran since the first reading."""
    cpus = frozenset[int]().union(*(vcpu.allowed or () for vcpu in vm.vcpus))
    if vm.pid is None or not cpus:
        why = vm.unread.get("vcpus", vm.unread.get("pid", "where its vCPUs may run is not known"))
        return replace(vm, unread={**vm.unread, "neighbours": why})
    try:
        neighbours, confined = count_neighbours(first, read_neighbours(vm.pid), cpus)
    except OSError as error:
        return replace(vm, unread={**vm.unread, "neighbours": reason_of(error, "/proc")})
    return replace(vm, neighbours=neighbours, confined=confined)


def count_neighbours(first: Ran, last: Ran, cpus: frozenset[int]) -> tuple[int, int]:
    """vCPUs of VMs that ran between the readings and may run on these CPUs, and those of them that
    may on no other."""
    allowed = [
        cores_of(tid)
        for pid, now in last.items()
        if not any(now.values()) or now != first.get(pid)
        for tid in now
    ]
    return sum(bool(one & cpus) for one in allowed), sum(
        bool(one) and one <= cpus for one in allowed
    )


def _vcpu_threads(pid: int, name: str, proc: Path) -> list[int]:
    try:
        tids = sorted(int(entry.name) for entry in (proc / str(pid) / "task").iterdir())
    except (OSError, ValueError):
        return []
    if len(tids) == 1:
        return []
    found = []
    for tid in tids:
        with contextlib.suppress(OSError):
            if _VCPU.fullmatch(read_text(proc / str(pid) / "task" / str(tid) / "comm").rstrip()):
                found.append(tid)
    # A QEMU that does not name its threads: as many as it has vCPUs; they have the same CPUs.
    return found if found or not _QEMU.fullmatch(name) else tids[-_smp(pid, proc) :]


def _smp(pid: int, proc: Path) -> int:
    with contextlib.suppress(OSError):
        words = [
            os.fsdecode(word) for word in (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
        ]
        for option, value in itertools.pairwise(words):
            match = _SMP.match(value)
            if option in ("-smp", "--smp") and match is not None and int(match[1]) > 0:
                return int(match[1])
    return 1


def _ran(task: Path) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(read_text(task / "schedstat").split()[0]) / 1e9
    return 0.0
