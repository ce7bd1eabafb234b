"""Asks a QEMU over QMP, only what reads, and finds its devices in the QOM tree.

What is never asked, since it would not only read: `x-query-virtio-status` of kinds of devices that
some QEMU aborts on, and `x-query-virtio-queue-status` of a vhost-user device, which stops the ring
(QEMU: hw/virtio/virtio-qmp.c, virtio.c; docs/interop/vhost-user).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vmferry.fastpath.facts import Virtio
from vmferry.hypervisor.qemu.inquiry import Execute, Inquiry
from vmferry.hypervisor.qemu.qmp import QmpError, QmpGone
from vmferry.hypervisor.qemu.virtio_status import DECODED, bare_names, feature_names

T = TypeVar("T")

_CHILD = re.compile(r"child<(.+)>")
_UNKNOWN_COMMAND = "has not been found"
_NONE = "No virtio devices found"
_QUEUES_MOST = 1024
_FOLDERS = ("/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached")


class Asker:
    """One QEMU. A refusal is None, with its reason in `unread` where a field is named."""

    def __init__(self, execute: Execute, unread: MutableMapping[str, str]) -> None:
        self._inquiry = Inquiry(execute)
        self.unread = unread

    async def ask(
        self, field: str, command: str, arguments: Mapping[str, Any] | None = None
    ) -> Any | None:
        """What QEMU answers. Raises QmpGone where it has ended."""
        try:
            return await self._inquiry.execute(command, arguments)
        except QmpGone:
            raise
        except QmpError as error:
            if field:
                self.unread.setdefault(field, f"QMP {command}: {error}")
            return None

    async def get(self, path: str, name: str, field: str = "") -> Any | None:
        """A property of an object."""
        return await self.ask(field, "qom-get", {"path": path, "property": name})

    async def list(self, path: str, field: str = "") -> dict[str, str] | None:
        """The properties of an object: their types by name."""
        told = await self.ask(field, "qom-list", {"path": path})
        return None if told is None else {str(one["name"]): str(one["type"]) for one in told}

    async def children(self, path: str, field: str = "") -> dict[str, str] | None:
        """The objects below an object: their classes by name."""
        told = await self.list(path, field)
        if told is None:
            return None
        found = {name: _CHILD.fullmatch(kind) for name, kind in told.items()}
        return {name: match[1] for name, match in found.items() if match is not None}


async def understood(asker: Asker, field: str, answer: Awaitable[T]) -> T | None:
    """`answer`; None, and why, where QEMU's words are not as any QEMU is known to speak."""
    try:
        return await answer
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        asker.unread[field] = f"QEMU's answer is not understood ({type(error).__name__}: {error})"
        return None


@dataclass(frozen=True, slots=True)
class Device:
    """A device in QOM. `properties` are types by name; `name` is its id where it has one."""

    path: str
    name: str
    model: str
    properties: Mapping[str, str]


async def read_devices(
    asker: Asker, field: str, wanted: Callable[[str], bool]
) -> list[Device] | None:
    """The devices whose class is wanted, in QEMU's order; None where QOM cannot be listed."""
    folders = await asyncio.gather(*(asker.children(folder, field) for folder in _FOLDERS))
    if folders[0] is None:
        return None
    found = [
        (f"{folder}/{name}", name if folder == _FOLDERS[0] else f"{model} {name}", model)
        for folder, children in zip(_FOLDERS, folders, strict=True)
        for name, model in (children or {}).items()
        if wanted(model)
    ]
    listed = await asyncio.gather(*(asker.list(path) for path, _, _ in found))
    return [
        Device(path, name, model, properties)
        for (path, name, model), properties in zip(found, listed, strict=True)
        if properties is not None
    ]


async def virtio_devices(asker: Asker) -> dict[str, str]:
    """The paths of all virtio devices and their kinds (`virtio-net`); none where QEMU has none or
    cannot tell, which is then `virtio` of what is unread."""
    told = await asker.ask("virtio", "x-query-virtio")
    if told is not None:
        return {str(one["path"]): str(one["name"]) for one in told}
    if _UNKNOWN_COMMAND in asker.unread["virtio"]:
        asker.unread["virtio"] = "this QEMU has no x-query-virtio, which came with QEMU 7.2"
    elif _NONE in asker.unread["virtio"]:
        del asker.unread["virtio"]
    return {}


async def read_virtio(
    asker: Asker, known: Mapping[str, str], device: Device, kernel_vhost: bool
) -> Virtio | None:
    """What a virtio device and its driver agreed on; None where this QEMU does not tell.

    `known` is what `virtio_devices` returned. `kernel_vhost`: where a vhost serves it, it is the
    kernel's, whose rings may be asked.
    """
    path = next(
        (path for path in (device.path, f"{device.path}/virtio-backend") if path in known), None
    )
    if path is None or known[path] not in DECODED:
        return None
    told = await asker.ask("virtio", "x-query-virtio-status", {"path": path})
    if told is None:
        return None
    vhost, queues = bool(told["vhost-started"]), int(told["num-vqs"])
    ready = None
    if kernel_vhost or not vhost:
        ready = await _ready(asker, path, min(queues, _QUEUES_MOST))
    return Virtio(
        offered=feature_names(told["host-features"]),
        taken=feature_names(told["guest-features"]),
        vhost=vhost,
        virtqueues=queues,
        driver_ok="VIRTIO_CONFIG_S_DRIVER_OK" in bare_names(told["status"].get("statuses", ())),
        ready=ready,
    )


async def _ready(asker: Asker, path: str, queues: int) -> int | None:
    """Queues whose rings the driver has put somewhere."""
    told = await asyncio.gather(
        *(
            asker.ask("", "x-query-virtio-queue-status", {"path": path, "queue": queue})
            for queue in range(queues)
        )
    )
    known = [one for one in told if one is not None]
    if len(known) < len(told):
        return None
    return sum(bool(one["vring-desc"]) for one in known)
