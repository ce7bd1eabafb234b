"""Judges para-virtualized spinlocks and their kin. Facts in, findings out, no I/O.

A vCPU that waits for a lock whose holder has no core should sleep and be woken, and not spin.
Offered: kvm-pv-unhalt, and the hint that vCPUs have cores of their own. Negotiated: what the kernel
chose at boot. Effective: kicks under contention, and vCPUs that waited for a core.
"""

from __future__ import annotations

from vmferry.fastpath.cores import (
    cpu_list,
    helpers_beside,
    overcommitted,
    sharing,
    vcpu_cpus,
    vcpus_shown,
)
from vmferry.fastpath.facts import Facts, GuestFacts, VmFacts
from vmferry.fastpath.finding import Evidence, Feature, Finding, Level
from vmferry.fastpath.pv_spinlocks.measured import judge_effective
from vmferry.fastpath.pv_spinlocks.negotiated import judge_negotiated
from vmferry.fastpath.verdicts import NAME_A_VM, RESTART, Findings, saw

UNHALT, HINT = "kvm-pv-unhalt", "kvm-hint-dedicated"
# The rest of what a vCPU without a core costs the others: shootdowns, interrupts, yields.
KIN = ("kvm-pv-tlb-flush", "kvm-pv-ipi", "kvm-pv-sched-yield")
# With the hint the guest does without these two by itself (arch/x86/kernel/kvm.c).
_NOT_WITH_HINT = ("kvm-pv-tlb-flush", "kvm-pv-sched-yield")
# CPUID 0x40000001: eax bit 7 is PV_UNHALT, edx bit 0 the hint (KVM_HINTS_REALTIME).
UNHALT_BIT, HINT_BIT = 1 << 7, 1
_LEVELS = tuple(Level)
_WHY = (
    "a vCPU that waits for a lock spins while the holder has no core; with two VMs on the cores of "
    "one, sleeping instead gave 70 % more (Linux 266e85a5ec91, ebizzy)"
)


def judge(facts: Facts) -> list[Finding]:
    """The findings on PV spinlocks at the three levels."""
    out = Findings(Feature.PV_SPINLOCKS)
    vm, guest = facts.vm, facts.guest
    if vm is None and guest is None:
        for level in _LEVELS:
            out.at(level, "pv-spinlocks").untold("this is seen at a VM", change=NAME_A_VM)
    elif vm is not None and vm.accelerator not in ("kvm", None):
        _no_kvm(vm, out)
    elif (len(vm.vcpus) if vm is not None else guest.cpus if guest else 0) == 1:
        seen = saw("QMP query-cpus-fast" if vm else "guest, CPUs online", "1 vCPU")
        for level in _LEVELS:
            out.at(level, "pv-spinlocks").unused("one vCPU waits for no other", seen)
    else:
        if vm is not None:
            _offered(facts, vm, out)
        elif guest is not None:
            _offered_inside(guest, out)
        judge_negotiated(facts, shown(facts, UNHALT), shown(facts, HINT), out)
        judge_effective(facts, shown(facts, UNHALT), shown(facts, HINT), out)
    return out.found


def shown(facts: Facts, name: str) -> bool | None:
    """Whether the guest is shown this, by QEMU or by CPUID inside; None: not known."""
    features = facts.vm.features if facts.vm else None
    if facts.vm is not None and features is not None and name in features:
        # Without KVM it would be off too, and that is another matter.
        unsure = facts.vm.accelerator is None and not features[name]
        return None if unsure else features[name]
    guest = facts.guest
    if guest is None:
        return None
    words = {UNHALT: (guest.kvm_features, UNHALT_BIT), HINT: (guest.kvm_hints, HINT_BIT)}
    word, bit = words[name]
    return None if word is None else bool(word & bit)


