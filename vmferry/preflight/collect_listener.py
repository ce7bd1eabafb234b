"""Who waits for the stream. The kernel's tables are read, no more: a QEMU that waits with -incoming
would take a probing connection for the stream."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from vmferry.vm.address import Destination, Local, Tcp

_ACCEPTS = 0x10000  # __SO_ACCEPTCON, of /proc/net/unix
_LISTENS = "0A"  # TCP_LISTEN
# A line of /proc/net/unix: seven columns, and the name, which may have spaces.
_UNIX_COLUMNS = 7
_TCP_INODE = 9

Inodes = frozenset[str]


@dataclass(frozen=True, slots=True)
class Listener:
    """Whether somebody waits, and where that was read; or None, and why it cannot be told.

    `itself`: it is the destination's own QEMU, where that can be told.
    """

    found: bool | None
    where: str
    itself: bool | None = None


def listens_at(
    to: Destination, here: bool, source: int | None, destination: int | None
) -> Listener:
    """Who waits at `to`, as the source would find it. `here`: `to` is an address of this host.
    `source` and `destination` are pids: each may be in namespaces of its own."""
    if isinstance(to, Local):
        return Listener(None, "vmferry starts the destination itself")
    if isinstance(to, Tcp) and not here:
        why = f"{to.host} is another host, and a probing connection would end QEMU there"
        return Listener(None, why)
    if source is None:
        return Listener(None, "where the source would connect to cannot be seen from here")
    if isinstance(to, Tcp):
        tables = [_table(source, name) for name in ("tcp", "tcp6")]
        if not any(tables):
            return Listener(None, f"/proc/{source}/net/tcp cannot be read")
        inodes = frozenset().union(*(tcp_listeners(one).get(to.port, ()) for one in tables))
        return _who(inodes, destination, "/proc/net/tcp")
    return _at_path(to.path, source, destination)


def _at_path(path: Path, source: int, destination: int | None) -> Listener:
    is_socket = _is_socket(path, source)
    if is_socket is None:
        return Listener(None, "the source's files cannot be seen from here")
    if not is_socket:
        return Listener(False, f"{path} is no socket")
    pids = [one for one in (source, destination) if one is not None]
    listeners: dict[str, Inodes] = {}
    for table in (_table(pid, "unix") for pid in pids):
        for name, inodes in unix_listeners(table).items():
            listeners[name] = listeners.get(name, frozenset()) | inodes
    if str(path) in listeners:
        return _who(listeners[str(path)], destination, "/proc/net/unix")
    # The table has each name as it was bound: perhaps from another folder, or through a link.
    if any(Path(name).name == path.name for name in listeners):
        why = f"somebody listens at a socket of this name, but maybe not at {path}"
        return Listener(None, why)
    if destination is None:
        return Listener(None, f"nobody that can be seen from here listens at {path}")
    return Listener(False, "/proc/net/unix")


def _who(inodes: Inodes, destination: int | None, where: str) -> Listener:
    sockets = _sockets(destination) if destination is not None else None
    itself = None if sockets is None or not inodes else not sockets.isdisjoint(inodes)
    return Listener(bool(inodes), where, itself)


def _sockets(process: int) -> Inodes | None:
    """The sockets that a process has open, by inode; None where that may not be seen."""
    found = set()
    try:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                kind, _, inode = str(descriptor.readlink()).partition(":")
                if kind == "socket":
                    found.add(inode.strip("[]"))
    except OSError:
        return None
    return frozenset(found)


def _is_socket(path: Path, process: int) -> bool | None:
    """Whether a process sees a socket there; None where its files cannot be looked at."""
    root = Path(f"/proc/{process}/root")
    try:
        root.readlink()
        return (root / str(path).lstrip("/")).is_socket()
    except OSError:
        return None


def _table(process: int, name: str) -> str:
    """A table of the network that a process is in; empty where it may not be read."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/net/{name}").read_text()
    return ""


def unix_listeners(table: str) -> dict[str, Inodes]:
    """The names that a table like /proc/net/unix has listeners for, and their inodes."""
    found: dict[str, Inodes] = {}
    for line in table.splitlines()[1:]:
        row = line.split(None, _UNIX_COLUMNS)
        if len(row) > _UNIX_COLUMNS and int(row[3], 16) & _ACCEPTS:
            name, inode = row[_UNIX_COLUMNS], row[_UNIX_COLUMNS - 1]
            found[name] = found.get(name, frozenset()) | {inode}
    return found


def tcp_listeners(table: str) -> dict[int, Inodes]:
    """The ports that a table like /proc/net/tcp has listeners for, and their inodes."""
    found: dict[int, Inodes] = {}
    for line in table.splitlines()[1:]:
        row = line.split()
        if row[3] == _LISTENS:
            port = int(row[1].rpartition(":")[2], 16)
            found[port] = found.get(port, frozenset()) | {row[_TCP_INODE]}
    return found


def is_here(to: Destination) -> bool:
    """Whether it is on this host: an address of one of its network cards."""
    if not isinstance(to, Tcp):
        return True
    try:
        rows = socket.getaddrinfo(to.host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    cards = psutil.net_if_addrs().values()
    ours = {_plain(one.address) for card in cards for one in card}
    asked = {_plain(str(address[0])) for *_, address in rows}
    return not ours.isdisjoint(asked) or any(one.startswith("127.") for one in asked)


def _plain(address: str) -> str:
    """Without the card that an IPv6 address is for."""
    return address.partition("%")[0]
