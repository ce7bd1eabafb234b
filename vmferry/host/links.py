"""Bridges of this host and the taps on them, by netlink.

A bridge that vmferry makes has an alias that says so; only such a one is removed, and only when
nothing is on it any more. pyroute2 is imported where it is used, since that takes as long as the
rest of a command, and runs in a thread of its own, since it brings an event loop.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from vmferry.errors import UsageError
from vmferry.host.paths import runtime_dir

if TYPE_CHECKING:
    from pyroute2 import IPRoute

OURS = "made by vmferry"


class NetworkError(UsageError):
    """A tap or a bridge cannot be had."""


class NotAllowedError(NetworkError):
    """This user may not make taps, or not change links."""


def attach(tap: str, bridge: str, *, create: bool) -> None:
    """Put a tap on a bridge and turn it on; with `create` make the bridge where there is none.

    Raises NetworkError.
    """
    _in_a_thread(_attach, tap, bridge, create)


def remove_unused_bridge(name: str) -> None:
    """Remove a bridge that vmferry made, once nothing is on it. Raises NetworkError."""
    _in_a_thread(_remove, name)


def _in_a_thread(work: Callable[..., None], *arguments: object) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(work, *arguments).result()


def _attach(tap: str, bridge: str, create: bool) -> None:
    with _netlink() as netlink:
        found = _bridge(netlink, bridge) or (_made(netlink, bridge) if create else None)
        if found is None:
            raise NetworkError(
                f"there is no bridge {bridge} on this host",
                hint=f"`ip link add {bridge} type bridge && ip link set {bridge} up` makes one; or "
                "set create_bridge = true for the card",
            )
        (index,) = netlink.link_lookup(ifname=tap)
        netlink.link(
            "set",
            index=index,
            master=found["index"],
            mtu=found.get_attr("IFLA_MTU"),
            # A bridge takes the lowest address of its ports for its own: never this one's.
            address=_address("fe"),
            state="up",
        )


def _remove(name: str) -> None:
    with _netlink() as netlink:
        found = _bridge(netlink, name)
        if found is None or found.get_attr("IFLA_IFALIAS") != OURS:
            return
        if not netlink.get_links(master=found["index"]):
            netlink.link("del", index=found["index"])


@contextlib.contextmanager
def _netlink() -> Iterator[IPRoute]:
    """One at a time: a bridge must not go between its making and its first tap."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with (runtime_dir() / "bridges.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with IPRoute() as netlink:
                yield netlink
        except NetlinkError as error:
            if error.code in (errno.EPERM, errno.EACCES):
                raise NotAllowedError("this user may not change the links of this host") from None
            raise NetworkError(f"the kernel refused to set up the network: {error}") from None
        except OSError as error:
            # No netlink here, as in some containers; a VM is stopped all the same.
            raise NetworkError(f"cannot ask for the links of this host: {error}") from None


def _bridge(netlink: IPRoute, name: str) -> Any:
    """The link of that name, None where there is none. Raises NetworkError for one of another
    kind."""
    for index in netlink.link_lookup(ifname=name):
        (link,) = netlink.get_links(index)
        information = link.get_attr("IFLA_LINKINFO")
        if information is None or information.get_attr("IFLA_INFO_KIND") != "bridge":
            raise NetworkError(f"{name} is no bridge")
        return link
    return None


def _made(netlink: IPRoute, name: str) -> Any:
    # A bridge without an address of its own changes it with its ports, and peers would lose it.
    netlink.link("add", ifname=name, kind="bridge", address=_address("52"))
    (index,) = netlink.link_lookup(ifname=name)
    netlink.link("set", index=index, ifalias=OURS, state="up")
    return _bridge(netlink, name)


def _address(first: str) -> str:
    """A random MAC address; its first byte says that it is of local choice."""
    return ":".join([first, *(f"{byte:02x}" for byte in secrets.token_bytes(5))])
