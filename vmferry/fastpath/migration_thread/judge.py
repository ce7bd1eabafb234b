"""Judges what a migration costs the vCPUs, though it has a thread of its own. Facts in, no I/O.

The thread is always there; what can be wrong is where it runs, and how the kernel tracks writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmferry.fastpath.cores import cpu_list, vcpu_cpus, vcpus_shown
from vmferry.fastpath.facts import Facts, Thread, VmFacts, Window
from vmferry.fastpath.finding import Evidence, Feature, Finding, Level
from vmferry.fastpath.verdicts import NAME_A_VM, Findings, saw
from vmferry.units import format_share

# Operators had measured this loss before the thread was there (DESIGN.md, section 1).
LOST_WITHOUT_THREAD = 0.15
# Below this share of the window a vCPU that waits for a core is not held up.
UNDISTURBED = 0.05
# A thread that ran less than this share of the window cannot have held anybody up.
_IDLE = 0.02
_START = (
    "start a migration, or `vmferry rehearse VM`, which moves nothing, and audit meanwhile; the "
    "guest should have its usual load"
)
_PIN = (
    "give the main thread, whose CPUs the migration's thread inherits, other CPUs than the vCPUs': "
    "taskset -pc CPUS PID; libvirt: <emulatorpin cpuset='…'/>"
)


def judge(facts: Facts) -> list[Finding]:
    """The findings on the migration's thread at the three levels."""
    out = Findings(Feature.MIGRATION_THREAD)
    if facts.host is None and facts.vm is None:
        for level in Level:
            out.at(level, "migration-thread").untold(
                "this is not to be seen from inside a guest", change=f"on the host: {NAME_A_VM}"
            )
        return out.found
    _kernel(facts, out)
    place = out.at(Level.NEGOTIATED, "migration-thread")
    place.unused("the guest has no part in it", saw("QEMU", "migrates without the guest"))
    if facts.vm is None:
        place = out.at(Level.EFFECTIVE, "migration-cost")
        place.untold("this is seen at a VM", change=NAME_A_VM)
        return out.found
    _offered(facts, facts.vm, out)
    _effective(facts, facts.vm, out)
    return out.found


def _kernel(facts: Facts, out: Findings) -> None:
    """Whether huge pages are split before the vCPUs write to them, or by each of their writes."""
    if facts.vm is not None and facts.vm.accelerator not in ("kvm", None):
        return
    modules = facts.host.modules if facts.host else None
    name = "/sys/module/kvm/parameters/eager_page_split"
    place = out.at(Level.OFFERED, "eager-page-split")
    value = (modules or {}).get("kvm", {}).get("eager_page_split")
    if modules is None:
        reason = facts.host.unread.get("modules", "") if facts.host else ""
        place.untold("the kernel's modules could not be read", why=reason, change=f"cat {name}")
        return
    if value is None:
        loaded = "without this parameter" if "kvm" in modules else "not loaded"
        place.unused("this kernel does not split huge pages early", saw("/sys/module/kvm", loaded))
        return
    if value in ("Y", "y", "1"):
        place.ok("the kernel splits huge pages when a migration begins", saw(name, value))
        return
    place.wrong(
        "the kernel leaves it to the vCPUs to split huge pages during a migration",
        saw(name, value),
        why=(
            "each first write to a huge page then stops its vCPU: to write all memory once took "
            "2.9 s instead of 0.14 s with 96 vCPUs (Linux a3fe5dbda0a4)"
        ),
        change=f"echo Y > {name}, and out of /etc/modprobe.d/ what says otherwise",
        cost="none for guests without a migration; its setup takes longer",
    )


def _offered(facts: Facts, vm: VmFacts, out: Findings) -> None:
    place = out.at(Level.OFFERED, "migration-cpus")
    threads = (facts.window.threads if facts.window else None) or ()
    main = next((one for one in threads if one.role == "main"), None)
    version = saw("QMP query-version", ".".join(map(str, vm.version)))
    if main is None or main.allowed is None or vcpu_cpus(vm) is None:
        place.untold(
            "where the migration's thread would run could not be read",
            version,
            change="audit as root or as the user who runs QEMU",
            why=vm.unread.get("pid", ""),
        )
        return
    evidence = [version, *_where([main]), saw("/proc/PID/task, vCPUs", vcpus_shown(vm.vcpus))]
    if _squeezed(main, vm, facts):
        place.wrong(
            "a migration's thread, which inherits the main thread's CPUs, has the vCPUs' only",
            *evidence,
            why="every page that it sends then takes time from a vCPU",
            change=_PIN,
            cost="a core that is free while a migration runs",
        )
    else:
        place.ok(
            "the migration has a thread of its own, and room to run beside the vCPUs", *evidence
        )