def _no_kvm(vm: VmFacts, out: Findings) -> None:
    seen = saw("QMP query-kvm, QEMU's command line", vm.accelerator)
    asked = [word for word in vm.words or () if _asks_for(word, UNHALT)]
    if asked:
        out.at(Level.OFFERED, "pv-unhalt").wrong(
            f"{UNHALT} is asked for, and {vm.accelerator} drops it without a word",
            seen,
            saw("QEMU's command line", asked),
            saw(f"QOM, vCPU 0, {UNHALT}", (vm.features or {}).get(UNHALT, False)),
            why="the guest has ordinary spinlocks, whatever the command line says",
            change=f"-accel kvm, or take {UNHALT} out",
            cost=RESTART,
        )
    for level in _LEVELS:
        if level is Level.OFFERED and asked:
            continue
        out.at(level, "pv-spinlocks").unused(
            f"{vm.accelerator} is not KVM: there are no PV spinlocks with it", seen
        )


def _asks_for(word: str, name: str) -> bool:
    words = word.replace("_", "-").split(",")
    return f"+{name}" in words or f"{name}=on" in words or f"{name}=true" in words


def _refuses(vm: VmFacts, name: str) -> bool:
    words = [part for word in vm.words or () for part in word.replace("_", "-").split(",")]
    return f"-{name}" in words or f"{name}=off" in words or f"{name}=false" in words


def _offered(facts: Facts, vm: VmFacts, out: Findings) -> None:
    unhalt, hint = shown(facts, UNHALT), shown(facts, HINT)
    model = saw("QOM, vCPU 0, type", vm.cpu_type)
    seen = saw(f"QOM, vCPU 0, {UNHALT}", unhalt)
    if hint:
        _hint(facts, vm, out)
    elif sharing(vm) == "" and _is_host_model(vm) and not helpers_beside(facts, vm):
        _hint_missed(vm, out)
    place = out.at(Level.OFFERED, "pv-unhalt")
    if unhalt is None:
        reason = vm.unread.get("features", "this QEMU does not tell the vCPU's features")
        change = "in the guest: vmferry audit --guest"
        place.untold("whether it is shown could not be read", seen, why=reason, change=change)
    elif unhalt:
        place.ok("the guest is shown PV spinlocks", seen, model)
    elif hint and sharing(vm) == "":
        place.ok("not needed: the vCPUs have cores of their own, and the guest knows", seen, model)
    else:
        evidence = [seen, model, *_room(vm)]
        change = (
            f"-cpu {_model(vm)},{UNHALT}=on; libvirt: <features><pvspinlock state='on'/></features>"
        )
        cost = f"{RESTART}; none where vCPUs have enough cores"
        if overcommitted(vm):
            what = "no PV spinlocks, and more vCPUs than cores"
            place.wrong(what, *evidence, why=_WHY, change=change, cost=cost)
        else:
            named = "" if _is_host_model(vm) else ": named CPU models leave it out"
            what = f"the guest is not shown PV spinlocks{named}"
            place.better(what, *evidence, why=_WHY, change=change, cost=cost)
    if vm.accelerator is not None:
        _kin(vm, bool(hint), out)


def _room(vm: VmFacts) -> tuple[Evidence, ...]:
    cpus = vcpu_cpus(vm)
    text = f"{len(vm.vcpus)} vCPUs and {vm.neighbours or 0} of others on CPUs {cpu_list(cpus)}"
    if vm.neighbours and vm.confined is not None:
        text += f", {vm.confined} of these on no others"
    return (saw("/proc/PID/task, affinities", text),)


def _model(vm: VmFacts) -> str:
    return (vm.cpu_type or "MODEL").removesuffix("-x86_64-cpu")


def _is_host_model(vm: VmFacts) -> bool:
    return _model(vm) in ("host", "max")


