"""Conditions on the devices: the same ones, in the same places, with the same settings.

QEMU compares little of this. A device that differs either breaks the load at the very end, or loads
and is then not what the guest's driver took it for.
"""

from __future__ import annotations

from vmferry.preflight.checks.common import differing, names, shown, told
from vmferry.preflight.checks.pairing import ADDRESS, Paired, paired
from vmferry.preflight.facts import Device, Facts, UntoldError, Virtio, is_virtio_mem
from vmferry.preflight.finding import Answer, Evidence, blocker, check, fine, warning

QUEUES = frozenset(
    {
        "num_queues",
        "num-queues",
        "num-request-queues",
        "mq",
        "vectors",
        "virtqueue_size",
        "queue-size",
        "rx_queue_size",
        "tx_queue_size",
    }
)
# Of these the guest takes the new value without harm: QEMU tells it that it was cloned.
_TOLD_ANEW = frozenset({"guid"})
# Devices whose other end is on the source's host, and what becomes of that in a move.
_STAYS_BEHIND = {
    "usb-host": "a USB device of the host",
    "usb-redir": "a USB device of a remote display",
    "vfio-": "a PCI device of the host",
    "scsi-block": "a SCSI device of the host",
    "scsi-generic": "a SCSI device of the host",
    "ivshmem-": "memory shared on the host",
    "virtio-9p-": "a folder of the host; QEMU refuses while it is mounted",
    "vhost-user-fs-": "a folder of the host; the daemon's state stays behind",
    "vhost-vdpa-": "a vDPA device of the host",
    "vhost-vsock-": "a channel to the host; its connections end, and its number may change",
}
_COMPARED_ELSEWHERE = QUEUES | {*ADDRESS, "mac"}
_GONE = frozenset({"usb-host", "scsi-generic"})


def _named(devices: tuple[Device, ...]) -> str:
    return names([_name(device) for device in devices])


def _name(device: Device) -> str:
    return device.key if device.type in device.key else f"{device.key} ({device.type})"


@check(
    "devices",
    "a device that the destination lacks ends the load after the guest was stopped; one more than "
    "the guest knows goes through without a word, and is found at the next look at the bus",
)
def devices(facts: Facts) -> Answer:
    found = paired(facts)
    if not found.missing and not found.extra:
        return fine(f"the same {len(found.pairs)} devices")
    parts = [f"lacks {_named(found.missing)}"] if found.missing else []
    parts += [f"has {_named(found.extra)}, which the VM has not"] if found.extra else []
    evidence = [Evidence("qom-list /machine", _name(one), "missing") for one in found.missing]
    evidence += [Evidence("qom-list /machine", "missing", _name(one)) for one in found.extra]
    return blocker(
        f"the destination {' and '.join(parts)}",
        *evidence,
        remedy="start the destination with the devices that the VM has now, hot-plugged ones too",
    )


@check(
    "device-places",
    "the guest's drivers talk to bus addresses, and the stream names devices by them",
)
def device_places(facts: Facts) -> Answer:
    moved = paired(facts).moved()
    if not moved:
        return fine("every device is at the same address")
    return blocker(
        f"{_named(tuple(ours for ours, _ in moved))} would be at another address",
        *(Evidence(f"qom-get {ours.key}", _at(ours), _at(theirs)) for ours, theirs in moved),
        remedy="start the destination with the source's bus= and addr= for each device",
    )


def _at(device: Device) -> str:
    """Bus and address, a PCI address as `lspci` writes it."""
    words = [f"{device.owner}/{device.bus}" if device.owner else device.bus]
    for name in ADDRESS:
        value = device.properties.get(name)
        if name == "addr" and isinstance(value, int):
            words.append(f"{value >> 3:02x}.{value & 7}")
        elif value is not None and value != "":
            words.append(f"{name} {value}")
    return " ".join(words)


def _differences(found: Paired, among: frozenset[str] | None) -> list[Evidence]:
    """Settings that differ: those of `among`, or all that no other check compares."""
    evidence = []
    for ours, theirs in found.pairs:
        for name in differing(ours.properties, theirs.properties, _part_of_its_state(ours)):
            if name in among if among is not None else name not in _COMPARED_ELSEWHERE:
                values = shown(ours.properties[name]), shown(theirs.properties[name])
                evidence.append(Evidence(f"{ours.key} {name}", *values))
    return evidence


def _part_of_its_state(device: Device) -> frozenset[str]:
    """Settings that come with the stream."""
    return frozenset({"size", "requested-size"}) if is_virtio_mem(device) else frozenset()


def _may_be_alike(setting: Evidence) -> bool:
    """Whether the values may come to the same: `auto` is whatever QEMU makes of it."""
    name = setting.where.rpartition(" ")[2]
    return name in _TOLD_ANEW or "auto" in (setting.source, setting.destination)


