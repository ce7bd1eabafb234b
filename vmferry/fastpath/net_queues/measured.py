"""Judges whether a card's queues are used: by the guest's interrupts, or by vhost's threads."""

from __future__ import annotations

from vmferry.fastpath.facts import Card, Facts, GuestCard
from vmferry.fastpath.finding import Evidence, Level
from vmferry.fastpath.spread import (
    BUSY_SHARE,
    FEWEST_INTERRUPTS,
    shares_one_vector,
    spread_of,
)
from vmferry.fastpath.verdicts import Findings, counted, look_inside, saw
from vmferry.units import format_share

# Fewer packets in a window are no load: ARP, DHCP and somebody's ssh come to some tens a second.
FEWEST_PACKETS = 200
LOAD = (
    "put load on several connections (in the guest `iperf3 -s`, from another machine "
    "`iperf3 -c GUEST -P 8 -t 60`), and audit meanwhile"
)
_CHECK = "net-spread"
_WHY_SPREAD = "one vCPU then handles the packets of all queues, and the others wait for it"


def judge_effective(
    facts: Facts,
    out: Findings,
    subject: str,
    card: Card | None,
    inside: GuestCard | None,
    in_use: int | None,
) -> None:
    """Whether packets are spread over queues and vCPUs."""
    level = Level.EFFECTIVE
    virtio = card is None or card.model.startswith("virtio")
    if (in_use is not None and in_use <= 1) or not virtio:
        seen = saw(f"queues of {subject} in use", in_use if virtio else 1)
        out.at(level, _CHECK, subject).unused("one queue is in use: nothing to spread", seen)
    elif inside is None or inside.interrupts is None:
        _by_threads(facts, out, subject, card)
    else:
        _by_interrupts(facts, out, subject, inside)


def _by_interrupts(facts: Facts, out: Findings, subject: str, inside: GuestCard) -> None:
    level = Level.EFFECTIVE
    interrupts = inside.interrupts or {}
    spread = spread_of(interrupts)
    evidence = [saw(f"guest, /proc/interrupts, {inside.name}", str(spread))]
    if inside.packets is not None:
        evidence.append(saw(f"guest, statistics of {inside.name}", f"{inside.packets:,} packets"))
    load = inside.packets if inside.packets is not None else spread.total
    if load < FEWEST_PACKETS:
        _too_little(out, subject, f"{load:,} packets", *evidence)
    elif shares_one_vector(interrupts):
        out.at(level, _CHECK, subject).wrong(
            "all queues of the card share one interrupt",
            *evidence,
            why=_WHY_SPREAD,
            change="give the card vectors=2N+2 for N queue pairs, or leave vectors= out",
            cost="a full stop and start of the VM",
        )
    elif spread.total < FEWEST_INTERRUPTS:
        # Under steady load the driver polls, and hardly any interrupt is raised.
        _by_softirqs(facts, out, subject, evidence)
    elif spread.busy_queues <= 1:
        out.at(level, _CHECK, subject).untold(
            "all packets came by one queue: a single connection does not use more",
            *evidence,
            change=LOAD,
        )
    elif spread.concentrated:
        out.at(level, _CHECK, subject).wrong(
            f"interrupts of {spread.busy_queues} queues go to one vCPU",
            *evidence,
            why=_WHY_SPREAD,
            change="in the guest: end what pins interrupts (irqaffinity= on the kernel's line, "
            "a stopped irqbalance), and give each queue a CPU: "
            "echo K > /proc/irq/NUMBER/smp_affinity_list",
            cost="none: it works at once",
        )
    else:
        what = f"packets come by {spread.busy_queues} queues on {counted(spread.busy_cpus, 'vCPU')}"
        out.at(level, _CHECK, subject).ok(what, *evidence)


def _by_softirqs(facts: Facts, out: Findings, subject: str, evidence: list[Evidence]) -> None:
    received = ((facts.guest.softirqs if facts.guest else None) or {}).get("NET_RX", ())
    total = sum(received)
    evidence.append(saw("guest, /proc/softirqs, NET_RX by CPU", received))
    busy = sum(1 for count in received if total and count / total >= BUSY_SHARE)
    if total < FEWEST_INTERRUPTS or busy < 2:
        what = "the driver polled, so too few interrupts came to tell the queues apart"
        out.at(Level.EFFECTIVE, _CHECK, subject).untold(what, *evidence, change=LOAD)
        return
    what = f"packets are handled on {busy} vCPUs"
    out.at(Level.EFFECTIVE, _CHECK, subject).ok(what, *evidence)


def _by_threads(facts: Facts, out: Findings, subject: str, card: Card | None) -> None:
    """From outside: the threads of vhost, one a queue pair, where only one card can own them."""
    level, window = Level.EFFECTIVE, facts.window
    reason, change = look_inside(facts.no_guest)
    packets = _packets(facts, card)
    others = [one for one in (facts.vm.cards if facts.vm else None) or () if one is not card]
    only = not any(one.vhost_queues or one.vhost_queues is None for one in others)
    ran = [
        (one.name, one.ran)
        for one in (window.threads if window else None) or ()
        if one.role == "vhost" and one.ran > 0
    ]
    total = sum(seconds for _, seconds in ran)
    busy = [seconds for _, seconds in ran if seconds >= BUSY_SHARE * total]
    if packets is not None and packets < FEWEST_PACKETS:
        _too_little(out, subject, f"{packets:,} packets", why=reason, add=f"; {change}")
    elif packets is not None and only and len(busy) > 1:
        shown = ", ".join(
            f"{name} {format_share(seconds / total)}" for name, seconds in sorted(ran)
        )
        out.at(level, _CHECK, subject).ok(
            f"{len(busy)} of vhost's threads, one a queue, carried {packets:,} packets",
            saw("/proc/PID/task/TID/schedstat", shown),
        )
    else:
        what = "how packets are spread over the queues is not to be seen from here"
        seen = [] if packets is None else [saw("statistics of the tap", f"{packets:,} packets")]
        out.at(level, _CHECK, subject).untold(what, *seen, why=reason, change=f"{change}; {LOAD}")


def _packets(facts: Facts, card: Card | None) -> int | None:
    taps = (facts.window.taps if facts.window else None) or {}
    if card is None or card.tap is None or card.tap.name not in taps:
        return None
    counts = taps[card.tap.name]
    return counts.get("sent_packets", 0) + counts.get("received_packets", 0)


def _too_little(
    out: Findings, subject: str, load: str, *evidence: Evidence, why: str = "", add: str = ""
) -> None:
    seen = evidence or (saw("statistics of the tap", load),)
    what = f"too little went over the card in the window ({load})"
    out.at(Level.EFFECTIVE, _CHECK, subject).untold(what, *seen, why=why, change=LOAD + add)
