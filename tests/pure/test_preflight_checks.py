"""Each condition of a move on facts made by hand: it holds for a fitting pair, and can fail."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from tests.pure import catalogue_parts as hosts
from tests.pure.preflight_facts import (
    ALIKE,
    CLOCK,
    DISK,
    DRIVE,
    HOST,
    NIC,
    PORT,
    QEMU,
    RAM,
    SERIAL,
    at_destination,
    at_source,
    between,
    on_both,
    with_device,
)
from vmferry.preflight.facts import Backend, Cpu, Device, Facts, Link, Netdev, QemuProcess, RamBlock
from vmferry.preflight.finding import Finding, Verdict
from vmferry.preflight.registry import CHECKS, run_checks
from vmferry.units import GIB, KIB, MIB

BLOCKER, WARNING, UNTOLD, OK = Verdict.BLOCKER, Verdict.WARNING, Verdict.UNTOLD, Verdict.OK
assert QEMU.cpu is not None
assert QEMU.ram_blocks is not None
assert QEMU.devices is not None
assert QEMU.process is not None
CPU, BLOCKS, DEVICES, PROCESS = QEMU.cpu, QEMU.ram_blocks, QEMU.devices, QEMU.process


def cpu(**features: bool) -> Cpu:
    named = {name.replace("_", "-"): on for name, on in features.items()}
    return replace(CPU, features={**CPU.features, **named})


def shared_file(inode: int) -> tuple[Backend, ...]:
    path = f"/dev/shm/ram{inode}"
    return (Backend("ram", "memory-backend-file", RAM, share=True, path=path, file_id=(1, inode)),)


def pieces(*sizes: int) -> tuple[Backend, ...]:
    """The backends of a VM whose memory has these pieces."""
    return tuple(
        Backend(f"m{n}", "memory-backend-ram", size, share=False) for n, size in enumerate(sizes)
    )


# Facts that a check must object to. A check may be here several times.
WRONG: list[tuple[str, Verdict, Facts]] = [
    ("earlier-move", BLOCKER, replace(ALIKE, unsettled="20260101-1")),
    ("runs", BLOCKER, at_source(runstate="io-error")),
    ("migration-idle", BLOCKER, at_source(migration="active")),
    ("migration-allowed", BLOCKER, at_source(blocked=("VFIO device doesn't support migration",))),
    ("capabilities", BLOCKER, at_source(capabilities=frozenset({"events"}))),
    ("capabilities", BLOCKER, at_destination(capabilities=frozenset({"events"}))),
    ("tls", BLOCKER, at_source(parameters={"tls-creds": "tls0"})),
    ("tls", BLOCKER, at_destination(parameters={"tls-creds": "tls0"})),
    ("tcg-dirty-tracking", BLOCKER, on_both(version=(7, 2, 22), backends=pieces(GIB))),
    (
        "tcg-dirty-tracking",
        BLOCKER,
        on_both(version=(7, 2, 22), backends=pieces(GIB + 8 * KIB, 128 * MIB)),
    ),
    (
        "tcg-dirty-tracking",
        BLOCKER,
        on_both(version=(7, 2, 22), backends=pieces(8 * KIB), memory=GIB),
    ),
    ("block-jobs", BLOCKER, at_source(jobs=("mirror 'm0' (ready)",))),
    ("disk-exports", WARNING, at_source(exports=("nbd 'e0' of disk0",))),
    ("memory-not-huge", WARNING, on_both(memory=2 * 1024 * GIB)),
    (
        "dirty-log-granularity",
        WARNING,
        replace(on_both(accelerator="kvm"), host=replace(HOST, kvm={"eager_page_split": "N"})),
    ),
    (
        "second-instance",
        BLOCKER,
        replace(ALIKE, local=True, destination=None, start_problem="no space"),
    ),
    ("destination-waits", BLOCKER, at_destination(runstate="prelaunch")),
    ("destination-listens", BLOCKER, replace(ALIKE, listens=False)),
    ("destination-listens", WARNING, replace(ALIKE, listens_itself=False)),
    ("architecture", BLOCKER, at_destination(architecture="aarch64")),
    ("machine-type", BLOCKER, at_destination(machine="pc-q35-9.2")),
    ("machine-options", BLOCKER, at_destination(machine_options={"hpet": False, "smm": "auto"})),
    ("machine-options", WARNING, at_destination(machine_options={"hpet": True, "smm": "on"})),
    ("boot-files", WARNING, at_destination(boot_files={"kernel": "/k", "firmware": ""})),
    ("qemu-version", WARNING, at_destination(version=(9, 2, 0))),
    ("accelerator", BLOCKER, at_destination(accelerator="kvm")),
    ("uuid", WARNING, at_destination(uuid="22222222-2222-2222-2222-222222222222")),
    ("not-confidential", BLOCKER, at_source(confidential="/objects/sev0")),
    ("vcpus", BLOCKER, at_destination(vcpus=4)),
    ("vcpu-topology", BLOCKER, at_destination(topology={"cpus": 2, "maxcpus": 8})),
    ("cpu-features", BLOCKER, at_destination(cpu=cpu(avx2=False))),
    ("cpu-features", WARNING, at_destination(cpu=cpu(vmx=True))),
    ("cpu-model", BLOCKER, at_destination(cpu=replace(CPU, values={"vendor": "GenuineIntel"}))),
    ("cpu-model", BLOCKER, at_destination(cpu=replace(CPU, values={"phys-bits": 36}))),
    ("cpu-model", WARNING, at_destination(cpu=replace(CPU, values={"family": 6}))),
    ("cpu-model", WARNING, at_destination(cpu=replace(CPU, values={"phys-bits": 46}))),
    ("cpu-migratable", WARNING, at_source(cpu=cpu(migratable=False))),
    ("cpu-affinity", WARNING, at_destination(process=replace(PROCESS, cpus=1))),
    (
        "cpu-dedicated",
        BLOCKER,
        replace(
            at_destination(process=replace(PROCESS, cpus=1)),
            source=replace(QEMU, cpu=cpu(kvm_hint_dedicated=True)),
        ),
    ),
    (
        "cpu-dedicated",
        WARNING,
        on_both(process=replace(PROCESS, cpus=1), cpu=cpu(kvm_hint_dedicated=True)),
    ),
    (
        "tsc-frequency",
        WARNING,
        replace(
            at_destination(cpu=replace(CPU, values={"tsc-frequency": 2_401_000_000})),
            source=replace(QEMU, cpu=replace(CPU, values={"tsc-frequency": 2_400_000_000})),
        ),
    ),
    ("memory-size", BLOCKER, at_destination(memory=RAM + 8 * KIB)),
    ("memory-size", BLOCKER, at_source(plugged_memory=GIB)),
    ("memory-size", BLOCKER, at_destination(max_memory=4 * GIB)),
    ("ram-blocks", BLOCKER, at_source(ram_blocks={**BLOCKS, "nic.rom": BLOCKS["pc.rom"]})),
    (
        "ram-blocks",
        BLOCKER,
        at_destination(ram_blocks={**BLOCKS, "pc.rom": RamBlock(4096, 256 * KIB, 256 * KIB)}),
    ),
    (
        "ram-blocks",
        BLOCKER,
        at_source(ram_blocks={**BLOCKS, "/rom@etc/acpi/tables": RamBlock(4096, 4 * MIB, 8 * MIB)}),
    ),
    ("memory-backend", WARNING, at_destination(backends=shared_file(3))),
    ("memory-apart", BLOCKER, on_both(backends=shared_file(3))),
    ("destination-memory", BLOCKER, replace(ALIKE, host=replace(HOST, memory_available=MIB))),
    ("destination-memory", WARNING, replace(ALIKE, host=replace(HOST, memory_available=RAM - 1))),
    (
        "destination-memory",
        BLOCKER,
        replace(
            at_source(ram_blocks={"pc.ram": RamBlock(2 * MIB, RAM, RAM)}),
            local=True,
            destination=None,
        ),
    ),
    ("devices", BLOCKER, at_source(devices=(*DEVICES, Device("new", "virtio-rng-pci")))),
    ("devices", BLOCKER, at_destination(devices=(*DEVICES, Device("new", "virtio-rng-pci")))),
    ("devices", BLOCKER, at_destination(devices=DEVICES[:-1])),
    ("device-places", BLOCKER, at_destination(devices=with_device(NIC, addr=40))),
    (
        "device-places",
        BLOCKER,
        at_destination(devices=(NIC, DISK, SERIAL, replace(PORT, owner="x"), CLOCK)),
    ),
    ("device-places", BLOCKER, at_destination(devices=with_device(PORT, nr=5))),
    (
        "device-places",
        BLOCKER,
        at_destination(devices=(replace(NIC, bus="/machine/q35/pcie.1"), *DEVICES[1:])),
    ),
    ("virtio-queues", BLOCKER, at_destination(devices=with_device(NIC, mq=False))),
    ("virtio-queues", BLOCKER, at_destination(devices=with_device(DISK, **{"num-queues": 1}))),
    ("device-settings", BLOCKER, at_destination(devices=with_device(NIC, csum=False))),
    ("device-settings", WARNING, at_destination(devices=with_device(NIC, csum="auto"))),
    ("mac-addresses", WARNING, at_destination(devices=with_device(NIC, mac="52:54:00:00:00:02"))),
    (
        "virtio-features",
        BLOCKER,
        at_destination(virtio={"nic0": replace(QEMU.virtio["nic0"], offered=frozenset({"CSUM"}))}),  # type: ignore[index]
    ),
    (
        "host-devices",
        BLOCKER,
        replace(at_source(devices=(*DEVICES, Device("u", "usb-host"))), same_host=False),
    ),
    ("host-devices", WARNING, at_source(devices=(*DEVICES, Device("u", "usb-host")))),
    ("host-devices", WARNING, at_source(devices=(*DEVICES, Device("v", "vfio-pci")))),
    ("disk-images", BLOCKER, at_destination(drives=(replace(DRIVE, file_id=(1, 3)),))),
    ("disk-images", BLOCKER, at_destination(drives=())),
    (
        "disk-images",
        WARNING,
        at_destination(drives=(replace(DRIVE, file="nbd://other/a", file_id=None),)),
    ),
    ("disk-formats", BLOCKER, at_destination(drives=(replace(DRIVE, format="raw"),))),
    ("disk-formats", BLOCKER, at_destination(drives=(replace(DRIVE, size=2 * GIB),))),
    ("disk-formats", BLOCKER, at_destination(drives=(replace(DRIVE, read_only=True),))),
    ("disk-files", BLOCKER, on_both(drives=(replace(DRIVE, file_id=None, gone=True),))),
    ("disk-cache", WARNING, replace(ALIKE, same_host=False)),
    (
        "disk-cache",
        BLOCKER,
        replace(on_both(drives=(replace(DRIVE, no_flush=True),)), same_host=False),
    ),
    (
        "iothreads",
        WARNING,
        at_source(devices=(*DEVICES[:1], replace(DISK, iothreads=frozenset({"io0"})))),
    ),
    ("dirty-bitmaps", WARNING, at_source(drives=(replace(DRIVE, bitmaps=("daily",)),))),
    ("network-backends", BLOCKER, at_destination(netdevs=(Netdev("nic0", "tap", 1, "tap0"),))),
    ("network-backends", WARNING, at_destination(netdevs=(Netdev("nic0", "user", 2),))),
    ("network-vhost", WARNING, at_destination(process=replace(PROCESS, vhost_net=0))),
    ("network-links", BLOCKER, at_destination(links={"tap0": Link(1500, "br1", True)})),
    ("network-links", BLOCKER, at_destination(links={"tap0": Link(1400, "br0", True)})),
    ("network-links", WARNING, at_destination(links={"tap0": Link(9000, "br0", True)})),
    ("network-links", WARNING, at_destination(links={"tap0": Link(1500, "", True)})),
    ("network-links", WARNING, at_destination(links={"tap0": Link(1500, "br0", False)})),
    ("host-fast-paths", WARNING, between(hosts.HOST, hosts.host(clocksource="hpet"))),
]


def finding(name: str, facts: Facts) -> Finding:
    return next(one for one in run_checks(facts).findings if one.name == name)


def test_a_fitting_pair_has_nothing_against_it() -> None:
    assert [(one.name, one.answer) for one in run_checks(ALIKE).findings if one.verdict != OK] == []


@pytest.mark.parametrize(
    ("name", "verdict", "facts"), WRONG, ids=[f"{n}-{v.name}" for n, v, _ in WRONG]
)
def test_what_is_wrong_is_found(name: str, verdict: Verdict, facts: Facts) -> None:
    found = finding(name, facts)
    assert found.verdict is verdict, found.answer
    assert found.answer.evidence
    assert found.answer.remedy
    assert not found.answer.what.endswith(".")


def test_every_check_can_fail() -> None:
    assert [one.name for one in CHECKS if one.name not in {name for name, _, _ in WRONG}] == []


def test_names_are_used_once() -> None:
    names = [one.name for one in CHECKS]
    assert sorted(set(names)) == sorted(names)


def test_without_a_destination_the_reason_is_told() -> None:
    facts = replace(ALIKE, destination=None, same_host=None, unseen="it cannot be seen")
    preflight = run_checks(facts)
    assert preflight.of(BLOCKER) == ()
    untold = {one.name for one in preflight.of(UNTOLD)}
    assert {"vcpus", "devices", "cpu-features", "disk-images", "machine-type"} <= untold
    untold_so = {one.answer.what for one in preflight.of(UNTOLD) if one.name != "host-fast-paths"}
    assert untold_so == {"it cannot be seen"}


def test_what_qemu_did_not_tell_cannot_be_told() -> None:
    facts = at_source(virtio=None, unread={"virtio": "x-query-virtio: not found"})
    found = finding("virtio-features", facts)
    assert (found.verdict, found.answer.what) == (UNTOLD, "x-query-virtio: not found")


def test_a_process_elsewhere_cannot_be_looked_at() -> None:
    facts = replace(at_destination(process=None), same_host=None)
    for name in ("cpu-affinity", "network-vhost", "destination-memory"):
        assert finding(name, facts).verdict is UNTOLD
    unseen = on_both(drives=(replace(DRIVE, file_id=None),))
    assert finding("disk-files", unseen).verdict is UNTOLD
    assert finding("disk-images", unseen).verdict is OK


def test_a_listener_elsewhere_cannot_be_told() -> None:
    found = finding("destination-listens", replace(ALIKE, listens=None, listens_why="elsewhere"))
    assert (found.verdict, found.answer.what) == (UNTOLD, "elsewhere")


def test_kvm_is_not_trapped_nor_is_a_newer_qemu() -> None:
    for facts in (
        on_both(version=(7, 2, 22), backends=pieces(GIB), accelerator="kvm"),
        on_both(version=(9, 0, 0), backends=pieces(GIB)),
    ):
        assert finding("tcg-dirty-tracking", facts).verdict is OK


def test_devices_without_ids_are_matched_by_their_place() -> None:
    """As where the destination was started by hand, and the source by a program that gives ids."""
    named = {
        "nic0": "virtio-net-pci#0",
        "serial": "virtio-serial-pci#0",
        "port": "virtserialport#0",
    }
    running = {"virtio-backend/serial.0": "virtio-backend/virtio-serial-bus.0"}
    anonymous = tuple(
        replace(
            one,
            key=named.get(one.key, one.key),
            owner=named.get(one.owner, one.owner),
            bus=running.get(one.bus, one.bus),
        )
        # What is on a bus comes before what has the bus, as it may.
        for one in reversed(DEVICES)
    )
    facts = at_destination(devices=anonymous)
    for name in ("devices", "device-places", "virtio-queues", "device-settings"):
        assert finding(name, facts).verdict is OK, finding(name, facts)


def test_a_device_of_another_type_is_another_device() -> None:
    other = replace(NIC, type="e1000")
    found = finding("devices", at_destination(devices=(other, *DEVICES[1:])))
    assert found.verdict is BLOCKER
    assert "nic0 (virtio-net-pci)" in found.answer.what
    assert "nic0 (e1000)" in found.answer.what


def test_another_version_of_qemu_may_build_its_board_of_other_parts() -> None:
    facts = at_destination(version=(10, 1, 0), devices=DEVICES[:-1])
    assert finding("devices", facts).verdict is OK
    assert finding("devices", at_destination(devices=DEVICES[:-1])).verdict is BLOCKER


def test_names_of_features_that_only_a_newer_qemu_knows() -> None:
    newer = {**CPU.features, "new-feature": True, "x-new-knob": True}
    facts = at_destination(cpu=replace(CPU, features=newer))
    assert finding("cpu-features", facts).verdict is OK
    back = replace(at_source(cpu=replace(CPU, features=newer)))
    assert "lack new-feature" in finding("cpu-features", back).answer.what


def test_a_rom_that_can_be_resized_fits() -> None:
    bigger = {**BLOCKS, "/rom@etc/acpi/tables": RamBlock(4096, MIB, 2 * MIB)}
    assert finding("ram-blocks", at_source(ram_blocks=bigger)).verdict is OK


def test_private_memory_of_one_file_is_apart() -> None:
    private = tuple(replace(one, share=False) for one in shared_file(3))
    assert finding("memory-apart", on_both(backends=private)).verdict is OK


def test_what_the_vm_uses_decides_over_its_size() -> None:
    """A mostly empty VM fits where all of its RAM would not."""
    process = QemuProcess(100, resident=MIB)
    facts = replace(at_source(process=process), host=replace(HOST, memory_available=10 * MIB))
    assert finding("destination-memory", facts).verdict is WARNING
    unseen = replace(at_source(process=None), host=replace(HOST, memory_available=10 * MIB))
    assert finding("destination-memory", unseen).verdict is WARNING


def test_no_field_that_could_not_be_read_trips_a_check() -> None:
    """A check that trips says so as what cannot be told: it keeps nobody's VM from moving."""
    optional = [one.name for one in fields(QEMU) if one.default is None]
    assert "devices" in optional
    for name in optional:
        for facts in (at_source(**{name: None}), at_destination(**{name: None})):
            for one in run_checks(facts).findings:
                assert "bug" not in one.answer.what, one
                assert one.verdict is not BLOCKER, one


def test_a_check_that_trips_does_not_forbid() -> None:
    broken: Any = object()
    found = finding("vcpu-topology", at_source(topology=broken))
    assert found.verdict is UNTOLD
    assert "by a bug in vmferry: AttributeError" in found.answer.what