@check(
    "virtio-queues",
    "the driver set up as many queues, of that size, as it found at boot. QEMU notices a wrong "
    "number only where it changes the PCI layout or a feature that the driver took",
)
def virtio_queues(facts: Facts) -> Answer:
    evidence = _differences(paired(facts), QUEUES)
    if not evidence:
        return fine("numbers and sizes of queues and vectors are the same")
    return blocker(
        f"queues differ: {names([one.where for one in evidence])}",
        *evidence,
        remedy="start the destination with the source's values; where QEMU chooses, -smp decides",
    )


@check(
    "device-settings",
    "what a device can do was agreed with the guest's driver when it was loaded",
)
def device_settings(facts: Facts) -> Answer:
    found = paired(facts)
    evidence = _differences(found, None)
    certain = [one for one in evidence if not _may_be_alike(one)]
    # Versions of QEMU write one setting differently, and the machine type keeps the rest alike.
    if certain and found.alike:
        return blocker(
            f"settings of devices differ: {names([one.where for one in certain])}",
            *evidence,
            remedy="start the destination with the source's values",
        )
    if evidence:
        return warning(
            f"settings of devices may differ: {names([one.where for one in evidence])}",
            *evidence,
            remedy="start the destination with the source's values",
        )
    return fine("every other setting that both sides tell is the same")


@check(
    "mac-addresses",
    "the guest keeps its address, but bridges and filters set up for the destination's expect "
    "another, and after a reboot the guest has it",
)
def mac_addresses(facts: Facts) -> Answer:
    evidence = _differences(paired(facts), frozenset({"mac"}))
    if not evidence:
        return fine("every network card has the same address")
    return warning(
        f"network cards have other addresses: {names([one.where for one in evidence])}",
        *evidence,
        remedy="start the destination with the source's mac=",
    )


@check(
    "virtio-features",
    "what the guest's driver took, the destination must offer; else the load fails after the guest "
    "was stopped",
)
def virtio_features(facts: Facts) -> Answer:
    source, destination = facts.pair()
    ours = told(source.virtio, source, "virtio")
    theirs = told(destination.virtio, destination, "virtio")
    evidence, unnamed = [], []
    for here, there in paired(facts).pairs:
        if here.key not in ours or there.key not in theirs:
            continue
        lacking = ours[here.key].taken - theirs[there.key].offered
        if source.version[:2] != destination.version[:2]:
            lacking, unsure = _certain(lacking, theirs[there.key])
            unnamed += [f"{here.key} {name}" for name in unsure]
        where = f"x-query-virtio-status {here.key}"
        evidence += [Evidence(where, f"{name} taken", "not offered") for name in sorted(lacking)]
    if evidence:
        return _lacking(evidence)
    if unnamed:
        raise UntoldError(
            f"the two versions of QEMU have other names for features: {names(unnamed)}"
        )
    taken = sum(bool(one.taken) for one in ours.values())
    return fine(f"the destination offers what {taken} drivers of the guest took")


def _certain(lacking: frozenset[str], there: Virtio) -> tuple[frozenset[str], list[str]]:
    """Which features are certainly not offered, and which may have another name there."""
    if any(name.startswith("bit ") for name in there.offered):
        return frozenset(), sorted(lacking)
    unsure = sorted(name for name in lacking if name.startswith("bit "))
    return lacking - set(unsure), unsure


def _lacking(evidence: list[Evidence]) -> Answer:
    used = names([one.source.removesuffix(" taken") for one in evidence])
    return blocker(
        f"the destination does not offer what the guest's drivers use: {used}",
        *evidence,
        remedy="start the destination with the source's device settings and the same kind of "
        "backend (vhost offers less than QEMU's own)",
    )


@check(
    "host-devices",
    "the other end of such a device is on the source's host, and does not come along",
)
def host_devices(facts: Facts) -> Answer:
    found = [
        (device, what)
        for device in told(facts.source.devices, facts.source, "devices")
        for kind, what in _STAYS_BEHIND.items()
        if device.type == kind or (kind.endswith("-") and device.type.startswith(kind))
    ]
    if not found:
        return fine("no device of it hangs on the source's host")
    evidence = [Evidence("qom-list /machine", f"{_name(one)}: {what}") for one, what in found]
    said = "; ".join(f"{device.key} is {what}" for device, what in found)
    remedy = "unplug it before the move (QMP device_del) and plug one in again afterwards"
    here = facts.local or facts.same_host
    if not here and any(device.type in _GONE for device, _ in found):
        return blocker(f"a device would stay behind: {said}", *evidence, remedy=remedy)
    return warning(f"a device hangs on the source's host: {said}", *evidence, remedy=remedy)


CHECKS = (
    devices,
    device_places,
    virtio_queues,
    device_settings,
    mac_addresses,
    virtio_features,
    host_devices,
)
