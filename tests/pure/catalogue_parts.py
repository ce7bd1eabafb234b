"""Parts of facts as collectors give them in the lab: a right host, VM, guest and window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmferry.fastpath.facts import (
    Card,
    Facts,
    GuestCard,
    GuestClock,
    GuestDisk,
    GuestFacts,
    GuestRam,
    HostFacts,
    StorageController,
    Tap,
    Thread,
    Vcpu,
    Virtio,
    VmFacts,
    Window,
)
from vmferry.units import MIB

MAC = "52:54:01:00:00:77"
MODULES: Mapping[str, Mapping[str, str]] = {
    "kvm": {"eager_page_split": "Y", "halt_poll_ns": "200000"},
    "kvm_amd": {"npt": "Y"},
    "vhost_net": {"experimental_zcopytx": "0"},
    "tun": {},
}
HOST = HostFacts(
    architecture="x86_64",
    kernel="6.1.0-53-amd64",
    cpus=2,
    vendor="AuthenticAMD",
    flags=frozenset({"svm", "hypervisor"}),
    modules=MODULES,
    devices={"/dev/kvm": "", "/dev/vhost-net": "", "/dev/net/tun": ""},
    command_line="console=ttyS0 quiet tsc=reliable",
    clocksource="tsc",
    clocksources=("tsc", "hpet", "acpi_pm"),
    iommus=(),
    hypervisor="QEMU",
)
FEATURES = {
    "kvmclock": True,
    "kvmclock-stable-bit": True,
    "kvm-pv-unhalt": True,
    "kvm-pv-tlb-flush": True,
    "kvm-pv-ipi": True,
    "kvm-pv-sched-yield": True,
    "kvm-hint-dedicated": False,
    "invtsc": False,
}
NAMED = FEATURES | dict.fromkeys(
    ("kvm-pv-unhalt", "kvm-pv-tlb-flush", "kvm-pv-ipi", "kvm-pv-sched-yield"), False
)
# clocksource, clocksource2, pv-unhalt and the stable bit.
SEEN = (1 << 0) | (1 << 3) | (1 << 7) | (1 << 24)
MQ = frozenset({"VIRTIO_NET_F_MQ"})
ROOT = StorageController("root", "virtio-blk-pci", 2, 3, (), 1)


def host(**changes: Any) -> HostFacts:
    values = {name: getattr(HOST, name) for name in HOST.__slots__}
    return HostFacts(**values | changes)


def with_module(name: str, **parameters: str) -> HostFacts:
    """The right host, and one module with these parameters."""
    return host(modules={**MODULES, name: {**MODULES.get(name, {}), **parameters}})


def vm(smp: int = 2, model: str = "host", **changes: Any) -> VmFacts:
    cpus = frozenset({0, 1})
    pinned: Mapping[int, frozenset[int]] = changes.pop("pinned", {})
    values: dict[str, Any] = {
        "name": "qmp:qmp.sock",
        "version": (7, 2, 22),
        "accelerator": "kvm",
        "machine": "pc-q35-7.2",
        "pid": 1000,
        "vcpus": tuple(Vcpu(n, 1010 + n, pinned.get(n, cpus), f"/m/{n}") for n in range(smp)),
        "cpu_type": f"{model}-x86_64-cpu",
        "features": FEATURES if model in ("host", "max") else NAMED,
        "cards": (),
        "controllers": (root(smp),),
        "iothreads": {"io0": 1005},
        "passthrough": (),
        "ram": GuestRam(384 * MIB, "ram", 4096, False, False, 0, 200 * MIB),
        "running": True,
        "migrating": False,
        "blocked": (),
        "words": ("qemu-system-x86_64", "-cpu", model),
        "neighbours": 0,
    }
    return VmFacts(**values | changes)


def root(smp: int) -> StorageController:
    """What the guest boots from, as QEMU makes it by default."""
    return StorageController("root", "virtio-blk-pci", smp, smp + 1, (), 1)


def tap(queues: int = 2, disabled: int = 0, **changes: Any) -> Tap:
    values: dict[str, Any] = {
        "name": "plant",
        "multi_queue": queues + disabled > 1,
        "queues": queues,
        "disabled": disabled,
        "bridge": "br0",
        "bridge_ports": ("eth0",),
        "uplinks": {"eth0": False},
    }
    return Tap(**values | changes)


def card(queues: int = 2, **changes: Any) -> Card:
    values: dict[str, Any] = {
        "name": "net0",
        "model": "virtio-net-pci",
        "mq": queues > 1,
        "vectors": 2 * queues + 2,
        "netdev": "tap",
        "queues": queues,
        "vhost_queues": queues,
        "tap": tap(queues),
        "virtio": Virtio(MQ, MQ, True, 2 * queues + 1, True)
        if queues > 1
        else Virtio(frozenset(), frozenset(), True, 2, True),
        "mac": MAC,
    }
    return Card(**values | changes)


def scsi(queues: int = 2, disks: int = 1, **changes: Any) -> StorageController:
    values: dict[str, Any] = {
        "name": "scsi0",
        "model": "virtio-scsi-pci",
        "queues": queues,
        "vectors": queues + 3,
        "iothreads": ("io0",),
        "disks": disks,
    }
    return StorageController(**values | changes)


def blk(queues: int = 2, **changes: Any) -> StorageController:
    values = {"name": "blk0", "model": "virtio-blk-pci", "vectors": queues + 1}
    return scsi(queues, 1, **values | changes)


def inside_card(queues: int = 2, most: int = 2, packets: int = 9000, **changes: Any) -> GuestCard:
    """With interrupts on a CPU for each queue."""
    rows: dict[str, tuple[int, ...]] = {}
    for queue in range(queues):
        counts = tuple(packets // 10 if cpu == queue % 2 else 3 for cpu in range(2))
        rows |= {f"virtio3-input.{queue}": counts, f"virtio3-output.{queue}": counts}
    values: dict[str, Any] = {
        "name": "eth0",
        "mac": MAC,
        "driver": "virtio_net",
        "most_queues": most,
        "queues": queues,
        "interrupts": rows,
        "packets": packets,
    }
    return GuestCard(**values | changes)


def disk(driver: str = "virtio_scsi", queues: int = 2, **changes: Any) -> GuestDisk:
    rows = {"virtio4-request": (400, 2), "virtio4-request (33)": (1, 380)}
    values: dict[str, Any] = {
        "name": "sda" if driver == "virtio_scsi" else "vdb",
        "driver": driver,
        "queues": tuple((n,) for n in range(queues)),
        "interrupts": rows if queues > 1 else {"virtio4-request": (800, 0)},
        "requests": 3000,
    }
    return GuestDisk(**values | changes)


CLOCK = GuestClock("kvm-clock", ("kvm-clock", "hpet", "acpi_pm"), 190.0, 1100.0, 0)
ENABLED = "kvm-guest: PV spinlocks enabled"
NO_SUPPORT = "kvm-guest: PV spinlocks disabled, no host support"


def guest(cpus: int = 2, **changes: Any) -> GuestFacts:
    values: dict[str, Any] = {
        "kernel": "6.1.0-53-cloud-amd64",
        "cpus": cpus,
        "window": 1.0,
        "command_line": "console=ttyS0 quiet",
        "cards": (),
        "disks": (disk("virtio_blk", cpus, name="vda", requests=0, interrupts={}),),
        "clock": CLOCK,
        "kvm_features": SEEN,
        "kvm_hints": 0,
        "spinlocks": ENABLED if cpus > 1 else "kvm-guest: PV spinlocks disabled, single CPU",
    }
    return GuestFacts(**values | changes)


def thread(role: str, number: int, ran: float, waited: float = 0.0, *on: int) -> Thread:
    name = {"vcpu": f"CPU {number}/KVM", "migration": "live_migration", "main": "qemu-system-x86"}
    cpus = frozenset(on or (0, 1))
    base = {"vcpu": 1010, "main": 1000, "iothread": 1005}.get(role, 1020)
    tid = base + number
    return Thread(tid, name.get(role, f"{role}-1000"), role, ran, waited, cpus)


def window(*threads: Thread, smp: int = 2, waited: float = 0.01, **changes: Any) -> Window:
    """A second; a main thread and quiet vCPUs, unless others are given."""
    usual = (
        thread("main", 0, 0.05),
        *(thread("vcpu", n, 0.4, waited) for n in range(smp)),
    )
    taps = {"plant": counts(9000, 1400)}
    values: dict[str, Any] = {"seconds": 1.0, "threads": threads or usual, "taps": taps}
    return Window(**values | changes)


def counts(packets: int, size: int) -> dict[str, int]:
    return {
        "sent_packets": packets,
        "sent_bytes": packets * size,
        "received_packets": packets // 10,
        "received_bytes": packets * 6,
    }


def net(one: Card, inside: GuestCard | None, smp: int = 2, cpus: int | None = None) -> Facts:
    """A VM with one card, under load."""
    cards = (inside,) if inside is not None else ()
    return Facts(HOST, vm(smp, cards=(one,)), window(smp=smp), guest(cpus or smp, cards=cards))


def storage(
    one: StorageController, inside: GuestDisk, smp: int = 2, cpus: int | None = None
) -> Facts:
    """A VM with one controller beside what it boots from, under load."""
    known = guest(cpus or smp)
    disks = (*(known.disks or ()), inside)
    facts = vm(smp, controllers=(root(smp), one))
    return Facts(HOST, facts, window(smp=smp), guest(cpus or smp, disks=disks))
