"""Judges which spinlocks the guest's kernel chose when it booted."""

from __future__ import annotations

from vmferry.fastpath.facts import Facts, GuestFacts
from vmferry.fastpath.finding import Level
from vmferry.fastpath.verdicts import Findings, look_inside, saw

_CHECK = "pv-chosen"
_REBOOT = "a reboot of the guest"
# CPUID 0x40000001, eax: PV_UNHALT.
_UNHALT_BIT = 1 << 7


def judge_negotiated(facts: Facts, unhalt: bool | None, hint: bool | None, out: Findings) -> None:
    """`unhalt` and `hint`: what the guest is shown now; it chose by what it saw at boot."""
    place = out.at(Level.NEGOTIATED, _CHECK)
    guest = facts.guest
    if guest is None:
        reason, change = look_inside(facts.no_guest)
        place.untold("what the guest's kernel chose is not to be seen", why=reason, change=change)
        return
    line = guest.spinlocks or ""
    evidence = [saw("guest, kernel log", guest.spinlocks)]
    words = (guest.command_line or "").split()
    if "nopvspin" in words or "nopvspin" in line:
        place.wrong(
            "the guest's kernel is told not to use PV spinlocks (nopvspin)",
            saw("guest, /proc/cmdline", "nopvspin" if "nopvspin" in words else "not there"),
            *evidence,
            why="its vCPUs spin for a lock whose holder has no core",
            change="take nopvspin out of the guest's kernel command line",
            cost=_REBOOT,
        )
    elif says_enabled(line):
        place.ok("the guest's kernel uses PV spinlocks", *evidence)
    elif "REALTIME" in line:
        if hint is False:
            place.wrong(
                "the guest booted with the hint of cores of its own, and is not shown it any more",
                *evidence,
                saw("QOM, vCPU 0, kvm-hint-dedicated", hint),
                why="it keeps native spinlocks until it boots again",
                change="reboot the guest",
                cost=_REBOOT,
            )
        else:
            place.ok(
                "native spinlocks, since the guest is told that its cores are its own", *evidence
            )
    elif "single CPU" in line:
        place.unused("the guest booted with one CPU", *evidence)
    elif "no host support" in line and unhalt and _withheld(guest):
        # KVM takes the bit away where the guest halts without an exit: nobody could wake a waiter.
        place.unused(
            "KVM withholds them, as it does where the guest may halt by itself (-overcommit "
            "cpu-pm=on)",
            *evidence,
            saw("guest, CPUID 0x40000001, eax", f"{guest.kvm_features or 0:#x}: bit 7 is not set"),
        )
    elif "no host support" in line and unhalt:
        place.wrong(
            "the guest booted without PV spinlocks on offer, which are shown to it now",
            *evidence,
            why="it keeps plain spinlocks until it boots again",
            change="reboot the guest",
            cost=_REBOOT,
        )
    elif unhalt is False:
        place.unused("the guest is not shown any", *evidence)
    else:
        reason = guest.unread.get("spinlocks", "the kernel's line on it is not in its log any more")
        change = "reboot the guest, or look into its boot log: journalctl -kb | grep -i spinlock"
        place.untold(
            "what the guest's kernel chose is not known", *evidence, why=reason, change=change
        )


def says_enabled(line: str) -> bool:
    """Whether a line of the kernel's log says that it uses them. Before Linux 5.9 only the table
    of waiters is announced (RHEL 8), and before 4.2 the ticket locks (RHEL 7)."""
    return "enabled" in line or "PV qspinlock hash" in line or "setup paravirtual" in line


def _withheld(guest: GuestFacts) -> bool:
    """Whether CPUID inside lacks what QEMU shows."""
    return guest.kvm_features is not None and not guest.kvm_features & _UNHALT_BIT
