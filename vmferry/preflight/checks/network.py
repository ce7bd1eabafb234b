"""Conditions on what is behind the network cards."""

from __future__ import annotations

from vmferry.preflight.checks.common import names, told
from vmferry.preflight.facts import Facts, Link, Netdev, UntoldError
from vmferry.preflight.finding import Answer, Evidence, blocker, check, fine, warning

_READ = "HMP info network"


def _pairs(facts: Facts) -> list[tuple[Netdev, Netdev]]:
    source, destination = facts.pair()
    theirs = {one.card: one for one in told(destination.netdevs, destination, "netdevs")}
    ours = told(source.netdevs, source, "netdevs")
    return [(one, theirs[one.card]) for one in ours if one.card in theirs]


@check(
    "network-backends",
    "a card with several queues needs as many behind it; behind another kind of backend the guest "
    "may be in another network, and its connections end",
)
def network_backends(facts: Facts) -> Answer:
    pairs = _pairs(facts)
    fewer, other = [], []
    for ours, theirs in pairs:
        if ours.queues != theirs.queues:
            queues = f"{ours.kind}, {ours.queues} queues", f"{theirs.kind}, {theirs.queues} queues"
            fewer.append(Evidence(f"{_READ}: {ours.card}", *queues))
        elif ours.kind != theirs.kind:
            other.append(Evidence(f"{_READ}: {ours.card}", ours.kind, theirs.kind))
    remedy = "start the destination with the source's -netdev"
    if fewer:
        return blocker("a card has another number of queues behind it", *fewer, remedy=remedy)
    if other:
        return warning("a card has another kind of backend behind it", *other, remedy=remedy)
    return fine(f"{len(pairs)} cards have the same kind of backend")


@check(
    "network-vhost",
    "without vhost QEMU itself carries each packet: the guest's network gets slower by the move",
)
def network_vhost(facts: Facts) -> Answer:
    source, destination = facts.pair()
    if source.process is None or destination.process is None:
        raise UntoldError("a QEMU process is not on this host, or may not be looked at")
    ours, theirs = source.process.vhost_net, destination.process.vhost_net
    if ours is None or theirs is None:
        raise UntoldError("this user may not see the open files of a QEMU process")
    evidence = Evidence("/proc/PID/fd: /dev/vhost-net", str(ours), str(theirs))
    if theirs < ours:
        return warning(
            f"the source has vhost for {ours} queues, the destination for {theirs}",
            evidence,
            remedy="start the destination with vhost=on, and let it open /dev/vhost-net",
        )
    return fine(f"vhost for {theirs} queues at the destination", evidence)


@check(
    "network-links",
    "the guest keeps its addresses and its MTU: on another bridge, or with a smaller MTU, its "
    "connections end or stall",
)
def network_links(facts: Facts) -> Answer:
    source, destination = facts.pair()
    wrong: list[Evidence] = []
    other: list[Evidence] = []
    unseen = []
    for ours, theirs in _pairs(facts):
        if not ours.tap or not theirs.tap:
            continue
        here = (source.links or {}).get(ours.tap)
        there = (destination.links or {}).get(theirs.tap)
        if here is None or there is None:
            unseen.append(ours.card)
        elif here != there:
            elsewhere = there.bridge not in ("", here.bridge)
            found = wrong if elsewhere or there.mtu < here.mtu else other
            found.append(Evidence(f"/sys/class/net: {ours.card}", _told(here), _told(there)))
    remedy = (
        "put both taps into one bridge, with one MTU, and make both with multi_queue or both "
        "without; a tap that is in no bridge yet has to come into it when the VM runs there"
    )
    if wrong:
        what = "the destination's taps are in another bridge, or carry less"
        return blocker(what, *wrong, *other, remedy=remedy)
    if other:
        what = "the destination's taps are not made like the source's"
        return warning(what, *other, remedy=remedy)
    if unseen:
        raise UntoldError(f"the taps of {names(unseen)} cannot be seen from here")
    return fine("every tap is in the same bridge and made the same")


def _told(link: Link) -> str:
    bridge = f"bridge {link.bridge}" if link.bridge else "no bridge"
    return f"{bridge}, MTU {link.mtu}, {'several queues' if link.multi_queue else 'one queue'}"


CHECKS = (network_backends, network_vhost, network_links)
