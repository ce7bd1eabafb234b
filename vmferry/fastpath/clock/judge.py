"""Judges how the guest reads its clock. Facts in, findings out, no I/O.

Offered: kvmclock with its stable bit, on a host that counts time by the TSC. Negotiated: the clock
source that the guest chose. Effective: what one reading costs, against a system call.
"""

from __future__ import annotations

from vmferry.fastpath.clock.offered import judge_offered
from vmferry.fastpath.facts import Facts, GuestClock
from vmferry.fastpath.finding import Evidence, Feature, Finding, Level
from vmferry.fastpath.verdicts import NAME_A_VM, Findings, look_inside, saw

# Sources that the vDSO can read in user space; the last four are those of other architectures and
# of Hyper-V.
FAST = ("kvm-clock", "tsc", "arch_sys_counter", "timebase", "tod", "hyperv_clocksource_tsc_page")
# Sources that need an exit to QEMU or a counter of ticks, and always a system call.
SLOW = ("hpet", "acpi_pm", "pit", "jiffies", "refined-jiffies", "rtc")
# The system call over the reading by libc: where the vDSO works, 5 to 13 were measured; where it
# falls back it makes the call itself, which comes to 1 or a little less.
WORKS, FELL_BACK = 2.5, 1.5
_WHY = (
    "every clock_gettime is a system call then (12 times as long was measured), and an exit to "
    "QEMU beside it with hpet and acpi_pm: databases and tracers read the clock all the time"
)


def judge(facts: Facts) -> list[Finding]:
    """The findings on the clock at the three levels."""
    out = Findings(Feature.CLOCK)
    judge_offered(facts, out)
    if facts.guest is None or facts.guest.clock is None:
        _not_inside(facts, out)
    else:
        _negotiated(facts, facts.guest.clock, out)
        _effective(facts, facts.guest.clock, out)
    return out.found


def _not_inside(facts: Facts, out: Findings) -> None:
    for level in (Level.NEGOTIATED, Level.EFFECTIVE):
        place = out.at(level, "clock-source" if level is Level.NEGOTIATED else "clock-cost")
        if facts.vm is None and facts.guest is None:
            place.untold("this is seen at a VM", change=NAME_A_VM)
            continue
        reason, change = look_inside(facts.no_guest)
        if facts.guest is not None:
            reason = facts.guest.unread.get("clock", "the guest's clock could not be read")
        place.untold("the guest's clock shows only inside", why=reason, change=change)


def _without_kvm(facts: Facts) -> bool:
    """Where the guest surely does not run under KVM, there is no kvmclock to have."""
    if facts.vm is not None:
        return facts.vm.accelerator not in ("kvm", None)
    return facts.guest is not None and facts.guest.kvm_features == 0


def _negotiated(facts: Facts, clock: GuestClock, out: Findings) -> None:
    place = out.at(Level.NEGOTIATED, "clock-source")
    evidence = _source_evidence(facts, clock)
    if clock.source is None:
        change = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource in the guest"
        place.untold("the guest's clock source could not be read", *evidence, change=change)
    elif clock.source in FAST:
        note = ""
        if clock.source == "tsc" and not _without_kvm(facts):
            note = ": the fastest; after a migration it has not counted the downtime"
        place.ok(f"the guest's clock source is {clock.source}{note}", *evidence)
    elif _without_kvm(facts):
        what = f"without KVM there is no kvmclock; the guest's clock source is {clock.source}"
        place.unused(what, *evidence)
    elif clock.source in SLOW:
        best = next((one for one in ("kvm-clock", "tsc") if one in clock.sources), "")
        words = _clock_words(facts)
        steps = [f"take {' '.join(words)} out of its kernel command line"] if words else []
        place_file = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        steps += [f"echo {best} > {place_file}"] if best else ["give it kvmclock on the host"]
        place.wrong(
            f"the guest's clock source is {clock.source}",
            *evidence,
            why=_WHY,
            change="in the guest: " + "; ".join(steps),
            cost="none: it works at once" if best else "a full stop and start of the VM",
        )
    else:
        place.untold(
            f"the guest's clock source is {clock.source}, which this check does not know",
            *evidence,
            change="compare the two times of the check clock-cost",
        )
    _given_up(facts, clock, out)


