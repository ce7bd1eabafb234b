"""The devices of one QEMU, by its object tree: what there is, where, and with which settings."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vmferry.hypervisor.qemu.virtio_status import DECODED, feature_names
from vmferry.preflight.asking import Asking, scalars
from vmferry.preflight.collect_qtree import read_settings
from vmferry.preflight.facts import BUILT_IN, Device, Netdev, Virtio

_NAMED, _UNNAMED, _BUILT_IN = (
    "/machine/peripheral",
    "/machine/peripheral-anon",
    "/machine/unattached",
)
# What names the host's end of a device, says how QEMU serves it, follows from its place, or is
# guessed anew from what is in an image (the geometry of a disk): nothing that the guest was told.
_NOT_READ = frozenset(
    {
        "type",
        "realized",
        "hotplugged",
        "hotpluggable",
        "legacy-addr",
        "romfile",
        "romsize",
        "rombar",
        "cyls",
        "heads",
        "secs",
        "bootindex",
        "drive",
        "netdev",
        "chardev",
        "fsdev",
        "audiodev",
        "memdev",
        "rng",
        "tpmdev",
        "iothread",
        "iothread-vq-mapping",
        "ebpf-rss-fds",
        "failover_pair_id",
        "share-rw",
        "werror",
        "rerror",
        "guest-stats-polling-interval",
        "ioeventfd",
        "request-merging",
        "backend_defaults",
        "max-bytes",
        "period",
        "display",
        "head",
        "attached",
        "big-endian-framebuffer",
        "host",
        "sysfsdev",
        "vhostdev",
        "hostbus",
        "hostaddr",
        "hostport",
        "hostdevice",
        "guest-cid",
        "evdev",
        "tx",
        "virtio-pci-bus-master-bug-migration",
        "migrate-extra",
        "modern-pio-notify",
        "use-started",
        "use-disabled-flag",
    }
)
# Kinds of devices that iothreads may serve.
_SERVED = ("virtio-blk", "virtio-scsi")
_CHILD = re.compile(r"child<(.*)>")
_NUMBER = re.compile(r"device\[(\d+)\]")
_CARD = re.compile(r"^(?P<card>[^:\\ ]+): index=\d+,type=nic,", re.MULTILINE)
_NETDEV = re.compile(r"^ \\ (?P<name>[^:]+): index=\d+,type=(?P<kind>[^,]+),?(?P<rest>.*)$")


async def read_devices(
    asking: Asking, keys: Mapping[str, str], types: Mapping[str, str]
) -> tuple[Device, ...]:
    """Every device but the vCPUs, by `read_keys`; of those that a machine has by itself only which
    there are: the rest follows from the machine type."""
    devices = []
    named = await read_settings(asking)
    for path, key in keys.items():
        if path.startswith(_BUILT_IN):
            devices.append(Device(key, types[path]))
            continue
        owner, bus = _owner_and_bus(str(await asking.get(path, "parent_bus") or ""), keys)
        if path.startswith(f"{_NAMED}/") and key in named:
            values = {name: value for name, value in named[key].items() if _is_told(name)}
        else:
            found = await asking.listed(path)
            told = {name: type_ for name, type_ in found.items() if _is_told(name)}
            values = scalars(await asking.values(path, told))
        iothreads = await _iothreads(asking, path, types[path])
        devices.append(Device(key, types[path], bus, owner, values, iothreads))
    return tuple(devices)


def _is_told(name: str) -> bool:
    """Whether a setting is anything that the guest was told. `x-…` QEMU keeps for itself: it
    follows from the machine type."""
    return name not in _NOT_READ and not name.startswith("x-")


async def _iothreads(asking: Asking, path: str, type_: str) -> frozenset[str]:
    """The ids of those that serve a device; QEMU 9.0 and later has a map from queues to them."""
    if not type_.startswith(_SERVED):
        return frozenset()
    thread = str(await asking.get(path, "iothread") or "").removeprefix("/objects/")
    mapping = await asking.get(path, "iothread-vq-mapping") or ()
    return frozenset({thread, *(str(one["iothread"]) for one in mapping)} - {""})


async def read_keys(asking: Asking) -> tuple[dict[str, str], dict[str, str]]:
    """The key of each device, and its type, by its path in the object tree."""
    found: dict[str, str] = {}
    types: dict[str, str] = {}
    for folder in (_NAMED, _UNNAMED, _BUILT_IN):
        children = _children(await asking.listed(folder))
        counts: dict[str, int] = {}
        for name, type_ in sorted(children.items(), key=_order):
            key = name
            # vCPUs have checks of their own; one that was hot-plugged is among the named devices.
            if type_.endswith("-cpu"):
                continue
            if folder != _NAMED:
                if _NUMBER.fullmatch(name) is None:
                    continue
                number = counts.setdefault(type_, 0)
                counts[type_] += 1
                key = f"{type_}#{number}"
            if folder == _BUILT_IN:
                key += BUILT_IN
            found[f"{folder}/{name}"] = key
            types[f"{folder}/{name}"] = type_
    return found, types


def _order(child: tuple[str, str]) -> tuple[int, str]:
    number = _NUMBER.fullmatch(child[0])
    return (int(number[1]) if number else 0, child[0])


def _children(types: Mapping[str, str]) -> dict[str, str]:
    matches = {name: _CHILD.fullmatch(type_) for name, type_ in types.items()}
    return {name: match[1] for name, match in matches.items() if match is not None}


def _owner_and_bus(path: str, keys: Mapping[str, str]) -> tuple[str, str]:
    """A bus's device, by its key, and the rest of its path."""
    for device, key in keys.items():
        if path.startswith(f"{device}/"):
            return key, path[len(device) + 1 :]
    return "", path


async def read_virtio(asking: Asking, keys: Mapping[str, str]) -> dict[str, Virtio] | None:
    """Features by device; None where this QEMU does not tell (before 7.2)."""
    rows = await asking.ask("virtio", "x-query-virtio")
    if rows is None:
        return None
    found = {}
    for row in rows:
        if row["name"] not in DECODED:
            continue
        device = str(row["path"]).removesuffix("/virtio-backend")
        status = await asking.ask("virtio", "x-query-virtio-status", path=row["path"])
        if status is not None:
            found[keys.get(device, device)] = Virtio(
                feature_names(status.get("host-features", {})),
                feature_names(status.get("guest-features", {})),
            )
    return found


def netdevs_of(told: str) -> tuple[Netdev, ...]:
    """What HMP `info network` says of cards and what is behind each."""
    found = []
    card = ""
    for line in told.splitlines():
        if (nic := _CARD.match(line)) is not None:
            card = nic["card"]
        elif (match := _NETDEV.match(line.rstrip())) is not None and card:
            tap = re.search(r"ifname=([^,]+)", match["rest"])
            found.append(Netdev(card, match["kind"], 1, tap[1] if tap else ""))
    return _with_queues(found)


def _with_queues(rows: list[Netdev]) -> tuple[Netdev, ...]:
    """One row a card: QEMU prints one for each queue."""
    cards: dict[str, Netdev] = {}
    for row in rows:
        before = cards.get(row.card)
        queues = before.queues + 1 if before is not None else 1
        cards[row.card] = Netdev(row.card, row.kind, queues, row.tap)
    return tuple(cards.values())
