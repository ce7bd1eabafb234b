"""Judges multi-queue virtio-net, card by card. Facts in, findings out, no I/O.

Offered: queues of the backend, `mq`, vectors, vhost. Negotiated: the feature, and the queues that
the driver switched on. Effective: packets arrive on several queues and several vCPUs.
"""

from __future__ import annotations

from vmferry.fastpath.facts import Facts
from vmferry.fastpath.finding import Evidence, Feature, Finding, Level
from vmferry.fastpath.net_queues.cards import (
    GAIN,
    CardPair,
    number,
    on_or_off,
    pairs_of,
    queues_in_use,
)
from vmferry.fastpath.net_queues.measured import judge_effective
from vmferry.fastpath.net_queues.offered import judge_offered
from vmferry.fastpath.verdicts import NAME_A_VM, Findings, look_inside, saw

MQ = "VIRTIO_NET_F_MQ"


def judge(facts: Facts) -> list[Finding]:
    """The findings on multi-queue virtio-net at the three levels, for every card."""
    out = Findings(Feature.NET_QUEUES)
    if facts.vm is None and facts.guest is None:
        _host_alone(facts, out)
        return out.found
    pairs = pairs_of(facts)
    if pairs is None:
        reason = (facts.vm.unread if facts.vm else {}).get("cards", "the cards could not be read")
        for level in Level:
            out.at(level, "net-cards").untold(
                reason, change="see that QEMU answers on QMP, and repeat"
            )
        return out.found
    if not pairs:
        for level in Level:
            out.at(level, "net-cards").unused(
                "there is no network card", saw("QMP qom-list /machine, network cards", "none")
            )
    for pair in pairs:
        judge_offered(facts, pair, out)
        _negotiated(facts, pair, out)
        judge_effective(facts, out, pair.subject, pair.card, pair.inside, queues_in_use(pair))
    return out.found


def _host_alone(facts: Facts, out: Findings) -> None:
    devices = facts.host.devices if facts.host else {}
    found = saw("/dev/vhost-net", devices.get("/dev/vhost-net", "not there") or "there")
    if facts.host is None:
        out.at(Level.OFFERED, "net-host").untold("nothing is known of the host", change=NAME_A_VM)
    elif "/dev/vhost-net" in devices:
        out.at(Level.OFFERED, "net-host").ok("the kernel can serve cards itself (vhost-net)", found)
    else:
        out.at(Level.OFFERED, "net-host").better(
            "the host has no vhost-net",
            found,
            why="QEMU's main loop then copies every packet of every queue",
            change="modprobe vhost_net (for good: a line vhost_net in /etc/modules-load.d/)",
            cost="nothing that runs is touched; VMs use it from their next start",
        )
    for level in (Level.NEGOTIATED, Level.EFFECTIVE):
        out.at(level, "net-queues").untold("this is seen at a VM", change=NAME_A_VM)


def _negotiated(facts: Facts, pair: CardPair, out: Findings) -> None:
    level, check, subject = Level.NEGOTIATED, "net-enabled", pair.subject
    card, inside = pair.card, pair.inside
    offered = card.queues if card is not None else inside.most_queues if inside else None
    if offered is not None and offered <= 1:
        seen = (saw(f"queues of {subject}", offered),)
        out.at(level, check, subject).unused("there is one queue: nothing to agree on", *seen)
        return
    if card is not None and (not card.model.startswith("virtio") or card.mq is False):
        seen = (saw(f"QMP, card {card.name}", f"{card.model}, mq={on_or_off(card.mq)}"),)
        out.at(level, check, subject).unused("the guest is shown no further queues", *seen)
        return
    virtio = card.virtio if card is not None else None
    evidence: list[Evidence] = []
    if virtio is not None:
        taken = "taken" if MQ in virtio.taken else "not taken"
        if not virtio.driver_ok:
            out.at(level, check, subject).untold(
                "no driver has taken the card over yet",
                saw(f"QMP x-query-virtio-status, {subject}", "no DRIVER_OK"),
                change="let the guest boot, and audit again",
            )
            return
        evidence.append(saw(f"QMP x-query-virtio-status, {subject}", f"{MQ} {taken}"))
        if MQ in virtio.offered and MQ not in virtio.taken:
            out.at(level, check, subject).wrong(
                "the guest's driver did not take the feature: it knows one queue",
                *evidence,
                why=GAIN,
                change="a guest kernel of Linux 3.8 or later, elsewhere new virtio drivers",
                cost="an update and a reboot of the guest",
            )
            return
    _enabled(facts, pair, offered, evidence, out)


def _enabled(
    facts: Facts, pair: CardPair, offered: int | None, evidence: list[Evidence], out: Findings
) -> None:
    level, check, subject = Level.NEGOTIATED, "net-enabled", pair.subject
    card, inside = pair.card, pair.inside
    if card is not None and card.tap is not None and card.tap.queues is not None:
        tap = card.tap
        text = f"numqueues {number(tap.queues)} numdisabled {number(tap.disabled)}"
        evidence.append(saw(f"rtnetlink, tap {tap.name}", text))
    if inside is not None:
        text = f"{number(inside.queues)} of {number(inside.most_queues)}"
        evidence.append(saw(f"guest, ethtool -l {inside.name}", text))
    in_use = queues_in_use(pair)
    if in_use is None or offered is None:
        reason, change = look_inside(facts.no_guest)
        unseen = facts.vm.unread.get("taps") if facts.vm else None
        if card is not None and card.netdev == "tap" and card.tap is None and unseen:
            reason, change = f"{unseen}; {reason}", f"audit as root; or {change}"
        out.at(level, check, subject).untold(
            "how many queues the guest uses is not to be seen from here",
            *evidence,
            why=reason,
            change=change,
        )
        return
    online = facts.guest.cpus if facts.guest else None
    if online is not None and pair.vcpus is not None and online < pair.vcpus:
        evidence.append(saw("guest, CPUs online", f"{online} of {pair.vcpus} vCPUs"))
    if in_use >= min(offered, pair.vcpus or offered):
        out.at(level, check, subject).ok(f"the guest uses {in_use} of {offered} queues", *evidence)
        return
    name = inside.name if inside else "eth0"
    idle = online is not None and in_use >= online
    most = min(offered, pair.vcpus or offered)
    out.at(level, check, subject).wrong(
        f"the guest uses {in_use} of {offered} queues"
        + (f", since {online} of its {pair.vcpus} vCPUs are online" if idle else ""),
        *evidence,
        why="what the host offers lies idle; " + GAIN,
        change="bring all vCPUs online (maxcpus= and nr_cpus= on the guest's kernel command line, "
        f"/sys/devices/system/cpu/cpu*/online), then ethtool -L {name} combined {most}"
        if idle
        else f"in the guest: ethtool -L {name} combined {most} (drivers of old kernels do "
        "not do this by themselves)",
        cost="none: it works at once, and has to be set at every boot",
    )
