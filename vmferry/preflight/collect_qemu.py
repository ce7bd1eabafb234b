"""All facts of one QEMU, by QMP and /proc. It is asked only; nothing is set."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vmferry.host.open_files import read_open_files
from vmferry.host.process import ProcessId
from vmferry.preflight.asking import Asking, Executor, scalars
from vmferry.preflight.collect_cpu import read_all_features, read_cpu
from vmferry.preflight.collect_devices import (
    netdevs_of,
    read_devices,
    read_keys,
    read_virtio,
)
from vmferry.preflight.collect_files import Files
from vmferry.preflight.collect_storage import read_drives, read_exports, read_jobs
from vmferry.preflight.facts import (
    Backend,
    Device,
    Link,
    Netdev,
    Qemu,
    QemuProcess,
    RamBlock,
    is_virtio_mem,
)

_RAM_BLOCK = re.compile(
    r"^\s*(?P<name>\S+)\s+(?P<page>\d+) (?P<unit>[KMG])iB\s+0x[0-9a-f]+\s+0x(?P<used>[0-9a-f]+)"
    r"\s+0x(?P<total>[0-9a-f]+)",
    re.MULTILINE,
)
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}
# What becomes part of the guest in a way that the machine's other options do not.
_BOOT_FILES = ("kernel", "initrd", "append", "firmware", "dtb")
_IFF_MULTI_QUEUE = 0x100


async def read_qemu(qemu: Executor, process: ProcessId | None) -> Qemu:
    """Everything about one QEMU. Raises QmpError where it does not answer at all."""
    asking = Asking(qemu)
    version = await qemu.execute("query-version")
    status = await qemu.execute("query-status")
    migration = await qemu.execute("query-migrate")
    cpus = await asking.ask("vcpus", "query-cpus-fast")
    sizes = await asking.ask("memory", "query-memory-size-summary")
    machine = await asking.values("/machine", await asking.listed("/machine"))
    capabilities = await asking.ask("capabilities", "query-migrate-capabilities")
    parameters = await asking.ask("parameters", "query-migrate-parameters")
    keys, types = await read_keys(asking)
    seen = None if process is None else await asyncio.to_thread(_process, process, cpus or ())
    files = await asyncio.to_thread(Files.of, process if seen is not None else None)
    devices = await asking.whole("devices", read_devices(asking, keys, types)) if keys else None
    netdevs = await asking.whole("netdevs", _netdevs(asking))
    accelerator = await _accelerator(asking)
    path = cpus[0]["qom-path"] if cpus else ""
    cpu = await asking.whole("vcpus", read_cpu(asking, path, accelerator)) if path else None
    numbers = version["qemu"]
    memory = machine.get("memory", {})
    return Qemu(
        version=(numbers["major"], numbers["minor"], numbers["micro"]),
        package=str(version.get("package", "")),
        runstate=str(status["status"]),
        migration=str(migration.get("status", "none")),
        blocked=tuple(str(reason) for reason in migration.get("blocked-reasons", ())),
        architecture=_of(await asking.ask("architecture", "query-target"), "arch"),
        machine=str(machine["type"]).removesuffix("-machine") if "type" in machine else None,
        machine_options=scalars(machine) or None,
        boot_files={name: str(machine.get(name, "")) for name in _BOOT_FILES} if machine else None,
        confidential=_text(await asking.get("/machine", "confidential-guest-support")),
        accelerator=accelerator,
        uuid=_of(await asking.ask("uuid", "query-uuid"), "UUID"),
        vcpus=None if cpus is None else len(cpus),
        topology=scalars(machine["smp"]) if "smp" in machine else None,
        cpu=cpu,
        memory=None if sizes is None else int(sizes["base-memory"]),
        plugged_memory=_plugged(sizes, devices),
        max_memory=int(memory.get("max-size", memory["size"])) if "size" in memory else None,
        ram_blocks=await asking.whole("ram_blocks", _ram_blocks(asking)),
        backends=await asking.whole("backends", _backends(asking, files)),
        devices=devices,
        virtio=await asking.whole("virtio", read_virtio(asking, keys)),
        drives=await asking.whole("drives", read_drives(asking, keys, files)),
        jobs=await asking.whole("jobs", read_jobs(asking)),
        exports=await asking.whole("exports", read_exports(asking)),
        netdevs=netdevs,
        links=await asyncio.to_thread(_links, netdevs or (), process if seen is not None else None),
        capabilities=None
        if capabilities is None
        else frozenset(one["capability"] for one in capabilities),
        parameters=None if parameters is None else scalars(parameters),
        process=seen,
        unread=dict(asking.unread),
    )


async def with_all_features(qemu: Executor, seen: Qemu) -> Qemu:
    """The same with every feature of its vCPU by name. Raises QmpGone or QmpMute."""
    if seen.cpu is None:
        return seen
    asking = Asking(qemu)
    features = await asking.whole("vcpus", read_all_features(asking, seen.cpu))
    return replace(seen, cpu=replace(seen.cpu, features=features)) if features else seen


def _plugged(sizes: Mapping[str, Any] | None, devices: tuple[Device, ...] | None) -> int | None:
    """The memory of DIMMs. What a virtio-mem device has plugged comes with the stream: the
    destination has none of it yet."""
    plugged = None if sizes is None else int(sizes.get("plugged-memory", 0))
    if not plugged or devices is None:
        return None if plugged else plugged
    comes_along = [one.properties.get("size", 0) for one in devices if is_virtio_mem(one)]
    return plugged - sum(int(size) for size in comes_along)


async def _ram_blocks(asking: Asking) -> dict[str, RamBlock] | None:
    told = await asking.ask("ram_blocks", "x-query-ramblock")
    return None if told is None else ram_blocks_of(str(told["human-readable-text"]))


async def _netdevs(asking: Asking) -> tuple[Netdev, ...] | None:
    words = {"command-line": "info network"}
    told = await asking.ask("netdevs", "human-monitor-command", **words)
    return None if told is None else netdevs_of(str(told))


def _of(answer: Mapping[str, Any] | None, name: str) -> str | None:
    return None if answer is None else str(answer[name])


def _text(value: object) -> str | None:
    return None if value is None else str(value)


async def _accelerator(asking: Asking) -> str | None:
    kvm = await asking.ask("accelerator", "query-kvm")
    if kvm is None:
        return None
    return "kvm" if kvm["enabled"] else "tcg"


def ram_blocks_of(told: str) -> dict[str, RamBlock]:
    """What QMP x-query-ramblock says; it is text for people."""
    return {
        row["name"]: RamBlock(
            int(row["page"]) * _UNITS[row["unit"]], int(row["used"], 16), int(row["total"], 16)
        )
        for row in _RAM_BLOCK.finditer(told)
    }


async def _backends(asking: Asking, files: Files) -> tuple[Backend, ...] | None:
    rows = await asking.ask("backends", "query-memdev")
    if rows is None:
        return None
    found = []
    for row in rows:
        key = str(row.get("id", ""))
        path = f"/objects/{key}"
        type_ = await asking.get(path, "type") if key else None
        if type_ is None:
            # `-m` alone: the machine's own, which has no place among the objects.
            type_ = "memory-backend-ram"
        place = str(await asking.get(path, "mem-path") or "") if type_.endswith("-file") else ""
        found.append(
            Backend(
                key,
                str(type_),
                int(row["size"]),
                bool(row["share"]),
                place,
                files.named(place) if place else None,
            )
        )
    return tuple(found)


def _process(process: ProcessId, vcpus: Sequence[Mapping[str, Any]]) -> QemuProcess | None:
    """None where it has ended, or may not be looked at."""
    folder = Path(f"/proc/{process.pid}")
    try:
        (folder / "root").readlink()
    except OSError:
        return None
    return QemuProcess(
        pid=process.pid,
        resident=process.resident_bytes() or 0,
        cpus=_cpus(folder, vcpus),
        vhost_net=_vhost_net(process.pid),
    )


def _cpus(folder: Path, vcpus: Sequence[Mapping[str, Any]]) -> int | None:
    """How many host CPUs the threads of its vCPUs may use together."""
    allowed: set[int] = set()
    for vcpu in vcpus:
        # In a container it has other numbers for its threads, which say nothing here.
        thread = str(vcpu.get("thread-id"))
        if not (folder / "task" / thread).is_dir():
            return None
        with contextlib.suppress(OSError):
            allowed |= os.sched_getaffinity(int(thread))
    return len(allowed) or None


def _vhost_net(pid: int) -> int | None:
    try:
        return read_open_files(pid).vhost_net
    except OSError:
        return None


def _links(netdevs: tuple[Netdev, ...], process: ProcessId | None) -> dict[str, Link]:
    """The taps that can be seen from here; those of another network namespace cannot, though here
    may be others of the same names."""
    found: dict[str, Link] = {}
    if process is None or not _same_network(process):
        return found
    for tap in {netdev.tap for netdev in netdevs if netdev.tap}:
        folder = Path("/sys/class/net") / tap
        with contextlib.suppress(OSError, ValueError):
            bridge = folder / "brport/bridge"
            found[tap] = Link(
                mtu=int((folder / "mtu").read_text()),
                bridge=bridge.readlink().name if bridge.is_symlink() else "",
                multi_queue=bool(int((folder / "tun_flags").read_text(), 16) & _IFF_MULTI_QUEUE),
            )
    return found


def _same_network(process: ProcessId) -> bool:
    with contextlib.suppress(OSError):
        ours, theirs = (Path(f"/proc/{one}/ns/net").readlink() for one in ("self", process.pid))
        return ours == theirs
    return False