def _hint(facts: Facts, vm: VmFacts, out: Findings) -> None:
    place = out.at(Level.OFFERED, "pv-hint")
    seen = saw(f"QOM, vCPU 0, {HINT}", True)
    where = saw("/proc/PID/task, affinities", vcpus_shown(vm.vcpus))
    problem = sharing(vm)
    if problem is None:
        change = "audit as root or as the user who runs QEMU"
        place.untold(
            "whether the vCPUs have cores of their own could not be read", seen, change=change
        )
    elif problem:
        place.wrong(
            f"the guest is told that its vCPUs have cores of their own, and {problem}",
            seen,
            where,
            *_room(vm),
            why=(
                "the guest then spins for locks and shoots down TLBs without mercy: a vCPU without "
                "a core holds up all others"
            ),
            change=f"pin each vCPU to a CPU of its own and all else elsewhere, or {HINT}=off",
            cost=f"{RESTART} to take the hint away; pinning works at once and costs whole cores",
        )
    elif beside := helpers_beside(facts, vm):
        names = ", ".join(sorted({f"{one.name} on {cpu_list(one.allowed)}" for one in beside}))
        place.better(
            "the guest is told that its vCPUs have cores of their own, and QEMU's other threads "
            "may run on them",
            seen,
            where,
            saw("/proc/PID/task, affinities of other threads", names),
            why="each time one of them runs there, the vCPU stands still and the others spin",
            change="taskset -p the main thread elsewhere; libvirt: <emulatorpin>, <iothreadpin>",
            cost="none: it works at once",
        )
    else:
        place.ok("the hint is right: each vCPU has a core of its own", seen, where)
    if not _is_host_model(vm) and vm.cpu_type is not None:
        out.at(Level.OFFERED, "pv-hint-model").better(
            f"{HINT} with the CPU model {_model(vm)}",
            seen,
            saw("QOM, vCPU 0, type", vm.cpu_type),
            why="libvirt refuses it, so the VM can never be brought under it as it is",
            change=f"-cpu host,{HINT}=on; libvirt: <cpu mode='host-passthrough'/>",
            cost=f"{RESTART}; a destination then needs the same CPU",
        )


def _hint_missed(vm: VmFacts, out: Findings) -> None:
    out.at(Level.OFFERED, "pv-hint").better(
        "each vCPU has a core of its own, and the guest does not know",
        saw(f"QOM, vCPU 0, {HINT}", False),
        saw("/proc/PID/task, affinities", vcpus_shown(vm.vcpus)),
        why="native locks, TLB flushes and yields are a little faster where nobody is preempted",
        change=(
            f"-cpu {_model(vm)},{HINT}=on; libvirt: <kvm><hint-dedicated state='on'/></kvm> in "
            "<features>, with <cpu mode='host-passthrough'/>"
        ),
        cost=f"{RESTART}; from then on the cores must stay its own, at every destination too",
    )


def _kin(vm: VmFacts, hint: bool, out: Findings) -> None:
    features = vm.features or {}
    wanted = [name for name in KIN if not (hint and name in _NOT_WITH_HINT)]
    off = [name for name in wanted if features.get(name) is False]
    # The host's own model leaves out only what this KVM cannot, or somebody refused.
    if _is_host_model(vm):
        off = [name for name in off if _refuses(vm, name)]
    place = out.at(Level.OFFERED, "pv-kin")
    evidence = [saw(f"QOM, vCPU 0, {name}", features.get(name)) for name in wanted]
    if off:
        options = ",".join(f"{name}=on" for name in off)
        place.better(
            f"the guest is not shown {', '.join(off)}",
            *evidence,
            saw("QOM, vCPU 0, type", vm.cpu_type),
            why="TLB shootdowns and interrupts between vCPUs wait for those without a core",
            change=f"-cpu {_model(vm)},{options}",
            cost=f"{RESTART}; a destination must show the same",
        )
    elif any(features.get(name) for name in wanted):
        place.ok("their kin are shown as well", *evidence)


def _offered_inside(guest: GuestFacts, out: Findings) -> None:
    place = out.at(Level.OFFERED, "pv-unhalt")
    if guest.kvm_features is None:
        reason = guest.unread.get("kvm_features", "CPUID's leaf of KVM could not be read")
        change = f"on the host: {NAME_A_VM}"
        place.untold("what the host offers could not be read", why=reason, change=change)
        return
    seen = saw("guest, CPUID 0x40000001, eax", f"{guest.kvm_features:#x}")
    if not guest.kvm_features:
        place.unused("this guest does not run under KVM", seen)
    elif guest.kvm_features & UNHALT_BIT:
        place.ok("the host offers PV spinlocks", seen)
    elif (guest.kvm_hints or 0) & HINT_BIT:
        place.ok("the host says that each vCPU has a core of its own", seen)
    else:
        place.better(
            "the host offers no PV spinlocks (bit 7)",
            seen,
            why=_WHY,
            change=f"on the host: -cpu MODEL,{UNHALT}=on",
            cost=RESTART,
        )
