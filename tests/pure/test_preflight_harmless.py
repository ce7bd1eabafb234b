"""What differs between two sides and does no harm: a false blocker would keep somebody's VM."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.pure.preflight_facts import (
    DISK,
    DRIVE,
    HOST,
    NIC,
    PORT,
    QEMU,
    RAM,
    SERIAL,
    WAITING,
    at_destination,
    at_source,
    with_device,
)
from vmferry.preflight.facts import Device, Facts, Link, Netdev, RamBlock, Virtio
from vmferry.preflight.finding import Verdict
from vmferry.preflight.registry import run_checks
from vmferry.units import GIB, MIB

assert QEMU.devices is not None
assert QEMU.ram_blocks is not None
assert QEMU.cpu is not None
assert WAITING.process is not None
NEWER = (10, 1, 0)
MEM = Device(
    "vmem0", "virtio-mem-pci", "/machine/q35/pcie.0", "", {"addr": 40, "size": GIB, "node": 0}
)


def anonymous(number: int, address: int, **settings: int) -> Device:
    """The `number`-th virtio-blk disk without an id, at some address."""
    properties = {"addr": address, **settings}
    return Device(f"virtio-blk-pci#{number}", "virtio-blk-pci", "/pcie.0", "", properties)


def on_bus(bus: str, owner: str = "") -> tuple[Device, ...]:
    return (NIC, DISK, SERIAL, PORT, Device("com1", "isa-serial", bus, owner))


HARMLESS: dict[str, Facts] = {
    "plugged by virtio-mem": replace(
        at_source(devices=(*QEMU.devices, MEM)),
        destination=replace(
            WAITING,
            devices=(*QEMU.devices, replace(MEM, properties={**MEM.properties, "size": 0})),
        ),
    ),
    "devices without ids in another order": replace(
        at_source(devices=(anonymous(0, 8, queues=1), anonymous(1, 16, queues=2))),
        destination=replace(
            WAITING,
            devices=(anonymous(0, 16, queues=2), anonymous(1, 8, queues=1)),
            drives=(replace(DRIVE, key="virtio-blk-pci#1"),),
        ),
    ),
    "a disk whose device has an id on one side": replace(
        at_source(devices=(anonymous(0, 8),), drives=(DRIVE,)),
        destination=replace(
            WAITING,
            devices=(replace(anonymous(0, 8), key="disk0"),),
            drives=(replace(DRIVE, key="disk0"),),
        ),
    ),
    "a bus that versions have in other places": replace(
        at_source(devices=on_bus("isa.0", "ICH9-LPC#0 (built in)")),
        destination=replace(WAITING, version=NEWER, devices=on_bus("/machine/q35/lpc/isa.0")),
    ),
    "a level of the topology that an older QEMU does not know": at_source(
        topology={**(QEMU.topology or {}), "clusters": 1}
    ),
    "names of block nodes": replace(
        at_source(machine_options={"pflash0": "a", "graphics": True}),
        destination=replace(WAITING, machine_options={"pflash0": "b", "graphics": False}),
    ),
    "a table of the firmware that grows": at_destination(
        ram_blocks={**QEMU.ram_blocks, "/rom@etc/acpi/tables": RamBlock(4096, 2 * MIB, 2 * MIB)}
    ),
    "the same width of addresses by another option": replace(
        at_source(cpu=replace(QEMU.cpu, features={"avx2": True, "host-phys-bits": True})),
        destination=replace(
            WAITING, cpu=replace(QEMU.cpu, features={"avx2": True, "host-phys-bits": False})
        ),
    ),
    "what an older QEMU does not count among the features": replace(
        at_source(version=NEWER, cpu=replace(QEMU.cpu, features={"ht": True, "cmp-legacy": True})),
        destination=replace(WAITING, version=NEWER, cpu=replace(QEMU.cpu, features={"ht": False})),
    ),
    "raw, reached another way": replace(
        at_source(drives=(replace(DRIVE, format="host_device"),)),
        destination=replace(WAITING, drives=(replace(DRIVE, format="raw"),)),
    ),
    "a host on which the destination has its memory already": replace(
        at_destination(process=replace(WAITING.process, resident=RAM)),
        host=replace(HOST, memory_available=MIB),
    ),
}


@pytest.mark.parametrize("facts", HARMLESS.values(), ids=HARMLESS)
def test_what_does_no_harm_is_not_held_against_a_move(facts: Facts) -> None:
    wrong = [(one.name, one.answer.what) for one in run_checks(facts).findings if _bad(one.verdict)]
    assert wrong == []


def _bad(verdict: Verdict) -> bool:
    return verdict in (Verdict.BLOCKER, Verdict.WARNING)


def blockers(facts: Facts) -> list[str]:
    return [one.name for one in run_checks(facts).of(Verdict.BLOCKER)]


def test_a_feature_that_one_version_cannot_name_is_not_taken_for_a_lack() -> None:
    new = Virtio(frozenset({"VIRTIO_NET_F_HASH_TUNNEL", "MQ"}), frozenset())
    old = Virtio(frozenset({"bit 51", "MQ"}), frozenset({"bit 51", "MQ"}))
    upwards = replace(
        at_source(virtio={"nic0": old}),
        destination=replace(WAITING, version=NEWER, virtio={"nic0": new}),
    )
    back = replace(
        at_source(version=NEWER, virtio={"nic0": replace(new, taken=new.offered)}),
        destination=replace(WAITING, virtio={"nic0": replace(old, taken=frozenset())}),
    )
    for facts in (upwards, back):
        assert blockers(facts) == []
        untold = [one.name for one in run_checks(facts).of(Verdict.UNTOLD)]
        assert "virtio-features" in untold
    there = replace(WAITING, version=NEWER, virtio={"nic0": replace(new, offered=frozenset())})
    lacking = at_source(virtio={"nic0": Virtio(frozenset({"MQ"}), frozenset({"MQ"}))})
    assert blockers(replace(lacking, destination=there)) == ["virtio-features"]


def test_settings_of_two_versions_only_warn() -> None:
    """QEMU 7.2 has `rombar` as 1, QEMU 10.0 as -1, which is the same."""
    facts = at_destination(version=NEWER, devices=with_device(NIC, csum=False))
    assert blockers(facts) == []
    assert "device-settings" in [one.name for one in run_checks(facts).of(Verdict.WARNING)]
    assert blockers(at_destination(devices=with_device(NIC, csum=False))) == ["device-settings"]


def test_a_page_cache_whose_host_cannot_be_told_only_warns() -> None:
    """A QEMU at a port of this host, without --to-qmp, sees the very same cache."""
    unsafe = at_source(drives=(replace(DRIVE, no_flush=True),))
    facts = replace(unsafe, destination=None, same_host=None, unseen="no --to-qmp")
    assert blockers(facts) == []
    found = next(one for one in run_checks(facts).findings if one.name == "disk-cache")
    assert "cannot be told" in found.answer.what
    assert blockers(replace(facts, same_host=False)) == ["disk-cache"]


def test_the_same_tap_in_another_network_is_not_compared() -> None:
    cards = (Netdev("nic0", "tap", 2, "tap0"),)
    facts = at_destination(netdevs=cards, links={})
    untold = [one.name for one in run_checks(facts).of(Verdict.UNTOLD)]
    assert untold == ["network-links"]
    assert Link(1500, "br0", multi_queue=True) in (QEMU.links or {}).values()
