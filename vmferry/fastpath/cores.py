"""Who may run on the CPUs of a VM's vCPUs, and how long these waited for them. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from vmferry.fastpath.facts import Facts, Thread, Vcpu, VmFacts


def cpu_list(cpus: frozenset[int] | None) -> str:
    """`0-3,8`, as taskset writes it."""
    if cpus is None:
        return "could not be read"
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def vcpus_shown(vcpus: Sequence[Vcpu]) -> str:
    """Where each vCPU may run."""
    return "; ".join(f"vCPU {one.index} on {cpu_list(one.allowed)}" for one in vcpus) or "none"


def vcpu_cpus(vm: VmFacts) -> frozenset[int] | None:
    """The CPUs on which vCPUs may run; None where one of them cannot be seen."""
    if not vm.vcpus or any(one.allowed is None for one in vm.vcpus):
        return None
    return frozenset[int]().union(*(one.allowed or () for one in vm.vcpus))


def overcommitted(vm: VmFacts) -> bool | None:
    """More vCPUs than CPUs for them, also of neighbours that have no others; None: not known."""
    cpus = vcpu_cpus(vm)
    if cpus is None:
        return None
    if len(vm.vcpus) > len(cpus):
        return True
    others = vm.neighbours if vm.confined is None else vm.confined
    return None if others is None else len(vm.vcpus) + others > len(cpus)


def sharing(vm: VmFacts) -> str | None:
    """Why the vCPUs do not have cores of their own; empty where they do; None: not known."""
    cpus = vcpu_cpus(vm)
    if cpus is None:
        return None
    if any(len(one.allowed or ()) != 1 for one in vm.vcpus):
        return "its vCPUs are not pinned to one CPU each"
    if len(cpus) < len(vm.vcpus):
        return "two of its vCPUs are pinned to one CPU"
    if vm.neighbours:
        return f"{vm.neighbours} vCPUs of other VMs may run on the same CPUs"
    return None if vm.neighbours is None else ""


def helpers_beside(facts: Facts, vm: VmFacts) -> list[Thread]:
    """Threads of this QEMU that are no vCPU, ran in the window, and may run on a vCPU's CPU."""
    cpus = vcpu_cpus(vm) or frozenset()
    threads = (facts.window.threads if facts.window else None) or ()
    others = [one for one in threads if one.role != "vcpu" and one.ran > 0]
    return [one for one in others if one.allowed is not None and one.allowed & cpus]


def waited_shares(facts: Facts) -> list[float]:
    """For each vCPU the share of the window in which it was ready to run and had no core."""
    window = facts.window
    if window is None or window.threads is None or window.seconds <= 0:
        return []
    return sorted(one.waited / window.seconds for one in window.threads if one.role == "vcpu")
