"""Conditions on the vCPUs: how many, how arranged, and what they can do."""

from __future__ import annotations

from vmferry.preflight.checks.common import differing, equal, names, shown, told
from vmferry.preflight.facts import Cpu, Facts, Qemu, UntoldError
from vmferry.preflight.finding import Answer, Evidence, blocker, check, fine, warning

_TOPOLOGY = ("sockets", "dies", "clusters", "cores", "threads", "maxcpus")
# Boolean properties of a vCPU that are no features of it, or that follow from the topology: which
# of these QEMU shows depends on its version.
_NOT_FEATURES = frozenset(
    {
        "realized",
        "hotplugged",
        "hotpluggable",
        "check",
        "enforce",
        "start-powered-off",
        "migratable",
        "host-phys-bits",
        "fill-mtrr-mask",
        "legacy-multi-node",
        "ht",
        "cmp-legacy",
    }
)
# What a guest identifies its CPU by; a part of it never looks again after it has booted.
_IDENTITY = ("vendor", "family", "model", "stepping", "model-id")
# KVM's own tolerance (tsc_tolerance_ppm): within it a guest's clock needs no scaling.
_TSC_TOLERANCE = 250e-6


@check(
    "vcpus",
    "QEMU may take a VM with another number of vCPUs without a word; the guest then has vCPUs that "
    "do not run, or the load fails late",
)
def vcpus(facts: Facts) -> Answer:
    source, destination = facts.pair()
    return equal(
        "query-cpus-fast",
        "vCPUs",
        (told(source.vcpus, source, "vcpus"), told(destination.vcpus, destination, "vcpus")),
        remedy=f"start the destination with -smp {source.vcpus}",
    )


@check(
    "vcpu-topology",
    "sockets, cores and threads are what the guest's scheduler and licences were told at boot, and "
    "the highest number of vCPUs sizes the machine's ACPI state",
)
def vcpu_topology(facts: Facts) -> Answer:
    source, destination = facts.pair()
    ours = told(source.topology, source, "topology")
    theirs = told(destination.topology, destination, "topology")
    # A level that a QEMU does not know has one of its kind.
    other = [name for name in _TOPOLOGY if ours.get(name, 1) != theirs.get(name, 1)]
    if not other:
        return fine("sockets, cores, threads and the highest number of vCPUs are the same")
    evidence = [
        Evidence(f"qom-get /machine smp: {name}", shown(ours.get(name)), shown(theirs.get(name)))
        for name in other
    ]
    wanted = ",".join(f"{name}={ours[name]}" for name in _TOPOLOGY if name in ours)
    return blocker(
        f"the vCPUs are arranged differently: {', '.join(other)}",
        *evidence,
        remedy=f"start the destination with -smp {ours.get('cpus')},{wanted}",
    )


def _cpus(facts: Facts) -> tuple[Qemu, Qemu]:
    source, destination = facts.pair()
    told(source.cpu, source, "vcpus")
    told(destination.cpu, destination, "vcpus")
    return source, destination


@check(
    "cpu-features",
    "a guest uses the CPU features that it found at boot; where one is missing, its next use of it "
    "is an illegal instruction. QEMU does not compare them",
)
def cpu_features(facts: Facts) -> Answer:
    source, destination = _cpus(facts)
    assert source.cpu is not None and destination.cpu is not None
    ours, theirs = _features(source.cpu), _features(destination.cpu)
    # A newer QEMU knows more names. Of those that a source has not heard of some are no features.
    missing = sorted(name for name, on in ours.items() if on and not theirs.get(name, False))
    extra = sorted(name for name, on in theirs.items() if on and not ours.get(name, True))
    where = "qom-get of the vCPU's features"
    if missing:
        return blocker(
            f"the destination's vCPUs lack {names(missing)}",
            Evidence(where, f"on: {', '.join(missing)}", "off"),
            remedy="start the destination with the source's -cpu, or both with a CPU model that "
            "both hosts have",
        )
    if extra:
        return warning(
            f"the destination's vCPUs have more than the source's: {names(extra)}",
            Evidence(where, "off", f"on: {', '.join(extra)}"),
            remedy="start the destination with the source's -cpu, or let the guest boot anew there "
            "soon",
        )
    return fine("every feature of the source's vCPUs is at the destination, and no other")


def _features(cpu: Cpu) -> dict[str, bool]:
    """Features by name, without what only says how QEMU is to choose or send them."""
    return {name: on for name, on in cpu.features.items() if name not in _NOT_FEATURES}


@check(
    "cpu-model",
    "kernels choose work-arounds and drivers by the CPU's vendor, family and model when they boot, "
    "and what lies beyond its physical address width a guest cannot reach",
)
def cpu_model(facts: Facts) -> Answer:
    source, destination = _cpus(facts)
    assert source.cpu is not None and destination.cpu is not None
    ours, theirs = source.cpu.values, destination.cpu.values
    compared = frozenset(ours) - {*_IDENTITY, "phys-bits"}
    other = differing(ours, theirs, compared)
    evidence = [
        Evidence(f"qom-get of the vCPU: {name}", shown(ours[name]), shown(theirs[name]))
        for name in other
    ]
    remedy = "start the destination with the source's -cpu"
    if "vendor" in other:
        return blocker("the vCPUs are of different vendors", *evidence, remedy=remedy)
    if "phys-bits" in other and int(theirs["phys-bits"]) < int(ours["phys-bits"]):
        what = "the destination's vCPUs have a smaller physical address width"
        return blocker(what, *evidence, remedy=remedy)
    if other:
        return warning(f"the vCPUs differ in {', '.join(other)}", *evidence, remedy=remedy)
    return fine(f"both sides have {source.cpu.type} of {shown(ours.get('vendor'))}")


