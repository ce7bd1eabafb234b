"""Judges whether a controller's queues are used, and whether a thread of QEMU holds them up."""

from __future__ import annotations

from collections.abc import Sequence

from vmferry.fastpath.facts import Facts, GuestDisk, StorageController, Thread
from vmferry.fastpath.finding import Evidence, Level
from vmferry.fastpath.spread import (
    FEWEST_INTERRUPTS,
    Spread,
    shares_one_vector,
    spread_of,
)
from vmferry.fastpath.verdicts import Findings, counted, look_inside, saw
from vmferry.units import format_share

# Fewer in a window are a journal's commits and somebody's login, no load.
FEWEST_REQUESTS = 100
# A thread that ran this share of the window has no room left; the rest is its time to wake up.
SATURATED = 0.85
LOAD = (
    "put load on it from every vCPU (in the guest, on a scratch disk: `fio --name=x --rw=randread "
    "--bs=4k --direct=1 --iodepth=16 --numjobs=VCPUS --cpus_allowed_policy=split "
    "--filename=/dev/sdX --time_based --runtime=60`), and audit meanwhile"
)
_CHECK = "scsi-spread"
_WHY = "one vCPU then ends the requests of all the others"


def judge_effective(
    facts: Facts,
    out: Findings,
    subject: str,
    inside: Sequence[GuestDisk] | None,
    controller: StorageController | None,
) -> None:
    """Whether requests are spread over queues and vCPUs, and served by threads with room."""
    if controller is not None and controller.queues is not None and controller.queues <= 1:
        seen = saw(f"queues of {subject}", controller.queues)
        place = out.at(Level.EFFECTIVE, _CHECK, subject)
        place.unused("there is one queue: nothing to spread", seen)
        return
    if controller is not None:
        _thread(facts, out, subject, controller)
    known = [disk for disk in inside or () if disk.interrupts is not None]
    if known:
        _spread(out, subject, known)
        return
    reason, change = look_inside(facts.no_guest)
    if facts.guest is not None:
        reason = facts.guest.unread.get("interrupts", "the guest's interrupts could not be read")
    what = "how requests are spread over the queues is not to be seen from here"
    place = out.at(Level.EFFECTIVE, _CHECK, subject)
    place.untold(what, why=reason, change=f"{change}; {LOAD}")


def _spread(out: Findings, subject: str, disks: Sequence[GuestDisk]) -> None:
    place = out.at(Level.EFFECTIVE, _CHECK, subject)
    if all(disk.queues is not None and len(disk.queues) <= 1 for disk in disks):
        seen = saw("guest, /sys/block/*/mq", "one queue")
        place.unused("the guest has one queue: nothing to spread", seen)
        return
    busiest, requests, evidence = _busiest(disks)
    if requests < FEWEST_REQUESTS:
        what = f"too little was read and written in the window ({counted(requests, 'request')})"
        place.untold(what, *evidence, change=LOAD)
    elif shares_one_vector(busiest.interrupts or {}):
        place.wrong(
            "all queues share one interrupt",
            *evidence,
            why=_WHY,
            change="leave vectors= out, so that QEMU reckons it",
            cost="a full stop and start of the VM",
        )
    else:
        _judge_spread(out, subject, spread_of(busiest.interrupts or {}), evidence)


def _judge_spread(out: Findings, subject: str, spread: Spread, evidence: list[Evidence]) -> None:
    place = out.at(Level.EFFECTIVE, _CHECK, subject)
    if spread.total < FEWEST_INTERRUPTS:
        place.untold("too few interrupts came to tell the queues apart", *evidence, change=LOAD)
    elif spread.busy_queues <= 1:
        what = "all requests came by one queue: jobs of one vCPU do not use more"
        place.untold(what, *evidence, change=LOAD)
    elif spread.concentrated:
        place.wrong(
            f"interrupts of {spread.busy_queues} queues go to one vCPU",
            *evidence,
            why=_WHY,
            change=(
                "in the guest: end what pins interrupts (irqaffinity= on the kernel's line, writes "
                "to /proc/irq/*/smp_affinity_list)"
            ),
            cost="none: it works at once",
        )
    else:
        cpus = counted(spread.busy_cpus, "vCPU")
        place.ok(f"requests come by {spread.busy_queues} queues on {cpus}", *evidence)


def _busiest(disks: Sequence[GuestDisk]) -> tuple[GuestDisk, int, list[Evidence]]:
    """Disks of one controller share its interrupts, so one disk shows those of all of them."""
    spreads = [(spread_of(disk.interrupts or {}), disk) for disk in disks]
    spread, busiest = max(spreads, key=lambda pair: (pair[0].total, pair[1].name))
    evidence = [saw(f"guest, /proc/interrupts, {busiest.name}", str(spread))]
    counts = [disk.requests for disk in disks if disk.requests is not None]
    if counts:
        evidence.append(saw("guest, /sys/block/*/stat", f"{sum(counts):,} requests"))
    return busiest, sum(counts) if counts else spread.total, evidence


def _thread(facts: Facts, out: Findings, subject: str, controller: StorageController) -> None:
    window = facts.window
    if window is None or window.threads is None or window.seconds <= 0:
        return
    if not controller.iothreads and (window.requests or {}).get(subject, 0) < FEWEST_REQUESTS:
        # The main loop has much else to do.
        return
    serving = _serving(facts, controller, window.threads)
    full = [one for one in serving if one.ran >= SATURATED * window.seconds]
    if not serving or len(full) < len(serving):
        return
    shown = ", ".join(f"{one.name} {format_share(one.ran / window.seconds)}" for one in full)
    out.at(Level.EFFECTIVE, "scsi-thread-full", subject).better(
        f"{counted(len(full), 'thread')} of QEMU for {controller.queues} queues, and no room left",
        saw("/proc/PID/task/TID/schedstat, share of the window", shown),
        why="the guest's queues meet again in this thread: further ones gain nothing",
        change=(
            "spread the disks over several controllers with an iothread each, or (QEMU 10.0 for "
            "virtio-scsi, 9.0 for virtio-blk) the queues by iothread-vq-mapping"
        ),
        cost="a full stop and start of the VM, and a core of the host for each iothread",
    )


def _serving(
    facts: Facts, controller: StorageController, threads: Sequence[Thread]
) -> list[Thread]:
    """The iothreads of this controller, or QEMU's main loop."""
    if not controller.iothreads:
        return [one for one in threads if one.role == "main"]
    tids = facts.vm.iothreads if facts.vm else None
    wanted = {(tids or {}).get(name) for name in controller.iothreads}
    return [one for one in threads if one.role == "iothread" and one.tid in wanted]
