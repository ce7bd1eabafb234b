"""Taps, their bridges and the cards behind these, by rtnetlink in the network namespace of QEMU.

Not by /sys/class/net: that shows the namespace in which sysfs was mounted.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmferry.fastpath.facts import Tap
from vmferry.host.kernel_files import reason_of

# linux/sched.h, linux/sockios.h and linux/ethtool.h.
_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL = 0x8946
_ETHTOOL_GSG = 0x18
_DEPTH_MOST = 8
# A software host takes seconds to load the library.
_ANSWER_SECONDS = 15.0
# Ways out of the machine without a card of their own: where these lead is for routes to say.
_TUNNELS = ("vxlan", "geneve", "gretap", "ip6gretap", "erspan")
# As the guest sees it: what it sends, the tap receives.
_COUNTERS = {
    "sent_packets": "rx_packets",
    "sent_bytes": "rx_bytes",
    "received_packets": "tx_packets",
    "received_bytes": "tx_bytes",
}
# A macvtap is an interface of the guest's own: what the guest sends, it sends.
_MACVTAP_COUNTERS = {
    "sent_packets": "tx_packets",
    "sent_bytes": "tx_bytes",
    "received_packets": "rx_packets",
    "received_bytes": "rx_bytes",
}


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. `master` and `below` are indices; `real`: a device of the machine."""

    index: int
    name: str
    kind: str
    mtu: int | None
    master: int
    below: int
    real: bool
    multi_queue: bool
    queues: int | None
    disabled: int | None
    counters: Mapping[str, int]
    scatter_gather: bool | None = None


@dataclass(frozen=True, slots=True)
class Links:
    """All interfaces of one namespace at one moment; none where `problem` says why."""

    links: Mapping[str, Link] = field(default_factory=dict)
    problem: str = ""

    def tap(self, name: str) -> Tap | None:
        """A tap with its bridge, where it is one; a macvtap leaves by the interface below it."""
        link = self.links.get(name)
        if link is None or link.kind not in ("tun", "macvtap"):
            return None
        bridge = next((one for one in self.links.values() if one.index == link.master), None)
        ports = [] if bridge is None else [one for one in self._of(bridge) if one is not link]
        ways = self._under(link) if link.kind == "macvtap" else ports
        return Tap(
            name=name,
            kind=link.kind,
            multi_queue=link.multi_queue,
            queues=link.queues,
            disabled=link.disabled,
            bridge="" if bridge is None else bridge.name,
            mtu=link.mtu,
            bridge_ports=tuple(port.name for port in ports),
            uplinks={
                way.name: found[0].scatter_gather if found else None
                for way in ways
                if (found := self._real(way, _DEPTH_MOST)) or way.kind in _TUNNELS
            },
        )

    def counters(self, name: str) -> Mapping[str, int] | None:
        """What the guest sent and received through a tap so far."""
        link = self.links.get(name)
        return None if link is None else link.counters

    def _of(self, master: Link) -> list[Link]:
        return [one for one in self.links.values() if one.master == master.index]

    def _under(self, link: Link) -> list[Link]:
        return [one for one in self.links.values() if one.index == link.below and one is not link]

    def _real(self, link: Link, depth: int) -> list[Link]:
        """The real cards that a port stands on: itself, below a VLAN, the members of a bond."""
        if link.real:
            return [link]
        if depth == 0:
            return []
        members = self._of(link) if link.kind in ("bond", "team") else []
        return [
            real for one in (*self._under(link), *members) for real in self._real(one, depth - 1)
        ]


def read_links(pid: int | None) -> Links:
    """The interfaces of that process's network namespace; of ours where it is None.

    Never raises: a namespace that may not be entered is an answer, and so is silence.
    """
    found: queue.SimpleQueue[Links] = queue.SimpleQueue()
    # A thread of its own: a namespace is entered by the thread, and this one then ends.
    threading.Thread(target=lambda: found.put(_read(pid)), daemon=True).start()
    try:
        return found.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        return Links(problem=f"rtnetlink does not answer within {_ANSWER_SECONDS:g} s")


def _read(pid: int | None) -> Links:
    foreign = False
    try:
        if pid is not None:
            path = f"/proc/{pid}/ns/net"
            try:
                foreign = Path(path).readlink() != Path("/proc/self/ns/net").readlink()
            except PermissionError:
                return Links(problem="this user may not see the network namespace of QEMU")
            if foreign:
                _enter(path)
        from pyroute2 import IPRoute

        with (
            IPRoute() as route,
            contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asked,
        ):
            found = [_link(message, foreign, asked) for message in route.get_links()]
    except OSError as error:
        return Links(problem=reason_of(error, "the network namespace of QEMU"))
    except Exception as error:  # the library raises classes of its own
        return Links(problem=f"rtnetlink does not tell: {error}")
    return Links({link.name: link for link in found})


def _enter(path: str) -> None:
    """Raises OSError where this user may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def _link(message: Any, foreign: bool, asked: socket.socket) -> Link:
    name = str(message.get_attr("IFLA_IFNAME"))
    info = message.get_attr("IFLA_LINKINFO")
    kind = "" if info is None else str(info.get_attr("IFLA_INFO_KIND") or "")
    data = None if info is None else info.get_attr("IFLA_INFO_DATA")
    get: Callable[[str], Any] = getattr(data, "get_attr", lambda _: None)
    counters = _MACVTAP_COUNTERS if kind == "macvtap" else _COUNTERS
    stats = message.get_attr("IFLA_STATS64") or {}
    parent = message.get_attr("IFLA_PARENT_DEV_NAME")
    real = bool(parent) or (not foreign and Path("/sys/class/net", name, "device").exists())
    multi_queue = kind == "tun" and bool(get("IFLA_TUN_MULTI_QUEUE"))
    # An index of another namespace is that of something else here.
    elsewhere = message.get_attr("IFLA_LINK_NETNSID") is not None
    return Link(
        index=int(message["index"]),
        name=name,
        kind=kind,
        mtu=message.get_attr("IFLA_MTU"),
        master=message.get_attr("IFLA_MASTER") or 0,
        below=0 if elsewhere else message.get_attr("IFLA_LINK") or 0,
        real=real,
        multi_queue=multi_queue,
        # The kernel counts the queues of multi-queue taps only; another one has its one.
        queues=get("IFLA_TUN_NUM_QUEUES") if multi_queue else 1 if kind == "tun" else None,
        disabled=get("IFLA_TUN_NUM_DISABLED_QUEUES") if multi_queue else 0,
        counters={ours: int(stats[theirs]) for ours, theirs in counters.items() if stats},
        scatter_gather=_scatter_gather(name, asked) if real else None,
    )


def _scatter_gather(name: str, asked: socket.socket) -> bool | None:
    """Whether a card sends from scattered memory, without which nothing is sent uncopied."""
    value = (ctypes.c_uint32 * 2)(_ETHTOOL_GSG, 0)
    request = struct.pack("16sP16x", name.encode()[:15], ctypes.addressof(value))
    try:
        fcntl.ioctl(asked, _SIOCETHTOOL, request)
    except OSError:
        return None
    return bool(value[1])
