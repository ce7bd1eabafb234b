"""Judges what the host offers a card: queues, `mq`, vectors, vhost."""

from __future__ import annotations

from vmferry.fastpath.facts import Card, Facts
from vmferry.fastpath.finding import Evidence, Level
from vmferry.fastpath.net_queues.cards import GAIN, PRICE, CardPair, on_or_off, wanted_queues
from vmferry.fastpath.vcpu_count import VcpuCount
from vmferry.fastpath.verdicts import NAME_A_VM, RESTART, Findings, counted, saw

# Kinds of backend that can have several queues. QEMU's user network, sockets and bridges have one.
_MANY_QUEUES = ("tap", "vhost-user", "vhost-vdpa")


def judge_offered(facts: Facts, pair: CardPair, out: Findings) -> None:
    card, level, subject = pair.card, Level.OFFERED, pair.subject
    if card is None:
        _as_seen_inside(pair, out)
        return
    kind = saw(f"QMP, card {card.name}", f"{card.model} on {card.netdev or 'no backend'}")
    if not card.model.startswith("virtio"):
        if pair.vcpus == 1:
            out.at(level, "net-model", subject).unused("one vCPU needs one queue", kind)
            return
        out.at(level, "net-model", subject).better(
            f"a card of model {card.model} has one queue, and every access to it leaves the guest",
            kind,
            why=GAIN,
            change="-device virtio-net-pci instead; libvirt: <model type='virtio'/>",
            cost=f"{RESTART}; the guest needs the virtio_net driver, and sees a new card",
        )
        return
    evidence = (kind, saw(f"QOM {card.name}", f"mq={on_or_off(card.mq)}"), *_backend_evidence(card))
    if card.queues is None or pair.vcpus is None:
        reason = facts.vm.unread.get("cards", "") if facts.vm else ""
        out.at(level, "net-queues", subject).untold(
            "the queues of the backend or the number of vCPUs could not be read",
            *evidence,
            change="see that QEMU answers query-cpus-fast and `info network` on QMP, and repeat",
            why=reason,
        )
        return
    _queues(card, card.queues, VcpuCount.of(facts.vm, pair.vcpus), evidence, out)
    _vectors(card, card.queues, out)
    _vhost(facts, card, card.queues, out)


def _backend_evidence(card: Card) -> tuple[Evidence, ...]:
    found = [saw(f"QMP info network, backend of {card.name}", _pairs_of_queues(card.queues))]
    if card.tap is not None:
        shared = "multi_queue" if card.tap.multi_queue else "one queue (no multi_queue)"
        if card.tap.kind == "macvtap":
            shared = "macvtap, a queue for each time that it is open"
        found.append(saw(f"rtnetlink, tap {card.tap.name}", shared))
    return tuple(found)


def _pairs_of_queues(queues: int | None) -> str:
    return "could not be read" if queues is None else counted(queues, "queue pair")


def _queues(
    card: Card, queues: int, count: VcpuCount, evidence: tuple[Evidence, ...], out: Findings
) -> None:
    level, check, subject = Level.OFFERED, "net-queues", card.name
    evidence = (*evidence, *count.evidence)
    vcpus = count.now
    # Who has more queues than vCPUs keeps them for those that can be plugged in.
    wanted = wanted_queues(count.most if queues > vcpus else vcpus)
    change = (
        f"-netdev tap,…,queues={wanted},vhost=on -device virtio-net-pci,…,mq=on,"
        f"vectors={2 * wanted + 2}; libvirt: <driver name='vhost' queues='{wanted}'/> in the "
        "<interface>; a tap that is made beforehand needs `ip tuntap add … multi_queue`"
    )
    # Without the queues the feature is shown all the same, so the guest believes in it.
    if card.mq and queues <= 1 and vcpus > 1:
        out.at(level, check, subject).wrong(
            "mq=on, but the backend has one queue: the guest is shown a feature without the queues",
            *evidence,
            why=GAIN,
            change=change if card.netdev in _MANY_QUEUES else f"a backend of kind tap: {change}",
            cost=PRICE,
        )
    elif queues > 1 and card.mq is False:
        out.at(level, check, subject).wrong(
            f"the backend has {queues} queues, and mq=off hides all but one from the guest",
            *evidence,
            why=GAIN,
            change=f"-device virtio-net-pci,…,mq=on,vectors={2 * queues + 2}",
            cost=PRICE,
        )
    elif queues > count.most:
        out.at(level, check, subject).better(
            f"{queues} queues for {count}: Linux uses no more queues than vCPUs",
            *evidence,
            why="each queue costs two vectors and about 64 KiB of kernel memory for nothing",
            change=change,
            cost=RESTART,
        )
    elif queues >= wanted_queues(vcpus):
        shown = count if queues > vcpus else counted(vcpus, "vCPU")
        place = out.at(level, check, subject)
        (place.unused if queues == 1 else place.ok)(
            f"{counted(queues, 'queue')} for {shown}", *evidence
        )
    elif card.netdev not in _MANY_QUEUES:
        out.at(level, check, subject).unused(
            f"a backend of kind {card.netdev or 'none'} has one queue", *evidence
        )
    else:
        out.at(level, check, subject).better(
            f"{counted(queues, 'queue')} for {vcpus} vCPUs",
            *evidence,
            why=GAIN,
            change=change,
            cost=PRICE,
        )


