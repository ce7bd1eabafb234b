"""The virtio-scsi controllers and virtio-blk disks of a QEMU, and the threads that serve them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from vmferry.fastpath.collect_qom import Asker, Device, read_devices, read_virtio
from vmferry.fastpath.facts import StorageController

_MODELS = ("virtio-scsi", "virtio-blk")
_MAPPING = "iothread-vq-mapping"
_LINK = re.compile(r"link<(.+)>")
_DISKS = ("scsi-hd", "scsi-block", "scsi-generic", "scsi-disk")


async def read_controllers(
    asker: Asker, virtio: Mapping[str, str]
) -> tuple[list[StorageController], dict[str, str]] | None:
    """The controllers, and whose each disk is: by the name that query-blockstats gives the disk.

    None where QEMU does not list them.
    """
    devices = await read_devices(asker, "controllers", lambda model: model.startswith(_MODELS))
    if devices is None:
        return None
    read = await asyncio.gather(*(_controller(asker, virtio, device) for device in devices))
    owners = {disk: one.name for one, disks in read for disk in disks}
    return [one for one, _ in read], owners


async def read_iothreads(asker: Asker) -> dict[str, int] | None:
    """Thread ids as QEMU counts them, by name."""
    told = await asker.ask("iothreads", "query-iothreads")
    return None if told is None else {str(one["id"]): int(one["thread-id"]) for one in told}


async def read_requests(asker: Asker) -> dict[str, int] | None:
    """Reads, writes and flushes so far, by disk; a disk that no device has is left out."""
    told = await asker.ask("requests", "query-blockstats")
    if told is None:
        return None
    counted = ("rd_operations", "wr_operations", "flush_operations")
    return {
        str(one["qdev"]): sum(int(one["stats"].get(name, 0)) for name in counted)
        for one in told
        if one.get("qdev")
    }


async def _controller(
    asker: Asker, virtio: Mapping[str, str], device: Device
) -> tuple[StorageController, list[str]]:
    """The controller and the names of its disks in query-blockstats: ids, or paths without one."""

    async def get(*names: str) -> object:
        for name in names:
            if name in device.properties:
                return await asker.get(device.path, name)
        return None

    queues, vectors, iothread, mapping = await asyncio.gather(
        get("num_queues", "num-queues"), get("vectors"), get("iothread"), get(_MAPPING)
    )
    if device.model.startswith("virtio-blk"):
        disks = [device.name, device.path, f"{device.path}/virtio-backend"]
        count = 1
    else:
        disks = await _scsi_disks(asker, device)
        count = len(disks)
        disks += [disk.rpartition("/")[2] for disk in disks if "-anon/" not in disk]
    count_of_queues = queues if isinstance(queues, int) else None
    serving, idle = _iothreads(iothread, mapping, count_of_queues)
    controller = StorageController(
        name=device.name,
        model=device.model,
        queues=count_of_queues,
        vectors=vectors if isinstance(vectors, int) else None,
        iothreads=serving,
        idle=idle,
        disks=count,
        virtio=await read_virtio(asker, virtio, device, kernel_vhost=True),
    )
    return controller, disks


def _iothreads(
    iothread: object, mapping: object, queues: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids, from the one that is linked (by its path) or those that the queues are mapped to; and of
    the latter those without a queue: QEMU deals the queues out in turn, unless it is told which."""
    if isinstance(mapping, list) and mapping:
        names = tuple(str(one["iothread"]) for one in mapping)
        dealt = None if any("vqs" in one for one in mapping) else queues
        return names[:dealt], () if dealt is None else names[dealt:]
    return ((str(iothread).rpartition("/")[2],) if iothread else ()), ()


async def _scsi_disks(asker: Asker, device: Device) -> list[str]:
    """The paths of the disks on a controller's bus."""
    found: list[str] = []
    for path in (f"{device.path}/virtio-backend", device.path):
        for bus, model in (await asker.children(path) or {}).items():
            if model.lower() != "scsi":
                continue
            slots = await asker.list(f"{path}/{bus}") or {}
            links = {name: _LINK.fullmatch(kind) for name, kind in slots.items()}
            names = [name for name, link in links.items() if link and link[1].startswith(_DISKS)]
            told = await asyncio.gather(*(asker.get(f"{path}/{bus}", name) for name in names))
            found += [str(one) for one in told if one]
        if found:
            break
    return found
