"""Judges zero-copy transmit of vhost-net. Facts in, findings out, no I/O.

It is off by default, and that is right for nearly everybody. Where somebody turned it on, the
question is whether it takes place at all: the kernel falls back to copying without a word.
"""

from __future__ import annotations

from collections.abc import Mapping

from vmferry.fastpath.facts import Card, Facts
from vmferry.fastpath.finding import Evidence, Feature, Finding, Level
from vmferry.fastpath.verdicts import NAME_A_VM, Findings, saw

PARAMETER = "/sys/module/vhost_net/parameters/experimental_zcopytx"
# drivers/vhost/net.c, VHOST_GOODCOPY_LEN: shorter packets are always copied.
SHORTEST = 256
# Fewer sent in a window are ARP and somebody's ssh.
FEWEST_PACKETS = 200
# The kernel itself gives up where one in 64 fails; half of them copied is no zero copy any more.
MOST_COPIED = 0.5
# Rounds of vhost's transmit function; each sends up to hundreds of packets.
_FEWEST_CALLS = 10
LOAD = (
    "send large packets out of the machine (in the guest `iperf3 -c OTHER-MACHINE -t 60`) and run "
    f"`{NAME_A_VM} --deep` as root meanwhile"
)
_OFF = (
    "write `options vhost_net experimental_zcopytx=0` into /etc/modprobe.d/vhost-net.conf, stop "
    "what uses vhost-net, `rmmod vhost_net; modprobe vhost_net`"
)
_COST = (
    "every VM on this host with vhost has to be stopped for a moment: the parameter is read-only"
)
_RISK = (
    "a packet that is stuck on its way out holds up all packets behind it, and one guest's memory "
    "stays in use by the host's network; Linux turned it off by default for that (098eadce3c62)"
)


def judge(facts: Facts) -> list[Finding]:
    """The findings on zero-copy transmit at the three levels; measured ones for every card."""
    out = Findings(Feature.ZERO_COPY)
    on = _is_on(facts)
    evidence = _parameter(facts)
    if facts.host is None:
        for level in Level:
            out.at(level, "zcopy").untold(
                "zero copy is not to be seen from inside a guest",
                change=f"on the host: {NAME_A_VM}",
            )
        return out.found
    _offered(facts, on, evidence, out)
    if not on:
        say = "it is off" if on is False else "whether it is on could not be read"
        for level in (Level.NEGOTIATED, Level.EFFECTIVE):
            place = out.at(level, "zcopy")
            if on is False:
                place.unused(say, evidence)
            else:
                place.untold(say, evidence, change="modprobe vhost_net, and audit again")
        return out.found
    _in_use(facts, evidence, out)
    return out.found


def _is_on(facts: Facts) -> bool | None:
    """None where it cannot be told; a host without vhost-net has it off."""
    modules = facts.host.modules if facts.host else None
    if modules is None:
        return None
    value = modules.get("vhost_net", {}).get("experimental_zcopytx", "")
    if not value:
        # Not loaded, or without the parameter: then nothing is sent uncopied.
        return False
    return value not in ("0", "N", "n")


def _parameter(facts: Facts) -> Evidence:
    modules = facts.host.modules if facts.host else None
    if modules is None:
        why = facts.host.unread.get("modules") if facts.host else None
        return saw(PARAMETER, why)
    if "vhost_net" not in modules:
        return saw("/sys/module/vhost_net", "not loaded")
    return saw(PARAMETER, modules["vhost_net"].get("experimental_zcopytx", "not there"))


def _offered(facts: Facts, on: bool | None, evidence: Evidence, out: Findings) -> None:
    place = out.at(Level.OFFERED, "zcopy-default")
    if on is None:
        place.untold("whether it is on could not be read", evidence, change="look at " + PARAMETER)
    elif not on:
        place.ok("it is off, as it should be unless large packets leave the machine", evidence)
    elif _takes_place(facts):
        place.ok("it is on, and packets do leave uncopied", evidence, *_calls_shown(facts))
    else:
        place.better(
            "it is on, for every VM of this host",
            evidence,
            why=_RISK,
            change=f"unless large packets to other machines are the load: {_OFF}",
            cost=f"{_COST}; up to 15 % more CPU of the host for large packets that leave it",
        )


def _in_use(facts: Facts, evidence: Evidence, out: Findings) -> None:
    if facts.vm is None or facts.vm.cards is None:
        for level in (Level.NEGOTIATED, Level.EFFECTIVE):
            out.at(level, "zcopy").untold("this is seen at a VM", evidence, change=NAME_A_VM)
        return
    cards = [card for card in facts.vm.cards if card.netdev == "tap"]
    served = [card for card in cards if card.vhost_queues != 0 and _maybe_vhost(card)]
    if not served:
        for level in (Level.NEGOTIATED, Level.EFFECTIVE):
            known = all(card.vhost_queues is not None for card in cards)
            seen = (
                saw("/proc/PID/fd", "no /dev/vhost-net")
                if known
                else saw("QMP x-query-virtio-status, vhost-started", False)
            )
            out.at(level, "zcopy").unused("no card of this VM is served by vhost", seen)
    for card in served:
        place = out.at(Level.NEGOTIATED, "zcopy-vhost", card.name)
        count = card.vhost_queues
        seen = saw(f"/proc/{facts.vm.pid or 'PID'}/fd, /dev/vhost-net", count)
        if count is None:
            change = "audit as root or as the user who runs QEMU"
            place.untold("whether vhost serves the card could not be read", seen, change=change)
        else:
            place.ok("vhost sends for this card; the guest has no part in it", seen)
        _effective(facts, card, evidence, out)