@check(
    "cpu-migratable",
    "with migratable=off a vCPU has features whose state QEMU cannot carry over",
)
def cpu_migratable(facts: Facts) -> Answer:
    cpu = told(facts.source.cpu, facts.source, "vcpus")
    if "migratable" not in cpu.features:
        return fine(f"{cpu.type} has no features that QEMU could not carry over")
    evidence = Evidence("qom-get of the vCPU: migratable", shown(cpu.features["migratable"]))
    if cpu.features["migratable"]:
        return fine("only features that QEMU can carry over are on", evidence)
    return warning(
        "the VM was started with migratable=off",
        evidence,
        remedy="start it without migratable=off, or see in the guest that nothing rests on them",
    )


@check(
    "cpu-affinity",
    "with fewer host CPUs than vCPUs the guest waits for its turn, and gets slower by the move",
)
def cpu_affinity(facts: Facts) -> Answer:
    source, destination = facts.pair()
    vcpus = told(source.vcpus, source, "vcpus")
    if source.process is None or destination.process is None:
        raise UntoldError("a QEMU process is not on this host, or may not be looked at")
    ours, theirs = source.process.cpus, destination.process.cpus
    if ours is None or theirs is None:
        raise UntoldError("sched_getaffinity tells nothing of a QEMU process")
    evidence = Evidence("host CPUs for its vCPUs (sched_getaffinity)", str(ours), str(theirs))
    if theirs < min(vcpus, ours):
        return warning(
            f"the destination may use {theirs} of the host's CPUs for {vcpus} vCPUs",
            evidence,
            remedy="let its vCPUs use as many as the source's (taskset, cpuset, CPUAffinity=)",
        )
    return fine(f"the destination may use {theirs} of the host's CPUs", evidence)


@check(
    "cpu-dedicated",
    "kvm-hint-dedicated=on makes the guest spin instead of giving way, which only pays where each "
    "vCPU has a host CPU of its own",
)
def cpu_dedicated(facts: Facts) -> Answer:
    cpu = told(facts.source.cpu, facts.source, "vcpus")
    if not cpu.features.get("kvm-hint-dedicated", False):
        return fine("the guest was not told that its vCPUs have host CPUs of their own")
    source, destination = facts.pair()
    if destination.process is None or destination.process.cpus is None:
        raise UntoldError("where the destination's vCPUs may run cannot be seen from here")
    vcpus, cpus = told(source.vcpus, source, "vcpus"), destination.process.cpus
    before = source.process.cpus if source.process is not None else None
    where = f"host CPUs for {vcpus} vCPUs (sched_getaffinity)"
    evidence = Evidence(where, "not seen" if before is None else str(before), str(cpus))
    if cpus >= vcpus:
        return fine("the destination has a host CPU for each vCPU", evidence)
    what = f"kvm-hint-dedicated is on, and {vcpus} vCPUs would share {cpus} host CPUs"
    remedy = "give the destination a host CPU for each vCPU, or start the VM without the hint"
    if before is not None and before < vcpus:
        return warning(f"{what}, as they do at the source", evidence, remedy=remedy)
    return blocker(what, evidence, remedy=remedy)


@check(
    "tsc-frequency",
    "a guest that counts time by its TSC measured it at boot: on a host of another frequency its "
    "clock runs fast or slow, unless the host scales it",
)
def tsc_frequency(facts: Facts) -> Answer:
    source, destination = _cpus(facts)
    assert source.cpu is not None and destination.cpu is not None
    ours, theirs = (
        int(one.values.get("tsc-frequency", 0)) for one in (source.cpu, destination.cpu)
    )
    where = "qom-get of the vCPU: tsc-frequency"
    if not ours or not theirs:
        return fine("QEMU keeps no frequency of the TSC", Evidence(where, str(ours), str(theirs)))
    evidence = Evidence(where, f"{ours} Hz", f"{theirs} Hz")
    if abs(theirs / ours - 1) <= _TSC_TOLERANCE:
        return fine("the TSC has the same frequency", evidence)
    return warning(
        f"the TSC has another frequency at the destination: {theirs / 1e6:.1f} MHz",
        evidence,
        remedy=f"see that the destination's host scales it (vmx: TSC scaling; svm: tsc_scale), and "
        f"start both with tsc-frequency={ours}",
    )


CHECKS = (
    vcpus,
    vcpu_topology,
    cpu_features,
    cpu_model,
    cpu_migratable,
    cpu_affinity,
    cpu_dedicated,
    tsc_frequency,
)
