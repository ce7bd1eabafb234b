"""Judges multi-queue virtio-scsi, and virtio-blk beside it. Facts in, findings out, no I/O.

Offered: queues, vectors and the threads behind them. Negotiated: the queues that the guest's kernel
set up. Effective: requests come by several queues, and no thread of QEMU is the bottleneck.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmferry.fastpath.facts import Facts, GuestDisk, StorageController
from vmferry.fastpath.finding import Evidence, Feature, Finding, Level
from vmferry.fastpath.scsi_queues.measured import judge_effective
from vmferry.fastpath.scsi_queues.threads import judge_threads
from vmferry.fastpath.vcpu_count import VcpuCount
from vmferry.fastpath.verdicts import NAME_A_VM, RESTART, Findings, counted, look_inside, saw

_CHECK = "scsi-queues"
# Beyond this a queue for each vCPU gains nothing that was ever measured (Hajnoczi 2020: 1 to 4 per
# cent at 4 vCPUs), so fewer queues than vCPUs are no finding from here on.
ENOUGH_QUEUES = 8
_GAIN = (
    "with several disks and jobs one queue holds all of them up: 8 disks gave 87 % more with "
    "a queue for each of 4 vCPUs (Bonzini 2012); with one disk expect next to nothing"
)
# A queue for requests each, and beside them: control, event and configuration; configuration.
_OTHER_VECTORS = {"scsi": 3, "blk": 1}


def judge(facts: Facts) -> list[Finding]:
    """The findings on virtio-scsi and virtio-blk at the three levels, for every controller."""
    out = Findings(Feature.SCSI_QUEUES)
    controllers = facts.vm.controllers if facts.vm else None
    disks = facts.guest.disks if facts.guest else None
    if controllers is not None:
        used = [one for one in controllers if one.disks != 0]
        for one in used:
            _controller(facts, one, out)
        if not used:
            _nothing(out, saw("QMP qom-list /machine, disks on virtio-scsi or virtio-blk", "none"))
    elif disks is not None:
        _inside_alone(facts, disks, out)
    else:
        unread = facts.vm.unread if facts.vm else {}
        reason = unread.get("controllers", "this is seen at a VM")
        for level in Level:
            out.at(level, _CHECK).untold(reason, change=NAME_A_VM)
    return out.found


def _nothing(out: Findings, seen: Evidence) -> None:
    for level in Level:
        out.at(level, _CHECK).unused("there is no disk that this could serve", seen)


def _controller(facts: Facts, one: StorageController, out: Findings) -> None:
    vcpus = len(facts.vm.vcpus) if facts.vm else 0
    _offered(facts, one, VcpuCount.of(facts.vm, vcpus), out)
    _vectors(one, out)
    judge_threads(facts, one, out)
    inside = _inside(facts, one)
    _negotiated(facts, one, inside, vcpus, out)
    judge_effective(facts, out, one.name, inside, one)


def _kind(model: str) -> str:
    return "scsi" if "scsi" in model else "blk"


def _inside(facts: Facts, one: StorageController) -> list[GuestDisk] | None:
    """The guest's disks behind controllers of this kind; which of several, it does not say."""
    disks = facts.guest.disks if facts.guest else None
    driver = f"virtio_{_kind(one.model)}"
    return None if disks is None else [disk for disk in disks if disk.driver == driver]


def _offered(facts: Facts, one: StorageController, count: VcpuCount, out: Findings) -> None:
    vcpus = count.now
    place = out.at(Level.OFFERED, _CHECK, one.name)
    option = "num_queues" if _kind(one.model) == "scsi" else "num-queues"
    machine = facts.vm.machine if facts.vm else None
    evidence = (
        saw(f"QOM {one.name} {option}", one.queues),
        *count.evidence,
        saw("QOM /machine type", machine),
    )
    if one.queues is None or not vcpus:
        what = "the number of queues or of vCPUs could not be read"
        place.untold(what, *evidence, change="see that QEMU answers qom-get on QMP, and repeat")
    elif one.queues > count.most:
        place.better(
            f"{one.queues} queues for {count}: Linux uses no more than vCPUs",
            *evidence,
            why="each costs a vector and memory for nothing, and the guest's start takes longer",
            change=f"{option}={count.most}, or leave it out (QEMU 5.2 and later: a queue for each "
            "vCPU that it starts with)",
            cost=RESTART,
        )
    elif one.queues > vcpus:
        place.ok(f"{one.queues} queues for {count}", *evidence)
    elif vcpus == 1:
        place.unused("one vCPU needs one queue", *evidence)
    elif one.queues >= min(vcpus, ENOUGH_QUEUES):
        place.ok(f"{one.queues} queues for {vcpus} vCPUs", *evidence)
    else:
        place.better(
            f"{counted(one.queues, 'queue')} for {vcpus} vCPUs",
            *evidence,
            why=_GAIN,
            change=(
                f"-device {one.model},…,{option}={vcpus}, or a machine type of 5.2 or later, where "
                f"a queue for each vCPU is the default; libvirt: <driver queues='{vcpus}'/> in the "
                f"{'<controller>' if option == 'num_queues' else '<disk>'}"
            ),
            cost=f"{RESTART}; a destination of a migration needs the same number",
        )