def _given_up(facts: Facts, clock: GuestClock, out: Findings) -> None:
    """The TSC was promised to the guest, and it found that it does not hold."""
    features = (facts.vm.features if facts.vm else None) or {}
    if not clock.unstable or not features.get("invtsc"):
        return
    out.at(Level.NEGOTIATED, "clock-tsc").better(
        "the guest gave the TSC up that it was promised to be invariant",
        saw("guest, kernel log", clock.unstable),
        saw("QOM, vCPU 0, invtsc", True),
        why="the flag keeps the VM from migrating and gains nothing",
        change="-cpu …,invtsc=off; the guest then uses kvm-clock",
        cost="a full stop and start of the VM",
    )


def _source_evidence(facts: Facts, clock: GuestClock) -> list[Evidence]:
    folder = "guest, /sys/devices/system/clocksource/clocksource0"
    found = [
        saw(f"{folder}/current_clocksource", clock.source),
        saw(f"{folder}/available_clocksource", " ".join(clock.sources)),
    ]
    words = _clock_words(facts)
    return [*found, saw("guest, /proc/cmdline", " ".join(words))] if words else found


def _clock_words(facts: Facts) -> list[str]:
    """Words of the guest's kernel command line that have to do with it."""
    words = ((facts.guest.command_line if facts.guest else None) or "").split()
    alone = ("no-kvmclock", "no-kvmclock-vsyscall", "notsc", "vdso=0")
    return [one for one in words if one in alone or one.startswith(("clocksource=", "tsc="))]


def _effective(facts: Facts, clock: GuestClock, out: Findings) -> None:
    place = out.at(Level.EFFECTIVE, "clock-cost")
    if clock.steps_back:
        out.at(Level.EFFECTIVE, "clock-steps").wrong(
            f"the clock went back {clock.steps_back} times from one vCPU to another",
            saw(
                "guest, clock_gettime on one CPU after the other", f"{clock.steps_back} steps back"
            ),
            why="programs that take differences see negative times, and some of them hang",
            change="clocksource=kvm-clock in the guest, and no tsc=reliable on its kernel's line",
            cost="a reboot of the guest",
        )
    if clock.vdso_ns is None or clock.syscall_ns is None or clock.vdso_ns <= 0:
        unread = facts.guest.unread if facts.guest else {}
        reason = unread.get("clock.vdso_ns") or unread.get("clock.syscall_ns") or ""
        change = "run vmferry audit --guest in it, with a Python that has ctypes"
        place.untold("what one reading costs was not measured", why=reason, change=change)
        return
    ratio = clock.syscall_ns / clock.vdso_ns
    evidence = (
        saw("guest, clock_gettime by libc", f"{clock.vdso_ns:,.0f} ns"),
        saw("guest, clock_gettime by system call", f"{clock.syscall_ns:,.0f} ns"),
        saw("the one over the other", f"{ratio:.1f}"),
    )
    if ratio >= WORKS:
        place.ok(f"a reading takes {clock.vdso_ns:,.0f} ns, without a system call", *evidence)
    elif ratio > FELL_BACK:
        change = "audit again while the guest is idle"
        place.untold("the two times are too near to each other to tell", *evidence, change=change)
    elif _without_kvm(facts):
        place.unused("each reading is a system call, as without KVM it may have to be", *evidence)
    else:
        words = _clock_words(facts)
        hint = f"take {' '.join(words)} out of the guest's kernel command line; " if words else ""
        place.wrong(
            "each reading of the clock is a system call",
            *evidence,
            *_source_evidence(facts, clock)[:1],
            why=_WHY,
            change=(
                f"{hint}what the findings at the other levels name: kvm-clock in the guest, "
                "kvmclock-stable-bit=on, clock source tsc on the host"
            ),
            cost="that of those findings",
        )
