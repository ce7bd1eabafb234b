"""Judges whether PV spinlocks have something to do, and do it: waits for a core, and kicks."""

from __future__ import annotations

from vmferry.fastpath.cores import waited_shares
from vmferry.fastpath.facts import Facts
from vmferry.fastpath.finding import Evidence, Level
from vmferry.fastpath.pv_spinlocks.negotiated import says_enabled
from vmferry.fastpath.verdicts import NAME_A_VM, Findings, saw
from vmferry.units import format_share

# A vCPU that is ready and without a core for less than this is not held up: an interrupt, a timer.
PREEMPTED = 0.05
# Kicks a second below which no lock was contended: timers of the kernel come to a few.
FEWEST_KICKS = 10
LOAD = (
    "run more vCPUs than cores and something with locks in the guest "
    "(`perf bench sched messaging -g 20 -l 5000`), and audit meanwhile"
)


def judge_effective(facts: Facts, unhalt: bool | None, hint: bool | None, out: Findings) -> None:
    """`unhalt` and `hint`: what the guest is shown."""
    place = out.at(Level.EFFECTIVE, "pv-effect")
    shares = waited_shares(facts)
    kicks, seen = _kicks(facts)
    evidence = [*_waits(shares), *seen]
    waited = max(shares, default=0.0)
    used = _used(facts, unhalt)
    # Yields are counted with the kicks, and come of TLB flushes too: they accuse nobody.
    if waited < PREEMPTED and not (kicks and used):
        reason = "no vCPU waited for a core, so there was nothing to protect from" if shares else ""
        if facts.window is None:
            reason = "nobody measured on the host"
        elif not shares:
            reason = facts.window.unread.get("threads", "the vCPUs' threads could not be read")
        what = "whether they take effect shows only where vCPUs wait for cores"
        change = f"on the host: {NAME_A_VM}; {LOAD}" if facts.window is None else LOAD
        place.untold(what, *evidence, why=reason, change=change)
    elif hint and waited >= PREEMPTED:
        place.wrong(
            f"a vCPU waited for a core for {format_share(waited)} of the window, and the guest "
            "believes that its cores are its own",
            *evidence,
            why="whoever waits for a lock or a TLB flush of this vCPU spins meanwhile",
            change="pin vCPUs and everything else apart, or kvm-hint-dedicated=off",
            cost="whole cores, or a full stop and start of the VM",
        )
    elif not used:
        place.wrong(
            f"a vCPU waited for a core for {format_share(waited)} of the window, and the guest has "
            "no PV spinlocks",
            *evidence,
            why="whoever waits for a lock that this vCPU holds spins meanwhile",
            change="what the findings at the other levels name, or fewer vCPUs on these cores",
            cost="a full stop and start of the VM",
        )
    elif kicks:
        place.ok(f"waiting vCPUs slept and were woken {kicks:,} times", *evidence)
    else:
        what = "vCPUs waited for cores, and no lock was contended"
        place.untold(what, *evidence, change=LOAD)


def _used(facts: Facts, unhalt: bool | None) -> bool:
    """By the kernel's own word, where there is one; what cannot be known is no accusation."""
    guest = facts.guest
    words = ((guest.command_line if guest else None) or "").split()
    line = (guest.spinlocks if guest else None) or ""
    if "nopvspin" in words or "disabled" in line:
        return False
    return says_enabled(line) or unhalt is not False


def _waits(shares: list[float]) -> list[Evidence]:
    shown = ", ".join(format_share(share) for share in shares)
    where = "/proc/PID/task/TID/schedstat, waits of the vCPUs"
    return [saw(where, f"{shown} of the window")] if shares else []


def _kicks(facts: Facts) -> tuple[int, list[Evidence]]:
    """Wake-ups of sleeping waiters; 0 where too few to tell."""
    events = (facts.guest.lock_events if facts.guest else None) or {}
    counts = {name: count for name, count in events.items() if name.startswith("pv_kick")}
    where, total = "guest, debugfs lock_event_counts", sum(counts.values())
    seconds = facts.guest.window if facts.guest else 0.0
    if not total and facts.window is not None and facts.window.vcpu_stats:
        # A kick is a hypercall that also yields to the one that is woken (Linux 5.14 and later).
        name, seconds = "directed_yield_attempted", facts.window.seconds
        counts = {name: sum(one.get(name, 0) for one in facts.window.vcpu_stats)}
        where, total = "QMP query-stats", counts[name]
    if not counts:
        return 0, []
    shown = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    return (total if total >= FEWEST_KICKS * seconds and total else 0), [saw(where, shown)]
