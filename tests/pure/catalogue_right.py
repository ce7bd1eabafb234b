"""The facts that collectors give of each right set-up of the catalogue, by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tests.pure import catalogue_parts as parts
from tests.pure.catalogue_parts import (
    CLOCK,
    FEATURES,
    HOST,
    NO_SUPPORT,
    blk,
    card,
    disk,
    guest,
    inside_card,
    net,
    scsi,
    storage,
    thread,
    vm,
    window,
)
from tests.pure.catalogue_planted import HUGE, NVME, VTD, passed
from vmferry.fastpath.facts import DeepFacts, Facts
from vmferry.units import MIB

USER = card(1, netdev="user", tap=None, vhost_queues=0, vectors=3)
ONE_FLOW = inside_card(2, interrupts={"virtio3-input.0": (3, 900), "virtio3-input.1": (0, 2)})
ALL_PV = FEATURES | {"kvm-hint-dedicated": False}

RIGHT: Mapping[str, Facts] = {
    "two queues for two vCPUs": net(card(), inside_card()),
    "four queues for four vCPUs on two cores": net(card(4), inside_card(4, 4), smp=4),
    "one queue for one vCPU": net(card(1), inside_card(1, 1), smp=1),
    "queues whose vectors QEMU reckons": net(card(), inside_card()),
    "two queues, and nobody sends": net(card(), inside_card(packets=4)),
    "two queues, and one connection": net(card(), ONE_FLOW),
    "the user network": net(USER, inside_card(1, 1)),
    "the user network with one vCPU": net(USER, inside_card(1, 1), smp=1),
    "neither card nor further disk": Facts(HOST, vm(), window(waited=0.02), guest()),
    "zero copy off while large packets are sent": net(card(), inside_card()),
    "virtio-scsi with an iothread": storage(scsi(), disk()),
    "virtio-blk with an iothread": storage(blk(), disk("virtio_blk")),
    "two controllers with an iothread each": Facts(
        HOST,
        vm(controllers=(parts.root(2), blk(), scsi(name="s1", iothreads=("io1",)))),
        window(),
        guest(disks=(disk("virtio_blk"), disk())),
    ),
    "a disk of one vCPU": storage(scsi(1, iothreads=()), disk(queues=1), smp=1),
    "PV spinlocks with more vCPUs than cores": Facts(
        HOST,
        vm(4),
        window(smp=4, waited=0.5, vcpu_stats=({"directed_yield_attempted": 90},) * 4),
        guest(4),
    ),
    "a named CPU model with PV spinlocks and kin": Facts(
        HOST, vm(model="EPYC", features=ALL_PV), window(), guest()
    ),
    "a named CPU model with one vCPU": Facts(
        HOST, vm(1, "EPYC"), window(smp=1), guest(1, spinlocks=NO_SUPPORT)
    ),
    "a guest under TCG": Facts(
        HOST,
        vm(model="max", accelerator="tcg", features=dict.fromkeys(FEATURES, False)),
        window(),
        guest(
            clock=replace(CLOCK, source="hpet", vdso_ns=9000.0, syscall_ns=8800.0),
            spinlocks=None,
            kvm_features=None,
        ),
    ),
    "one vCPU whose clock is the TSC": Facts(
        HOST, vm(1), window(smp=1), guest(1, clock=replace(CLOCK, source="tsc"))
    ),
    "a guest seen from inside": Facts(guest=guest(cards=(inside_card(),))),
    "a host alone": Facts(HOST),
    "a migration on a core of its own": Facts(
        HOST,
        vm(1, pinned={0: frozenset({0})}, migrating=True),
        window(
            thread("main", 0, 0.05, 0.0, 1),
            thread("vcpu", 0, 0.6, 0.01, 0),
            thread("migration", 0, 0.5, 0.02, 1),
            migrating=True,
        ),
        guest(1),
    ),
    "an older machine type": Facts(HOST, vm(machine="pc-q35-7.0"), window(), guest()),
    "a device with RAM in huge pages": passed(
        VTD, HUGE, DeepFacts(leaf_pages={NVME.host: {2 * MIB: 128, 4096: 60}})
    ),
}
