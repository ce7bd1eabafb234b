"""Judges the threads of QEMU that serve a controller's queues."""

from __future__ import annotations

from vmferry.fastpath.facts import Facts, StorageController
from vmferry.fastpath.finding import Evidence, Level
from vmferry.fastpath.verdicts import RESTART, Findings, counted, saw

# From these versions on, `iothread-vq-mapping` spreads a device's queues over several iothreads.
# Before them all queues of one device are served by one thread.
_MAPPING_SINCE = {"blk": (9, 0, 0), "scsi": (10, 0, 0)}


def judge_threads(facts: Facts, one: StorageController, out: Findings) -> None:
    """Whether one thread has to do for several disks, or the main loop for all."""
    place = out.at(Level.OFFERED, "scsi-threads", one.name)
    version = facts.vm.version if facts.vm else (0, 0, 0)
    vcpus = len(facts.vm.vcpus) if facts.vm else 0
    kind = "scsi" if "scsi" in one.model else "blk"
    mapped = version >= _MAPPING_SINCE[kind]
    # Where a VM has several threads, disks take turns: more threads than cores gain nothing.
    only = len((facts.vm.iothreads if facts.vm else None) or ()) == 1
    served = _disks_of(facts, one.iothreads) if only or not one.iothreads else one.disks
    evidence = (
        saw(f"QOM {one.name} iothread", one.iothreads or "none: the main loop"),
        saw(f"disks behind {one.name}", one.disks),
        *_elsewhere(one, served),
        saw("QMP query-version", ".".join(map(str, version))),
    )
    cost = f"{RESTART}; each iothread can take a core of the host"
    if idle := _without_work(facts, one):
        mapped_to = one.iothreads + one.idle
        place.better(
            f"{len(mapped_to)} iothreads for {counted(one.queues or 0, 'queue')}: "
            f"{', '.join(idle)} got none",
            saw(f"QOM {one.name} iothread-vq-mapping", mapped_to),
            saw(f"queues of {one.name}", one.queues),
            why="QEMU deals the queues out to the iothreads in turn, so one too many is a thread "
            "that never has anything to do",
            change=(
                f"take {', '.join(idle)} out of iothread-vq-mapping (libvirt: <iothreads> in the "
                "<driver>), or give the device a queue for each where there are as many vCPUs"
            ),
            cost=RESTART,
        )
    elif vcpus <= 1 or (one.queues or 1) <= 1:
        serves = counted(len(one.iothreads), "iothread") if one.iothreads else "the main loop"
        what = "one queue" if (one.queues or 1) <= 1 else f"{one.queues} queues of one vCPU"
        place.ok(f"{serves} for {what}", *evidence)
    elif not one.iothreads and served <= 1:
        place.ok("QEMU's main loop serves this one disk; an iothread would take it off", *evidence)
    elif not one.iothreads:
        place.better(
            f"QEMU's main loop serves all {one.queues} queues, and {served} disks in all",
            *evidence,
            why=(
                "the main loop also serves QMP, the console and cards without vhost, and is one "
                "thread: the guest's queues meet again there"
            ),
            change=(
                f"-object iothread,id=io0 -device {one.model},…,iothread=io0; libvirt: "
                "<iothreads>1</iothreads> and <driver iothread='1'/>"
            ),
            cost=cost,
        )
    elif len(one.iothreads) == 1 and served > 1:
        spread = (
            "several iothreads by iothread-vq-mapping (libvirt: <iothreads> in the <driver>)"
            if mapped
            else f"a controller with an iothread of its own for each disk (QEMU "
            f"{_MAPPING_SINCE[kind][0]}.0 can spread the queues of one over several iothreads)"
        )
        place.better(
            f"one thread serves {one.queues} queues, and {served} disks in all",
            *evidence,
            why="queues are a gain inside the guest only, where one thread of the host serves all",
            change=spread,
            cost=cost,
        )
    else:
        more = "" if len(one.iothreads) > 1 or mapped else ", which is all that this QEMU can"
        threads = counted(len(one.iothreads), "iothread")
        place.ok(f"{threads} for {one.queues} queues{more}", *evidence)


def _without_work(facts: Facts, one: StorageController) -> tuple[str, ...]:
    """Its iothreads that got no queue, of this controller or another."""
    controllers = (facts.vm.controllers if facts.vm else None) or ()
    busy = {name for other in controllers for name in other.iothreads}
    return tuple(name for name in one.idle if name not in busy)


def _disks_of(facts: Facts, iothreads: tuple[str, ...]) -> int:
    """Disks of all controllers that these threads serve; none: the main loop."""
    controllers = (facts.vm.controllers if facts.vm else None) or ()
    return sum(one.disks for one in controllers if one.iothreads == iothreads)


def _elsewhere(one: StorageController, served: int) -> tuple[Evidence, ...]:
    """Further disks of the same thread; each virtio-blk disk is a device of its own."""
    if served <= one.disks:
        return ()
    return (saw(f"disks of {', '.join(one.iothreads) or 'the main loop'} in all", served),)
