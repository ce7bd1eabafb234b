"""The network cards of a QEMU: their queues in QEMU, in vhost and in the tap.

QMP has no command that lists backends; `info network` of the human monitor does, one line for each
queue, and reads only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vmferry.fastpath.collect_qom import Asker, Device, read_devices, read_virtio
from vmferry.fastpath.collect_taps import Links
from vmferry.fastpath.facts import Card
from vmferry.host.open_files import OpenFiles

# `net0: index=0,type=nic,…`, and below it, after ` \ `, the backend that it is joined to.
_LINE = re.compile(r"^(?: \\ )?(\S.*?): index=\d+,type=([\w-]+)(?:,(.*?))?\s*$", re.MULTILINE)
_INTERFACE = re.compile(r"(?:^|,)ifname=([^,]+)")
_BRIDGE = re.compile(r"(?:^|,)helper=.*,br=([^,]+)")
_DESCRIPTOR = re.compile(r"(?:^|,)fd=(\d+)")
_MODELS = (
    *("virtio-net", "e1000", "e1000e", "igb", "rtl8139", "vmxnet3", "pcnet", "ne2k", "i8255"),
    *("tulip", "usb-net", "sungem", "xen-net", "spapr-vlan"),
)


@dataclass(frozen=True, slots=True)
class Backend:
    """A netdev. `interface` of the host is empty where it has none or cannot be seen; `bridge` is
    the one for which QEMU's helper made a tap."""

    kind: str
    queues: int
    interface: str
    bridge: str = ""


async def read_cards(
    asker: Asker, virtio: Mapping[str, str], files: OpenFiles | None, links: Links
) -> tuple[list[Card], dict[str, str]] | None:
    """The cards, and the tap of each by the card's name; None where QEMU does not list them."""
    devices = await read_devices(asker, "cards", lambda model: model.startswith(_MODELS))
    if devices is None:
        return None
    told = await asker.ask("cards", "human-monitor-command", {"command-line": "info network"})
    backends = None
    if told is not None:
        backends = with_helpers_taps(parse_backends(str(told), files), files, links)
    read = await asyncio.gather(
        *(
            _card(asker, virtio, device, backends)
            for device in devices
            if "netdev" in device.properties
        )
    )
    cards = _with_vhost([card for card, _ in read], files)
    return cards, {card.name: interface for card, interface in read if interface}


def parse_backends(text: str, files: OpenFiles | None) -> dict[str, Backend]:
    """Backends by name, from what `info network` printed."""
    found: dict[str, Backend] = {}
    for name, kind, rest in _LINE.findall(text):
        if kind == "nic":
            continue
        before = found.get(name, Backend(kind, 0, ""))
        interface = before.interface or _interface(rest, files)
        bridge = _BRIDGE.search(rest)
        found[name] = replace(
            before,
            queues=before.queues + 1,
            interface=interface,
            bridge=before.bridge if bridge is None else bridge[1],
        )
    return found


def with_helpers_taps(
    backends: Mapping[str, Backend], files: OpenFiles | None, links: Links
) -> dict[str, Backend]:
    """The same with the taps that QEMU's bridge helper made, of which QEMU names the bridge only.

    Of two on one bridge nobody knows which is whose.
    """
    named = {backend.interface for backend in backends.values()}
    taps = {name: links.tap(name) for name in (set(files.taps.values()) if files else set())}
    found = dict(backends)
    for name, backend in backends.items():
        alike = [one for one in backends.values() if one.bridge == backend.bridge]
        there = [
            interface
            for interface, tap in taps.items()
            if interface not in named and tap is not None and tap.bridge == backend.bridge
        ]
        if backend.bridge and len(alike) == len(there) == 1:
            found[name] = replace(backend, interface=there[0])
    return found


def _interface(rest: str, files: OpenFiles | None) -> str:
    named = _INTERFACE.search(rest)
    if named is not None:
        return named[1]
    passed = _DESCRIPTOR.search(rest)
    return files.taps.get(int(passed[1]), "") if passed is not None and files is not None else ""


async def _card(
    asker: Asker, virtio: Mapping[str, str], device: Device, backends: Mapping[str, Backend] | None
) -> tuple[Card, str]:
    """The card, and the interface of the host that it is joined to."""

    async def get(name: str) -> object:
        return await asker.get(device.path, name) if name in device.properties else None

    peer, mq, vectors, mac = await asyncio.gather(
        get("netdev"), get("mq"), get("vectors"), get("mac")
    )
    backend = Backend("", 0, "") if not peer or backends is None else backends.get(str(peer))
    kernel_vhost = backend is not None and backend.kind == "tap"
    card = Card(
        name=device.name,
        model=device.model,
        mq=mq if isinstance(mq, bool) else None,
        vectors=vectors if isinstance(vectors, int) else None,
        netdev="" if backend is None else backend.kind,
        queues=None if backend is None or backends is None else backend.queues,
        virtio=await read_virtio(asker, virtio, device, kernel_vhost),
        mac=str(mac or ""),
    )
    return card, "" if backend is None else backend.interface


def _with_vhost(cards: list[Card], files: OpenFiles | None) -> list[Card]:
    """How many of the open /dev/vhost-net are whose: QEMU opens one for each queue, all at once.

    So it is all or none of a card's queues, and whose they are follows where the sum fits.
    """
    taps = [card for card in cards if card.netdev == "tap"]
    if files is None:
        return cards
    queues = sum(card.queues or 0 for card in taps)
    served = [card for card in taps if card.virtio is not None and card.virtio.vhost]
    counts: dict[str, int | None]
    if files.vhost_net == 0:
        counts = {card.name: 0 for card in taps}
    elif files.vhost_net == queues or len(taps) == 1:
        share = files.vhost_net if len(taps) == 1 else None
        counts = {card.name: share if share is not None else card.queues for card in taps}
    elif files.vhost_net == sum(card.queues or 0 for card in served):
        counts = {card.name: card.queues if card in served else 0 for card in taps}
    else:
        counts = {}
    return [
        replace(card, vhost_queues=counts.get(card.name) if card.netdev == "tap" else 0)
        for card in cards
    ]
