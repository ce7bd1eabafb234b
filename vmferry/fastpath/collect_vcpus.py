"""The vCPUs of a QEMU: their threads, where these may run, and what the guest's CPUID shows."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from vmferry.fastpath.collect_qom import Asker
from vmferry.fastpath.facts import Vcpu
from vmferry.host.kernel_files import read_text
from vmferry.host.threads import cores_of

# Not all 440: each is a question of its own, which keeps QEMU from serving the VM in the window.
# Spellings with underscores are older ones of the same.
_WANTED = re.compile(
    r"kvm(clock)?[a-z0-9-]*|invtsc|tsc-deadline|hypervisor|x2apic|migratable|svm|vmx"
)
_INNER_TIDS = re.compile(r"^NSpid:(.*)$", re.MULTILINE)


async def read_vcpus(asker: Asker, pid: int | None) -> tuple[Vcpu, ...] | None:
    """All vCPUs; None where QEMU does not say."""
    told = await asker.ask("vcpus", "query-cpus-fast")
    if told is None:
        return None
    outer = {} if pid is None else await asyncio.to_thread(outer_tids, pid)
    found = []
    for one in sorted(told, key=lambda one: int(one["cpu-index"])):
        tid = outer.get(int(one["thread-id"]))
        allowed = None if tid is None else cores_of(tid) or None
        found.append(Vcpu(int(one["cpu-index"]), tid, allowed, str(one["qom-path"])))
    if pid is not None and not any(one.tid for one in found):
        asker.unread["vcpus"] = "the threads that QEMU names are not among its process's"
    return tuple(found)


async def read_most(asker: Asker) -> int | None:
    """vCPUs that there may be, those that can be plugged in included; before QEMU 6.1 not known."""
    told = await asker.get("/machine", "smp")
    return None if told is None else int(told["maxcpus"])


async def read_features(asker: Asker, path: str) -> dict[str, bool] | None:
    """The boolean properties of a vCPU that bear on a fast path."""
    listed = await asker.list(path, "features")
    if listed is None:
        return None
    names = [name for name, kind in listed.items() if kind == "bool" and _WANTED.fullmatch(name)]
    values = await asyncio.gather(*(asker.get(path, name) for name in names))
    return {
        name: value for name, value in zip(names, values, strict=True) if isinstance(value, bool)
    }


def accelerator_of(words: Sequence[str] | None, kvm: bool | None) -> str | None:
    """QMP tells of KVM only; which other one it is, is on the command line, and tcg without."""
    if kvm:
        return "kvm"
    if words is None:
        return None
    for option, value in itertools.pairwise(words):
        if option in ("-accel", "--accel"):
            first = value.removeprefix("accel=").partition(",")[0]
            if first != "kvm":
                return first
        elif option in ("-machine", "--machine", "-M"):
            for part in value.split(","):
                if part.startswith("accel=") and part != "accel=kvm":
                    # `kvm:tcg` is a list of those to try.
                    return part.removeprefix("accel=").rpartition(":")[2]
    return "tcg"


def outer_tids(pid: int) -> dict[int, int]:
    """Our numbers of the process's threads by its own: a container may count for itself."""
    found = {}
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, ValueError):
                tids = _INNER_TIDS.search(read_text(path / "status"))
                inner = tids[1].split()[-1] if tids is not None else path.name
                found[int(inner)] = int(path.name)
    return found
