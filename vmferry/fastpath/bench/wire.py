"""A card of a guest on a bridge of the benchmark's own, and frames sent to it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from vmferry.errors import VmferryError
from vmferry.host.links import remove_unused_bridge
from vmferry.host.taps import open_tap, wake_vhost

BRIDGE = "vmfbench"
MAC = "52:54:00:be:9c:01"
_FLOWS = 64
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Wire:
    """A tap for QEMU: its name, QEMU's arguments for a card on it, the descriptors to pass."""

    tap: str
    arguments: tuple[str, ...]
    descriptors: tuple[int, ...]


@contextlib.contextmanager
def wire(queues: int, *, vhost: bool) -> Iterator[Wire]:
    """A tap on the bridge for one `with`; both go at its end. Raises NetworkError."""
    tap = open_tap(BRIDGE, queues, vhost=vhost, create_bridge=True)
    try:
        netdev = f"tap,id=net,fds={_joined(tap.queues)}"
        if vhost:
            netdev += f",vhost=on,vhostfds={_joined(tap.vhost)}"
        card = f"virtio-net-pci,netdev=net,mac={MAC},romfile="
        if queues > 1:
            card += f",mq=on,vectors={2 * queues + 2}"
        words = ("-netdev", netdev, "-device", card)
        yield Wire(tap.name, words, (*tap.queues, *tap.vhost))
    finally:
        tap.close()
        remove_unused_bridge(BRIDGE)


def has_vhost() -> bool:
    """Whether vhost-net can be used here; the kernel loads it where it is asked for."""
    wake_vhost()
    return os.access("/dev/vhost-net", os.R_OK | os.W_OK)


def problem() -> str:
    """Why no such card can be had here; empty where it can."""
    try:
        with wire(2, vhost=False):
            return ""
    except VmferryError as error:
        return error.message + (f" ({error.hint})" if error.hint else "")


def flood(seconds: float) -> int:
    """Send small packets of many flows to the card's guest; returns how many. Raises OSError."""
    frames = [_frame(flow) for flow in range(_FLOWS)]
    sent = 0
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as line:
        line.bind((BRIDGE, 0))  # receives nothing
        while time.monotonic() < end:
            for number in range(_BATCH):
                with contextlib.suppress(BlockingIOError, InterruptedError):
                    line.send(frames[(sent + number) % _FLOWS])
            sent += _BATCH
    return sent


def _frame(flow: int) -> bytes:
    """An Ethernet frame with a UDP packet; the ports are what makes a flow."""
    data = bytes(64)
    udp = struct.pack(">HHHH", 10000 + flow, 20000 + 7 * flow, 8 + len(data), 0)
    addresses = socket.inet_aton("198.18.0.1") + socket.inet_aton("198.18.0.2")
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(data), flow, 0, 64, 17, 0) + addresses
    whole = sum(struct.unpack(">10H", head))
    checksum = ~((whole & 0xFFFF) + (whole >> 16)) & 0xFFFF
    head = head[:10] + struct.pack(">H", checksum) + head[12:]
    ethernet = bytes.fromhex(MAC.replace(":", "")) + bytes.fromhex("0200000000aa") + b"\x08\x00"
    return ethernet + head + udp + data


def _joined(descriptors: tuple[int, ...]) -> str:
    return ":".join(map(str, descriptors))