def _maybe_vhost(card: Card) -> bool:
    return card.vhost_queues is not None or card.virtio is None or card.virtio.vhost


def _effective(facts: Facts, card: Card, evidence: Evidence, out: Findings) -> None:
    place = out.at(Level.EFFECTIVE, "zcopy-effect", card.name)
    obstacle, seen = _obstacle(card)
    calls = (facts.deep.transmit_calls if facts.deep else None) or {}
    sent = _sent(facts, card)
    if obstacle:
        _without_effect(out, card, obstacle, evidence, *seen)
    elif sent is not None and sent[0] >= FEWEST_PACKETS and sent[1] / sent[0] < SHORTEST:
        average = f"{sent[0]:,} packets of {sent[1] / sent[0]:.0f} bytes on the average"
        shown = saw("statistics of the tap, sent", average)
        what = f"packets shorter than {SHORTEST} bytes are always copied"
        _without_effect(out, card, what, evidence, shown)
    elif not any(calls.values()):
        reason = "the kernel keeps no count of it"
        if facts.deep is not None:
            reason = facts.deep.unread.get("transmit_calls", "nothing was sent in the window")
        what = "whether packets leave uncopied is not to be seen from here"
        place.untold(what, evidence, *seen, why=reason, change=LOAD)
    elif _takes_place(facts):
        place.ok("packets leave uncopied", *_calls_shown(facts))
    elif _done(calls) < _FEWEST_CALLS:
        what = "too few packets were sent to tell"
        place.untold(what, evidence, *_calls_shown(facts), change=LOAD)
    else:
        what = "the kernel copies after all"
        _without_effect(out, card, what, evidence, *_calls_shown(facts))


def _done(calls: Mapping[str, int]) -> int:
    return calls.get("handle_tx_zerocopy", 0) + calls.get("handle_tx_copy", 0)


def _takes_place(facts: Facts) -> bool:
    """The zero-copy function ran, buffers came back, and hardly any was copied on its way."""
    calls = (facts.deep.transmit_calls if facts.deep else None) or {}
    back = calls.get("vhost_zerocopy_callback", 0)
    copied = calls.get("skb_copy_ubufs", 0)
    ran = calls.get("handle_tx_zerocopy", 0) > 0
    return ran and back > 0 and copied <= MOST_COPIED * back


def _calls_shown(facts: Facts) -> tuple[Evidence, ...]:
    calls = (facts.deep.transmit_calls if facts.deep else None) or {}
    shown = ", ".join(f"{name} {count:,}" for name, count in sorted(calls.items()))
    return (saw("kprobes, calls in the window", shown),)


def _obstacle(card: Card) -> tuple[str, tuple[Evidence, ...]]:
    """What on the way out forbids it; empty where nothing is known to."""
    tap = card.tap
    if tap is None or tap.uplinks is None:
        return "", ()
    ports = saw(
        f"rtnetlink, ports of {tap.bridge or 'no bridge'} beside {tap.name}", tap.bridge_ports
    )
    if tap.kind == "macvtap":
        ports = saw(f"rtnetlink, card below {tap.name}", tap.uplinks)
    if tap.bridge and not tap.uplinks:
        return (
            "no card of the machine is behind its bridge: packets to VMs and the host are copied",
            (ports,),
        )
    if tap.uplinks and all(way is False for way in tap.uplinks.values()):
        shown = ", ".join(f"{name} off" for name in sorted(tap.uplinks))
        way = "below its macvtap" if tap.kind == "macvtap" else "behind its bridge"
        return f"the card {way} cannot send from scattered memory", (
            ports,
            saw("ethtool -k, scatter-gather", shown),
        )
    return "", (ports,)


def _sent(facts: Facts, card: Card) -> tuple[int, int] | None:
    """Packets and bytes; None where they say nothing of what the VM sends."""
    counts = (facts.window.taps if facts.window else None) or {}
    if card.tap is None or card.tap.name not in counts:
        return None
    one = counts[card.tap.name]
    # A VM that receives sends acknowledgements, which are short.
    if one.get("received_bytes", 0) > one.get("sent_bytes", 0):
        return None
    return one.get("sent_packets", 0), one.get("sent_bytes", 0)


def _without_effect(out: Findings, card: Card, what: str, *evidence: Evidence) -> None:
    out.at(Level.EFFECTIVE, "zcopy-effect", card.name).wrong(
        f"zero copy is on without effect: {what}",
        *evidence,
        why=f"its risks are there and its gain is not: {_RISK}",
        change=_OFF,
        cost=_COST,
    )
