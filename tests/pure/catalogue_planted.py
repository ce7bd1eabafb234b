"""The facts that collectors give of each planted misconfiguration of the catalogue, by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tests.pure import catalogue_parts as parts
from tests.pure.catalogue_parts import (
    CLOCK,
    FEATURES,
    HOST,
    MQ,
    NAMED,
    NO_SUPPORT,
    SEEN,
    blk,
    card,
    disk,
    guest,
    host,
    inside_card,
    net,
    scsi,
    storage,
    tap,
    thread,
    vm,
    window,
    with_module,
)
from vmferry.fastpath.facts import (
    DeepFacts,
    Facts,
    GuestRam,
    HostFacts,
    Iommu,
    Passthrough,
    Virtio,
)
from vmferry.units import MIB

UNPLUGGED = frozenset({"VIRTIO_NET_F_CTRL_VQ"})
ONE_INSIDE = inside_card(1, 1)

NET: Mapping[str, Facts] = {
    "one queue for two vCPUs": net(card(1), ONE_INSIDE),
    "two queues for four vCPUs": net(card(2), inside_card(2), smp=4),
    "mq=on on a tap with one queue": net(
        card(1, mq=True, vectors=6, virtio=Virtio(MQ, MQ, True, 3, True)), ONE_INSIDE
    ),
    "mq=on on the user network": net(
        card(1, mq=True, netdev="user", tap=None, vhost_queues=0), ONE_INSIDE
    ),
    "mq=off in front of two queues": net(
        card(2, mq=False, virtio=Virtio(UNPLUGGED, UNPLUGGED, True, 3, True)), ONE_INSIDE
    ),
    "a tap that was made without multi_queue": net(card(1), ONE_INSIDE),
    "more queues than vCPUs": net(card(4, tap=tap(2, 2)), inside_card(2, 4)),
    "two queues for one vCPU": net(card(2, tap=tap(1, 1)), inside_card(1, 2), smp=1),
    "too few vectors for the queues": net(
        card(2, vectors=3),
        inside_card(2, interrupts={"virtio3-config": (1, 0), "virtio3-virtqueues": (900, 0)}),
    ),
    "two queues without vhost": net(card(2, vhost_queues=0), inside_card(2)),
    "one queue without vhost": net(card(1, vhost_queues=0), ONE_INSIDE, smp=1),
    "a guest that switched its queues off": net(card(2, tap=tap(1, 1)), inside_card(1, 2)),
    "a guest that uses one of two vCPUs": net(card(2, tap=tap(1, 1)), inside_card(1, 2), cpus=1),
    "interrupts of all queues on one vCPU": net(
        card(2),
        inside_card(2, interrupts={"virtio3-input.0": (900, 2), "virtio3-input.1": (850, 1)}),
    ),
    "a card that imitates hardware": net(
        card(1, model="e1000", mq=None, vectors=None, virtio=None, vhost_queues=0),
        inside_card(1, 1, driver="e1000"),
    ),
    "a host without vhost-net": Facts(host(devices={"/dev/kvm": "", "/dev/net/tun": ""})),
    "one queue, seen from inside": Facts(guest=guest(cards=(ONE_INSIDE,))),
}

SHARED = {"virtio4-virtqueues": (700, 1)}
SCSI: Mapping[str, Facts] = {
    "virtio-scsi with one queue": storage(scsi(1), disk(queues=1)),
    "a machine type from before a queue for each vCPU": replace(
        storage(scsi(1), disk(queues=1)),
        vm=vm(machine="pc-q35-5.1", controllers=(parts.root(1), scsi(1))),
    ),
    "virtio-scsi with more queues than vCPUs": storage(scsi(8), disk(queues=2)),
    "virtio-scsi with too few vectors": storage(scsi(2, vectors=3), disk(interrupts=SHARED)),
    "one iothread for eight disks and many queues": storage(scsi(2, 8), disk()),
    "the main loop for all disks": storage(scsi(2, 4, iothreads=()), disk()),
    "virtio-blk with one queue": storage(blk(1), disk("virtio_blk", 1)),
    "virtio-blk with more queues than vCPUs": storage(blk(6), disk("virtio_blk", 2)),
    "virtio-blk with too few vectors": storage(
        blk(2, vectors=2), disk("virtio_blk", interrupts=SHARED)
    ),
    "a guest kernel that is told to use one queue": Facts(
        HOST,
        vm(controllers=(parts.root(2), blk(2))),
        window(),
        guest(
            disks=(
                disk("virtio_blk", 1, name="vda", requests=0),
                disk("virtio_blk", 1, name="vdb"),
            )
        ),
    ),
    "disks of a guest that uses one of two vCPUs": storage(scsi(2), disk(queues=1), cpus=1),
}

ZERO_COPY_ON = with_module("vhost_net", experimental_zcopytx="1")
ALONE = tap(2, bridge="brp", bridge_ports=(), uplinks={})
ZERO_COPY: Mapping[str, Facts] = {
    "zero copy on, and nothing behind the bridge": replace(
        net(card(2, tap=ALONE), inside_card()), host=ZERO_COPY_ON
    ),
    "zero copy on, and a card that cannot gather": replace(
        net(card(2), inside_card()), host=ZERO_COPY_ON
    ),
    "zero copy on, and packets too short for it": replace(
        net(card(2, tap=tap(2, bridge="", bridge_ports=(), uplinks={})), inside_card()),
        host=ZERO_COPY_ON,
        window=window(taps={"plant": parts.counts(9000, 80)}),
    ),
    "zero copy on, on the host alone": Facts(ZERO_COPY_ON),
}

APART = {0: frozenset({0}), 1: frozenset({1})}
PAIRS = {n: frozenset({n // 2}) for n in range(4)}
HINT = FEATURES | {"kvm-hint-dedicated": True}
REALTIME = "kvm-guest: PV spinlocks disabled with KVM_HINTS_REALTIME hints"
FORCED = 'kvm-guest: PV spinlocks disabled, forced by "nopvspin" parameter'
WITHOUT = guest(spinlocks=NO_SUPPORT, kvm_features=SEEN & ~(1 << 7))
SPINLOCKS: Mapping[str, Facts] = {
    "a named CPU model": Facts(HOST, vm(model="EPYC"), window(), WITHOUT),
    "a named CPU model, and more vCPUs than cores": Facts(
        HOST, vm(4, "EPYC"), window(smp=4, waited=0.5), replace(WITHOUT, cpus=4)
    ),
    "PV spinlocks refused on the host's own model": Facts(
        HOST, vm(features=FEATURES | {"kvm-pv-unhalt": False}), window(), WITHOUT
    ),
    "PV spinlocks without their kin": Facts(
        HOST, vm(model="EPYC", features=NAMED | {"kvm-pv-unhalt": True}), window(), guest()
    ),
    "one of the kin refused": Facts(
        HOST,
        vm(
            features=FEATURES | {"kvm-pv-sched-yield": False},
            words=("-cpu", "host,kvm-pv-sched-yield=off"),
        ),
        window(),
        guest(),
    ),
    "the hint of own cores without pinning": Facts(
        HOST, vm(features=HINT), window(), guest(spinlocks=REALTIME, kvm_hints=1)
    ),
    "the hint of own cores on an overcommitted host": Facts(
        HOST,
        vm(4, features=HINT, pinned=PAIRS),
        window(smp=4, waited=0.5),
        guest(4, spinlocks=REALTIME, kvm_hints=1),
    ),
    "the hint of own cores, and another VM on them": Facts(
        HOST,
        vm(features=HINT, pinned=APART, neighbours=2),
        window(),
        guest(spinlocks=REALTIME, kvm_hints=1),
    ),
    "the hint of own cores with a named CPU model": Facts(
        HOST,
        vm(
            model="EPYC",
            features=NAMED | {"kvm-pv-unhalt": True, "kvm-hint-dedicated": True},
            pinned=APART,
        ),
        window(),
        guest(spinlocks=REALTIME, kvm_hints=1),
    ),
    "nopvspin in the guest": Facts(
        HOST, vm(), window(), guest(spinlocks=FORCED, command_line="quiet nopvspin")
    ),
    "nopvspin, and more vCPUs than cores": Facts(
        HOST,
        vm(4),
        window(smp=4, waited=0.5),
        guest(4, spinlocks=FORCED, command_line="quiet nopvspin"),
    ),
    "PV spinlocks asked of TCG": Facts(
        HOST,
        vm(
            model="max",
            accelerator="tcg",
            features=FEATURES | {"kvm-pv-unhalt": False},
            words=("-accel", "tcg", "-cpu", "max,kvm-pv-unhalt=on"),
        ),
        window(),
        guest(spinlocks=None, kvm_features=None),
    ),
    "no PV spinlocks, seen from inside": Facts(guest=WITHOUT),
}

SLOW = replace(CLOCK, vdso_ns=9100.0, syscall_ns=8900.0)
CLOCKS: Mapping[str, Facts] = {
    "clocksource=hpet in the guest": Facts(
        HOST,
        vm(),
        window(),
        guest(clock=replace(SLOW, source="hpet"), command_line="quiet clocksource=hpet"),
    ),
    "a guest that was switched to acpi_pm": Facts(
        HOST, vm(), window(), guest(clock=replace(SLOW, source="acpi_pm"))
    ),
    "no kvmclock offered": Facts(
        HOST,
        vm(features=FEATURES | {"kvmclock": False}),
        window(),
        guest(clock=replace(SLOW, source="hpet", sources=("hpet", "acpi_pm"))),
    ),
    "a kvmclock that is not said to be one for all vCPUs": Facts(
        HOST, vm(features=FEATURES | {"kvmclock-stable-bit": False}), window(), guest(clock=SLOW)
    ),
    "no-kvmclock in the guest": Facts(
        HOST,
        vm(),
        window(),
        guest(
            clock=replace(SLOW, source="hpet", sources=("hpet", "acpi_pm")),
            command_line="quiet no-kvmclock",
        ),
    ),
    "a kvm-clock that is read by system calls": Facts(
        HOST, vm(), window(), guest(clock=SLOW, command_line="quiet no-kvmclock-vsyscall")
    ),
    "a host that counts time by hpet": Facts(host(clocksource="hpet"), vm(), window(), guest()),
    "a host on acpi_pm, without a VM": Facts(host(clocksource="acpi_pm")),
    "a clock that is not stable, seen from inside": Facts(
        guest=guest(kvm_features=SEEN & ~(1 << 24), clock=SLOW)
    ),
}

ON_ZERO = window(thread("main", 0, 0.05, 0.0, 0), thread("vcpu", 0, 0.4, 0.01, 0))
MOVING = window(
    thread("main", 0, 0.05, 0.0, 0),
    thread("vcpu", 0, 0.4, 0.3, 0),
    thread("migration", 0, 0.5, 0.2, 0),
    migrating=True,
)
ONE_PINNED = {0: frozenset({0})}
MIGRATION: Mapping[str, Facts] = {
    "all threads of a VM on one core": Facts(HOST, vm(1, pinned=ONE_PINNED), ON_ZERO, guest(1)),
    "the migration's thread on the vCPU's core": Facts(
        HOST, vm(1, pinned=ONE_PINNED, migrating=True), MOVING, guest(1)
    ),
    "huge pages split by the vCPUs": Facts(
        with_module("kvm", eager_page_split="N"), vm(), window(), guest()
    ),
    "auto-converge at work": Facts(
        HOST,
        vm(1, migrating=True),
        window(
            thread("main", 0, 0.05),
            thread("vcpu", 0, 0.4, 0.1),
            thread("migration", 0, 0.5),
            migrating=True,
            throttle=40,
        ),
        guest(1),
    ),
}

INTEL = Iommu("dmar0", "intel", 0xD2008C222F0686, 0xF00F5A)
VTD = host(iommus=(INTEL,), modules={**parts.MODULES, "vfio_iommu_type1": {}})
BY_PAGE = replace(VTD, modules={**parts.MODULES, "vfio_iommu_type1": {"disable_hugepages": "Y"}})
SP_OFF = replace(VTD, command_line="quiet intel_iommu=on intel_iommu=on,sp_off")
NVME = Passthrough("hostdev0", "0000:01:00.0", 8, "vfio")
HUGE = GuestRam(256 * MIB, "memfd", 2 * MIB, True, True, 0, 256 * MIB)
SMALL = GuestRam(256 * MIB, "ram", 4096, False, False, 0, 256 * MIB)
TINY_LEAVES = DeepFacts(leaf_pages={NVME.host: {4096: 65536}})


def passed(on: HostFacts, ram: GuestRam, leaves: DeepFacts) -> Facts:
    """A VM with the NVMe disk, on that host."""
    return Facts(on, vm(passthrough=(NVME,), ram=ram), window(), guest(), leaves)


LARGE_PAGES: Mapping[str, Facts] = {
    "sp_off on the host's command line": Facts(SP_OFF),
    "VFIO told to map page by page": Facts(BY_PAGE),
    "a device in a VM whose RAM lies in small pages": passed(VTD, SMALL, TINY_LEAVES),
    "huge pages in vain, since VFIO maps page by page": passed(BY_PAGE, HUGE, TINY_LEAVES),
    "huge pages in vain, since of sp_off": passed(SP_OFF, HUGE, TINY_LEAVES),
}

PLANTED: Mapping[str, Facts] = {
    **NET,
    **SCSI,
    **ZERO_COPY,
    **SPINLOCKS,
    **CLOCKS,
    **MIGRATION,
    **LARGE_PAGES,
}
