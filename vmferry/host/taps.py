"""Taps: network interfaces whose other end is a file of ours, which a hypervisor is given.

Such a tap is there as long as somebody has it open. So there is nothing to clean up: it goes when
its VM ends, however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from vmferry.host.links import NetworkError, NotAllowedError, attach

# Of linux/if_tun.h.
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
_IFREQ = struct.Struct("16sH22x")
_TUN, _VHOST = "/dev/net/tun", "/dev/vhost-net"
# The kernel puts the first free number in.
_NAME = b"vmferry%d"


@dataclass(frozen=True, slots=True)
class Tap:
    """An open tap: a descriptor for each queue, and one for each of its vhost, where it has any."""

    name: str
    queues: tuple[int, ...]
    vhost: tuple[int, ...]

    def close(self) -> None:
        for descriptor in (*self.queues, *self.vhost):
            os.close(descriptor)


def open_tap(bridge: str, queues: int, *, vhost: bool, create_bridge: bool) -> Tap:
    """A new tap on a bridge. Raises NetworkError, NotAllowedError where this user may not."""
    with contextlib.ExitStack() as undo:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if queues > 1 else 0)
        name = _NAME
        descriptors = []
        for _ in range(queues):
            descriptor = _open(_TUN, "modprobe tun")
            undo.callback(os.close, descriptor)
            name = _bind(descriptor, name, flags)
            descriptors.append(descriptor)
        served = []
        for _ in range(queues if vhost else 0):
            served.append(_open(_VHOST, "modprobe vhost_net, or set vhost = false for the card"))
            undo.callback(os.close, served[-1])
        attach(name.decode(), bridge, create=create_bridge)
        undo.pop_all()
    return Tap(name.decode(), tuple(descriptors), tuple(served))


def wake_vhost() -> None:
    """Have the kernel load vhost-net, which it does when its device is opened."""
    with contextlib.suppress(OSError):
        os.close(os.open(_VHOST, os.O_RDWR | os.O_CLOEXEC))


def _open(device: str, remedy: str) -> int:
    try:
        return os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NotAllowedError(f"this user may not open {device}") from None
        raise NetworkError(f"cannot open {device}: {error.strerror}", hint=remedy) from None


def _bind(descriptor: int, name: bytes, flags: int) -> bytes:
    """Make the descriptor a queue of the tap `name`; returns the name that the tap has."""
    try:
        answer = fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(name, flags))
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise NotAllowedError("this user may not make a tap") from None
        raise NetworkError(f"cannot make a tap: {error.strerror}") from None
    return bytes(_IFREQ.unpack(answer)[0]).rstrip(b"\0")