def _vectors(one: StorageController, out: Findings) -> None:
    if one.queues is None or one.vectors is None or one.queues <= 1:
        return
    needed = one.queues + _OTHER_VECTORS[_kind(one.model)]
    if one.vectors >= needed:
        return
    out.at(Level.OFFERED, "scsi-vectors", one.name).wrong(
        f"{counted(one.vectors, 'vector')} for {one.queues} queues: the driver then puts all "
        "queues on one interrupt",
        saw(f"QOM {one.name} vectors", one.vectors),
        why="one interrupt goes to one vCPU, whatever the number of queues",
        change=f"vectors={needed}, or no vectors= at all (QEMU then reckons it)",
        cost=RESTART,
    )


def _negotiated(
    facts: Facts,
    one: StorageController,
    inside: Sequence[GuestDisk] | None,
    vcpus: int,
    out: Findings,
) -> None:
    place = out.at(Level.NEGOTIATED, "scsi-enabled", one.name)
    if one.queues is not None and one.queues <= 1:
        seen = saw(f"queues of {one.name}", one.queues)
        place.unused("there is one queue: nothing to agree on", seen)
        return
    if one.virtio is not None and not one.virtio.driver_ok:
        seen = saw(f"QMP x-query-virtio-status, {one.name}", "no DRIVER_OK")
        change = "let the guest boot, and audit again"
        place.untold("no driver has taken the controller over yet", seen, change=change)
        return
    in_use, evidence = _queues_in_use(one, inside)
    if in_use is None or one.queues is None:
        reason, change = look_inside(facts.no_guest)
        what = "how many queues the guest set up is not to be seen from here"
        place.untold(what, *evidence, why=reason, change=change)
        return
    most = min(one.queues, vcpus or one.queues)
    if in_use >= most:
        place.ok(f"the guest uses {in_use} of {one.queues} queues", *evidence)
        return
    online = facts.guest.cpus if facts.guest else None
    if online is not None:
        evidence.append(saw("guest, CPUs online", f"{online} of {vcpus} vCPUs"))
    place.wrong(
        f"the guest uses {in_use} of {one.queues} queues",
        *evidence,
        why=_GAIN,
        change=(
            "in the guest: a kernel of Linux 5.0 or later (before it, scsi_mod.use_blk_mq=1), "
            "nothing that limits it on the kernel's command line (virtio_blk.num_request_queues=, "
            "maxcpus=, nr_cpus=)"
        ),
        cost="a reboot of the guest",
    )


def _queues_in_use(
    one: StorageController, inside: Sequence[GuestDisk] | None
) -> tuple[int | None, list[Evidence]]:
    known = [disk for disk in inside or () if disk.queues is not None]
    if known:
        shown = {disk.name: len(disk.queues or ()) for disk in known}
        text = ", ".join(f"{name}: {count}" for name, count in sorted(shown.items()))
        # Which of several controllers a disk is behind, the guest does not say; with more queues
        # than this one has, it is behind another.
        counts = shown.values()
        fits = [count for count in counts if one.queues is not None and count <= one.queues]
        return max(fits, default=min(counts)), [saw("guest, /sys/block/*/mq", text)]
    if one.virtio is not None and one.virtio.ready is not None:
        other = 2 if _kind(one.model) == "scsi" else 0
        seen = saw(f"QMP x-query-virtio-queue-status, {one.name}", f"{one.virtio.ready} set up")
        return max(one.virtio.ready - other, 0), [seen]
    return None, []


def _inside_alone(facts: Facts, disks: Sequence[GuestDisk], out: Findings) -> None:
    served = [disk for disk in disks if disk.driver in ("virtio_scsi", "virtio_blk")]
    if not served:
        _nothing(out, saw("guest, /sys/block", [disk.name for disk in disks]))
    cpus = facts.guest.cpus if facts.guest else 0
    for disk in served:
        queues = None if disk.queues is None else len(disk.queues)
        option = "num_queues" if disk.driver == "virtio_scsi" else "num-queues"
        seen = (saw(f"guest, /sys/block/{disk.name}/mq", queues), saw("guest, CPUs online", cpus))
        place = out.at(Level.OFFERED, _CHECK, disk.name)
        if queues is None:
            place.untold("the queues could not be read", *seen, change=f"on the host: {NAME_A_VM}")
        elif cpus == 1:
            place.unused("one vCPU needs one queue", *seen)
        elif queues >= min(cpus, ENOUGH_QUEUES):
            place.ok(f"{queues} queues for {cpus} vCPUs", *seen)
        else:
            place.better(
                f"{counted(queues, 'queue')} for {cpus} vCPUs",
                *seen,
                why=_GAIN,
                change=f"on the host: {option}={cpus} for its device; {NAME_A_VM} there says more",
                cost=RESTART,
            )
        place = out.at(Level.NEGOTIATED, "scsi-enabled", disk.name)
        what = "what the host offers beyond this is not to be seen from inside"
        place.untold(what, *seen, change=f"on the host: {NAME_A_VM}")
        judge_effective(facts, out, disk.name, [disk], None)
