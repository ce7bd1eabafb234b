"""Which device of the destination stands for which of the source, and where each is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmferry.preflight.checks.common import told
from vmferry.preflight.facts import BUILT_IN, Device, Facts

# Where on its bus a device is.
ADDRESS = ("addr", "nr", "channel", "scsi-id", "lun", "unit", "port")


@dataclass(frozen=True, slots=True)
class Paired:
    """The devices of both sides, matched by key, else by type and place; and the rest.

    `alike` says that one version of QEMU has built both boards.
    """

    pairs: tuple[tuple[Device, Device], ...]
    missing: tuple[Device, ...]
    extra: tuple[Device, ...]
    alike: bool = True

    def moved(self) -> list[tuple[Device, Device]]:
        """Those that are at another place of the destination."""
        as_ours = {theirs.key: ours.key for ours, theirs in self.pairs}
        return [
            (ours, theirs)
            for ours, theirs in self.pairs
            if not _same_place(ours, theirs, as_ours, self.alike)
        ]


def _pair(source: tuple[Device, ...], destination: tuple[Device, ...], alike: bool) -> Paired:
    """Match devices. The destination may have left out ids, or given others."""
    ours = {device.key: device for device in source}
    theirs = {device.key: device for device in destination}
    pairs: list[tuple[Device, Device]] = []

    def take(key: str, other: str) -> None:
        pairs.append((ours.pop(key), theirs.pop(other)))

    for key in _of_one_type(ours, theirs):
        if not _is_number(key):
            take(key, key)
    # Anew after each match: what is on the bus of a device is known when the device is.
    while match := _match(list(ours.values()), list(theirs.values()), pairs, alike):
        take(match[0].key, match[1].key)
    for key in _of_one_type(ours, theirs):
        take(key, key)
    return Paired(tuple(pairs), tuple(ours.values()), tuple(theirs.values()), alike)


def _of_one_type(ours: Mapping[str, Device], theirs: Mapping[str, Device]) -> list[str]:
    """Keys that both sides have, for devices of the same type."""
    return [key for key in ours if key in theirs and ours[key].type == theirs[key].type]


def _is_number(key: str) -> bool:
    """Whether it only says the how many-th of its type a device is, which its place does better."""
    return "#" in key and not key.endswith(BUILT_IN)


def _match(
    source: list[Device],
    destination: list[Device],
    pairs: list[tuple[Device, Device]],
    alike: bool,
) -> tuple[Device, Device] | None:
    """Two devices of one type at one place."""
    as_ours = {theirs.key: ours.key for ours, theirs in pairs}
    for ours in source:
        for theirs in destination:
            if ours.type == theirs.type and _same_place(ours, theirs, as_ours, alike):
                return ours, theirs
    return None


def _same_place(ours: Device, theirs: Device, as_ours: Mapping[str, str], alike: bool) -> bool:
    """Whether both are at the same address of the same bus."""
    if not _same_bus(ours, theirs, as_ours, alike):
        return False
    return all(ours.properties.get(name) == theirs.properties.get(name) for name in ADDRESS)


def _same_bus(ours: Device, theirs: Device, as_ours: Mapping[str, str], alike: bool) -> bool:
    if not alike and _of_the_board(ours) and _of_the_board(theirs):
        # Versions of QEMU have the board's own buses in other places of the object tree.
        return ours.bus.rpartition("/")[2] == theirs.bus.rpartition("/")[2]
    if ours.owner != as_ours.get(theirs.owner, theirs.owner):
        return False
    # QEMU names a bus after its device's id, or by a running number where there is none.
    return ours.owner != theirs.owner or ours.bus == theirs.bus


def _of_the_board(device: Device) -> bool:
    """Whether it is on a bus that the machine has by itself."""
    return not device.owner or device.owner.endswith(BUILT_IN)


def paired(facts: Facts) -> Paired:
    """The devices of both sides. Raises UntoldError."""
    source, destination = facts.pair()
    ours = told(source.devices, source, "devices")
    theirs = told(destination.devices, destination, "devices")
    alike = source.version[:2] == destination.version[:2]
    if not alike:
        # Versions of QEMU build a board of other parts, whose state the machine type keeps alike.
        ours, theirs = _added(ours), _added(theirs)
    return _pair(ours, theirs, alike)


def _added(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """Those that are not built in."""
    return tuple(device for device in devices if not device.key.endswith(BUILT_IN))
