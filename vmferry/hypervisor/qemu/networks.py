"""What a VM needs of the host's network: a tap for each card on a bridge, and bridges made for it.

QEMU is given the taps' descriptors, so it needs no privilege, and a tap goes with its QEMU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vmferry.host.links import NetworkError, NotAllowedError, remove_unused_bridge
from vmferry.host.taps import Tap, open_tap
from vmferry.vm.spec import Nic, VmSpec


@dataclass(frozen=True, slots=True)
class Taps:
    """The open taps of one instance, by the place of the card."""

    by_card: Mapping[int, Tap]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What QEMU must inherit."""
        return tuple(
            descriptor for tap in self.by_card.values() for descriptor in (*tap.queues, *tap.vhost)
        )

    @property
    def words(self) -> dict[int, str]:
        """What QEMU is told of each."""
        return {index: _words(tap) for index, tap in self.by_card.items()}


@contextlib.contextmanager
def open_taps(spec: VmSpec) -> Iterator[Taps]:
    """The taps of a new instance, ours until the block ends. Raises NetworkError.

    A card with one queue, whose tap this user may not make, gets none: QEMU's bridge helper may.
    """
    with contextlib.ExitStack() as opened:
        by_card = {}
        for index, nic in enumerate(spec.nic):
            if nic.kind == "bridge" and (tap := _tap(spec, index, nic)) is not None:
                opened.callback(tap.close)
                by_card[index] = tap
        yield Taps(by_card)


@dataclass(frozen=True, slots=True)
class TapByHand:
    """A tap that a person makes: `commands` for a shell, and what QEMU is told of it."""

    commands: tuple[str, ...]
    words: str


def taps_by_hand(spec: VmSpec) -> dict[int, TapByHand]:
    """For each card on a bridge what `open_taps` does, as a person can do it."""
    found = {}
    for index, nic in enumerate(spec.nic):
        if nic.kind == "bridge":
            name, queues = f"tap{index}", nic.queues or 1
            several = " multi_queue" if queues > 1 else ""
            made = (
                (f"ip link add {nic.bridge} type bridge", f"ip link set {nic.bridge} up")
                if nic.create_bridge
                else ()
            )
            found[index] = TapByHand(
                (
                    *made,
                    f"ip tuntap add dev {name} mode tap vnet_hdr{several}",
                    f"ip link set {name} master {nic.bridge} up",
                ),
                f"ifname={name},script=no,downscript=no,queues={queues},"
                f"vhost={'on' if nic.vhost else 'off'}",
            )
    return found


def release_bridges(spec: VmSpec) -> None:
    """Remove those of this VM's bridges that vmferry made, for it or another, if they are empty."""
    for name in {nic.bridge for nic in spec.nic if nic.bridge is not None}:
        # It stays where it cannot be removed; it harms nobody.
        with contextlib.suppress(NetworkError):
            remove_unused_bridge(name)


def _tap(spec: VmSpec, index: int, nic: Nic) -> Tap | None:
    queues, vhost = nic.queues or 1, bool(nic.vhost)
    try:
        return open_tap(nic.bridge or "", queues, vhost=vhost, create_bridge=nic.create_bridge)
    except NotAllowedError as error:
        if queues == 1 and not vhost and not nic.create_bridge:
            return None
        raise NetworkError(
            f"'{spec.name}': card {index} needs a tap on {nic.bridge}: {error.message}",
            hint="run vmferry as root or with the capability CAP_NET_ADMIN; or give the card "
            "queues = 1, vhost = false and a bridge that is there, which QEMU's bridge helper "
            "serves where /etc/qemu/bridge.conf allows it",
        ) from None
    except NetworkError as error:
        raise NetworkError(
            f"'{spec.name}': card {index}: {error.message}", hint=error.hint
        ) from None


def _words(tap: Tap) -> str:
    text = f"fds={_joined(tap.queues)}"
    return f"{text},vhost=on,vhostfds={_joined(tap.vhost)}" if tap.vhost else f"{text},vhost=off"


def _joined(descriptors: tuple[int, ...]) -> str:
    return ":".join(str(descriptor) for descriptor in descriptors)