def _vectors(card: Card, queues: int, out: Findings) -> None:
    """The driver wants one for each queue of each direction and one for changes; with fewer it puts
    all queues on one (Linux, vp_find_vqs_msix)."""
    if card.vectors is None or not card.mq or queues <= 1:
        return
    found = saw(f"QOM {card.name}", f"vectors={card.vectors}")
    if card.vectors >= 2 * queues + 1:
        return
    out.at(Level.OFFERED, "net-vectors", card.name).wrong(
        f"{counted(card.vectors, 'vector')} for {queues} queue pairs: the guest's driver then puts "
        "all queues on one interrupt",
        found,
        why="one interrupt goes to one vCPU, whatever the number of queues",
        change=f"vectors={2 * queues + 2}, or no vectors= at all (QEMU then reckons it)",
        cost=RESTART,
    )


def _vhost(facts: Facts, card: Card, queues: int, out: Findings) -> None:
    vm = facts.vm
    if card.netdev != "tap" or vm is None or vm.accelerator != "kvm":
        return
    served = card.vhost_queues
    opened = saw(f"/proc/{vm.pid or 'PID'}/fd", f"/dev/vhost-net opened {served} times")
    if served is None and card.virtio is not None and card.virtio.driver_ok:
        if not card.virtio.vhost and vm.running is not True:
            # QEMU stops vhost together with the vCPUs.
            return
        served = queues if card.virtio.vhost else 0
        opened = saw(f"QMP x-query-virtio-status, {card.name}, vhost-started", card.virtio.vhost)
    if served is None:
        return
    devices = facts.host.devices if facts.host else {}
    there = devices.get("/dev/vhost-net", "not there") or "there"
    found = (
        opened,
        saw("/dev/vhost-net", there if facts.host else None),
    )
    if served >= queues:
        out.at(Level.OFFERED, "net-vhost", card.name).ok(
            "the kernel serves every queue (vhost-net)", *found
        )
        return
    missing = facts.host is not None and "/dev/vhost-net" not in devices
    add = "modprobe vhost_net on the host, then " if missing else ""
    place = out.at(Level.OFFERED, "net-vhost", card.name)
    (place.wrong if queues > 1 else place.better)(
        f"without vhost, QEMU's main loop copies the packets of {counted(queues, 'queue')}",
        *found,
        why="one thread serves all queues then, so more of them gain nothing on the host",
        change=f"{add}-netdev tap,…,vhost=on; libvirt: <driver name='vhost'/> in the <interface>",
        cost=RESTART,
    )


def _as_seen_inside(pair: CardPair, out: Findings) -> None:
    inside, level = pair.inside, Level.OFFERED
    assert inside is not None
    found = (
        saw(f"guest, driver of {inside.name}", inside.driver),
        saw(f"guest, ethtool -l {inside.name}, maximum", inside.most_queues),
    )
    if pair.vcpus == 1:
        out.at(level, "net-queues", inside.name).unused("one vCPU needs one queue", *found)
    elif inside.most_queues is None:
        out.at(level, "net-queues", inside.name).untold(
            "how many queues the host offers could not be read inside",
            *found,
            change=f"on the host: {NAME_A_VM}",
        )
    elif pair.vcpus is not None and inside.most_queues < wanted_queues(pair.vcpus):
        wanted = wanted_queues(pair.vcpus)
        out.at(level, "net-queues", inside.name).better(
            f"the host offers {counted(inside.most_queues, 'queue')} for {pair.vcpus} vCPUs",
            *found,
            why=GAIN,
            change=f"on the host: queues={wanted},vhost=on for the tap, mq=on for the card",
            cost=PRICE,
        )
    else:
        out.at(level, "net-queues", inside.name).ok(
            f"the host offers {counted(inside.most_queues, 'queue')}", *found
        )
