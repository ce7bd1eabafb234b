"""Facts for tests of the preflight: two QEMUs that fit each other, and changes to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vmferry.fastpath.facts import Facts as AuditFacts
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.finding import Finding
from vmferry.fastpath.judges import JUDGES
from vmferry.hypervisor.qemu.settings import NEEDED_AT_DESTINATION, NEEDED_AT_SOURCE
from vmferry.preflight.facts import (
    Audits,
    Backend,
    Cpu,
    Device,
    Drive,
    Facts,
    Host,
    Link,
    Netdev,
    Qemu,
    QemuProcess,
    RamBlock,
    Virtio,
)
from vmferry.units import GIB, MIB

RAM = GIB + 8 * 1024

NIC = Device(
    "nic0",
    "virtio-net-pci",
    "/machine/q35/pcie.0",
    "",
    {"addr": 16, "mq": True, "vectors": 6, "mac": "52:54:00:00:00:01", "csum": True},
)
DISK = Device(
    "virtio-blk-pci#0", "virtio-blk-pci", "/machine/q35/pcie.0", "", {"addr": 24, "num-queues": 2}
)
SERIAL = Device("serial", "virtio-serial-pci", "/machine/q35/pcie.0", "", {"addr": 32})
PORT = Device("port", "virtserialport", "virtio-backend/serial.0", "serial", {"nr": 1})
CLOCK = Device("hpet#0 (built in)", "hpet", "/machine/unattached/sysbus")

DRIVE = Drive(
    key="virtio-blk-pci#0",
    file="/images/a.qcow2",
    format="qcow2",
    size=GIB,
    read_only=False,
    direct=False,
    no_flush=False,
    is_file=True,
    file_id=(1, 2),
)

QEMU = Qemu(
    version=(10, 0, 3),
    package="",
    runstate="running",
    migration="none",
    blocked=(),
    architecture="x86_64",
    machine="pc-q35-10.0",
    machine_options={"type": "pc-q35-10.0-machine", "hpet": True, "smm": "auto"},
    boot_files={"kernel": "", "firmware": "bios-256k.bin"},
    confidential="",
    accelerator="tcg",
    uuid="11111111-1111-1111-1111-111111111111",
    vcpus=2,
    topology={"cpus": 2, "maxcpus": 2, "sockets": 1, "cores": 2, "threads": 1},
    cpu=Cpu(
        "max-x86_64-cpu",
        {"vendor": "AuthenticAMD", "family": 15, "phys-bits": 40},
        {"avx2": True, "aes": True, "vmx": False, "migratable": True, "hotplugged": False},
    ),
    memory=RAM,
    plugged_memory=0,
    max_memory=RAM,
    ram_blocks={
        "pc.ram": RamBlock(4096, RAM, RAM),
        "pc.rom": RamBlock(4096, 128 * 1024, 128 * 1024),
        "/rom@etc/acpi/tables": RamBlock(4096, 128 * 1024, 2 * MIB),
    },
    backends=(Backend("pc.ram", "memory-backend-ram", RAM, share=False),),
    devices=(NIC, DISK, SERIAL, PORT, CLOCK),
    virtio={"nic0": Virtio(frozenset({"MQ", "CSUM"}), frozenset({"MQ"}))},
    drives=(DRIVE,),
    jobs=(),
    exports=(),
    netdevs=(Netdev("nic0", "tap", 2, "tap0"),),
    links={"tap0": Link(1500, "br0", multi_queue=True)},
    capabilities=NEEDED_AT_SOURCE | NEEDED_AT_DESTINATION,
    parameters={"tls-creds": "", "max-bandwidth": 0},
    process=QemuProcess(100, RAM // 2, cpus=4, vhost_net=2),
)

# It has not loaded anything yet.
WAITING = replace(QEMU, runstate="inmigrate", process=QemuProcess(200, 0, cpus=4, vhost_net=2))

HOST = Host(8 * GIB, 0, {2 * MIB: 0}, {"eager_page_split": "Y"})

ALIKE = Facts(
    vm="web",
    to="unix:/run/dest.sock",
    source=QEMU,
    destination=WAITING,
    host=HOST,
    listens=True,
    listens_why="/proc/net/unix",
    same_host=True,
)


def at_source(**changes: Any) -> Facts:
    """The fitting pair, with changes to the source."""
    return replace(ALIKE, source=replace(QEMU, **changes))


def at_destination(**changes: Any) -> Facts:
    """The fitting pair, with changes to the destination."""
    return replace(ALIKE, destination=replace(WAITING, **changes))


def on_both(**changes: Any) -> Facts:
    """The fitting pair, with the same changes to both sides."""
    facts = at_destination(**changes)
    return replace(facts, source=replace(QEMU, **changes))


def with_device(device: Device, **properties: Any) -> tuple[Device, ...]:
    """The pair's devices, one of them with other properties."""
    assert QEMU.devices is not None
    changed = replace(device, properties={**device.properties, **properties})
    return tuple(changed if one is device else one for one in QEMU.devices)


def between(source: HostFacts, destination: HostFacts) -> Facts:
    """The fitting pair on two hosts, both audited."""
    audits = Audits(_audited(source), _audited(destination))
    return replace(ALIKE, to="tcp:b:4444", same_host=False, audits=audits)


def _audited(host: HostFacts) -> tuple[Finding, ...]:
    return tuple(one for judge in JUDGES.values() for one in judge(AuditFacts(host=host)))
