"""Judges what clock the host offers a guest."""

from __future__ import annotations

from vmferry.fastpath.facts import Facts, HostFacts, VmFacts
from vmferry.fastpath.finding import Level
from vmferry.fastpath.verdicts import NAME_A_VM, RESTART, Findings, saw

CLOCK, STABLE = "kvmclock", "kvmclock-stable-bit"
# Clock sources of the host from which KVM keeps one clock for all vCPUs (its master clock).
_MASTER = ("tsc", "hyperv_clocksource_tsc_page")
# CPUID 0x40000001, eax: KVM's clock, old and new, and the bit that it is one for all vCPUs.
CLOCK_BITS, STABLE_BIT = (1 << 0) | (1 << 3), 1 << 24
_SYSCALL = "every clock_gettime in the guest is a system call then: 12 times as long was measured"


def judge_offered(facts: Facts, out: Findings) -> None:
    """Of the host, of the VM, or, without both, as the guest sees it."""
    vm, host = facts.vm, facts.host
    if vm is not None and vm.accelerator not in ("kvm", None):
        seen = saw("QMP query-kvm, QEMU's command line", vm.accelerator)
        what = f"{vm.accelerator} is not KVM: there is no kvmclock with it"
        out.at(Level.OFFERED, "kvmclock").unused(what, seen)
        return
    if host is not None and host.architecture in ("x86_64", "i686"):
        _host(facts, host, out)
    if vm is not None:
        _vm(vm, out)
    elif host is None:
        _inside(facts, out)
    elif host.architecture not in ("x86_64", "i686"):
        seen = saw("uname -m", host.architecture)
        what = "guests of this architecture read the CPU's own counter"
        out.at(Level.OFFERED, "kvmclock").unused(what, seen)


def _host(facts: Facts, host: HostFacts, out: Findings) -> None:
    place = out.at(Level.OFFERED, "host-clock")
    seen = saw("/sys/devices/system/clocksource/clocksource0/current_clocksource", host.clocksource)
    if "/dev/kvm" not in host.devices and facts.vm is None:
        place.unused("the host has no KVM", saw("/dev/kvm", "not there"), seen)
    elif host.clocksource is None:
        place.untold(
            "the host's clock source could not be read",
            seen,
            why=host.unread.get("clocksource", ""),
            change="cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
        )
    elif host.clocksource in _MASTER:
        place.ok(f"the host counts time by {host.clocksource}", seen)
    else:
        nested = bool(host.hypervisor)
        change = (
            "in the VM that this host is: clocksource=tsc tsc=reliable on the kernel's line (where "
            "its own host's TSC holds), or invtsc for it"
            if nested
            else "clocksource=tsc on the host's kernel command line; `dmesg | grep -i tsc` says "
            "why the kernel gave it up"
        )
        place.wrong(
            f"the host counts time by {host.clocksource}: KVM cannot keep one clock for all vCPUs",
            seen,
            saw("the clock sources that it has", host.clocksources),
            why=_SYSCALL,
            change=change,
            cost="a reboot of the host; echo tsc > …/current_clocksource works at once, where it "
            "is among those available",
        )


def _vm(vm: VmFacts, out: Findings) -> None:
    features = vm.features
    place = out.at(Level.OFFERED, "kvmclock")
    sure = vm.accelerator is not None or (features or {}).get(CLOCK)
    if features is None or CLOCK not in features or not sure:
        reason = vm.unread.get("features") or vm.unread.get(
            "accelerator", "this QEMU does not tell the vCPU's features"
        )
        change = "in the guest: vmferry audit --guest"
        place.untold("what clock the guest is shown could not be read", why=reason, change=change)
    elif not features[CLOCK]:
        place.wrong(
            "the guest is not shown KVM's clock",
            saw(f"QOM, vCPU 0, {CLOCK}", False),
            why="it falls back to hpet or acpi_pm, or to a TSC that no migration carries over",
            change=f"-cpu …,{CLOCK}=on; libvirt: <timer name='kvmclock' present='yes'/>",
            cost=RESTART,
        )
    elif features.get(STABLE) is False:
        place.wrong(
            "the guest is not told that KVM's clock is one for all vCPUs",
            saw(f"QOM, vCPU 0, {STABLE}", False),
            why=_SYSCALL,
            change=f"-cpu …,{STABLE}=on",
            cost=RESTART,
        )
    else:
        place.ok(
            "the guest is shown KVM's clock, one for all vCPUs",
            saw(f"QOM, vCPU 0, {CLOCK}", True),
            saw(f"QOM, vCPU 0, {STABLE}", features.get(STABLE)),
        )
    blocked = [one for one in vm.blocked or () if "invtsc" in one]
    if blocked:
        out.at(Level.OFFERED, "clock-migration").better(
            "an invariant TSC keeps the VM from migrating",
            saw("QMP query-migrate, blocked-reasons", blocked),
            saw("QOM, vCPU 0, invtsc", (features or {}).get("invtsc")),
            why="the TSC of another host counts at another speed",
            change=(
                "-cpu …,invtsc=off (the guest then uses kvm-clock, which migrates), or "
                "tsc-frequency=HZ with hosts that can scale to it"
            ),
            cost=f"{RESTART}; some nanoseconds a reading",
        )


def _inside(facts: Facts, out: Findings) -> None:
    place = out.at(Level.OFFERED, "kvmclock")
    features = facts.guest.kvm_features if facts.guest else None
    if features is None:
        unread = facts.guest.unread if facts.guest else {}
        reason = unread.get("kvm_features", "CPUID's leaf of KVM could not be read")
        change = f"on the host: {NAME_A_VM}"
        place.untold("what the host offers could not be read", why=reason, change=change)
        return
    seen = saw("guest, CPUID 0x40000001, eax", f"{features:#x}")
    if not features:
        place.unused("this guest does not run under KVM", seen)
    elif not features & CLOCK_BITS:
        place.wrong(
            "the host offers no KVM clock (bits 0 and 3)",
            seen,
            why=_SYSCALL,
            change=f"on the host: -cpu …,{CLOCK}=on",
            cost=RESTART,
        )
    elif not features & STABLE_BIT:
        place.wrong(
            "the host does not say that its clock is one for all vCPUs (bit 24)",
            seen,
            why=_SYSCALL,
            change=f"on the host: -cpu …,{STABLE}=on, and clock source tsc there",
            cost=RESTART,
        )
    else:
        place.ok("the host offers KVM's clock, one for all vCPUs", seen)