def _squeezed(thread: Thread, vm: VmFacts, facts: Facts) -> bool:
    """Held on vCPUs' CPUs, of which there is none to spare, while the host has others."""
    cpus = vcpu_cpus(vm)
    if not cpus or not thread.allowed or facts.host is None:
        return False
    others = len(thread.allowed) < facts.host.cpus
    return thread.allowed <= cpus and len(cpus) <= len(vm.vcpus) and others


def _effective(facts: Facts, vm: VmFacts, out: Findings) -> None:
    place = out.at(Level.EFFECTIVE, "migration-cost")
    window = facts.window
    if window is None or not (window.migrating or vm.migrating):
        seen = saw("QMP query-migrate", "no migration is under way")
        evidence = () if window is None and vm.migrating is None else (seen,)
        place.untold("what a migration costs shows while one runs", *evidence, change=_START)
        return
    if window.throttle:
        out.at(Level.EFFECTIVE, "migration-throttle").better(
            f"auto-converge stops the vCPUs for {window.throttle} % of the time",
            saw("QMP query-migrate, cpu-throttle-percentage", window.throttle),
            why="that is on purpose, and the guest is slower by that much",
            change="more bandwidth or downtime (`vmferry forecast` says how much), or without it",
            cost="without it the migration may not converge",
        )
    threads = window.threads
    moving = [one for one in threads or () if one.role == "migration"]
    if threads is None or window.seconds <= 0 or not moving:
        reason = window.unread.get("threads", "no thread has the name of a migration's")
        change = "start QEMU with -name NAME,debug-threads=on, and audit as root"
        place.untold("the migration's threads are not to be found", why=reason, change=change)
        return
    _cost(facts, vm, window, threads, moving, out)


def _cost(
    facts: Facts,
    vm: VmFacts,
    window: Window,
    threads: Sequence[Thread],
    moving: Sequence[Thread],
    out: Findings,
) -> None:
    place = out.at(Level.EFFECTIVE, "migration-cost")
    seconds = window.seconds
    waits = sorted((one.waited / seconds for one in threads if one.role == "vcpu"), reverse=True)
    ran = sum(one.ran for one in moving) / seconds
    held = [one for one in moving if _squeezed(one, vm, facts)]
    worst = waits[0] if waits else 0.0
    shown = ", ".join(format_share(share) for share in waits)
    evidence = [
        saw("/proc/PID/task/TID/schedstat, vCPUs waited", f"{shown or 'none'} of the window"),
        saw(
            "/proc/PID/task/TID/schedstat, the migration ran", f"{format_share(ran)} of the window"
        ),
        *_where(moving),
        saw("/proc/PID/task, vCPUs", vcpus_shown(vm.vcpus)),
    ]
    if held and ran > _IDLE:
        place.wrong(
            "the migration's thread runs on the vCPUs' cores only",
            *evidence,
            why=f"a vCPU waited for {format_share(worst)} of the window while pages were sent",
            change=_PIN,
            cost="a core that is free while a migration runs",
        )
    elif worst >= LOST_WITHOUT_THREAD and ran > _IDLE:
        place.better(
            f"a vCPU waited for a core for {format_share(worst)} of the window meanwhile",
            *evidence,
            why="that is as much as was lost before the migration had a thread of its own",
            change=f"cores that nobody else uses, or less of the link (--bandwidth); {_PIN}",
            cost="a slower migration, or a core",
        )
    elif not waits:
        place.untold("the vCPUs' threads could not be read", *evidence, change="audit as root")
    else:
        calm = "hardly waited" if worst < UNDISTURBED else f"waited {format_share(worst)} at most"
        place.ok(f"the migration runs beside the vCPUs, which {calm}", *evidence)


def _where(threads: Sequence[Thread]) -> list[Evidence]:
    shown = "; ".join(f"{one.name} on {cpu_list(one.allowed)}" for one in threads)
    return [saw("/proc/PID/task, affinities", shown)]
