"""Conditions on the VM itself, before any destination: what it is doing, and what QEMU forbids."""

from __future__ import annotations

from vmferry.hypervisor.qemu.ram_trap import trap_problem
from vmferry.hypervisor.qemu.settings import NEEDED_AT_DESTINATION, NEEDED_AT_SOURCE
from vmferry.precopy.sample import ENDED
from vmferry.preflight.checks.common import told
from vmferry.preflight.facts import Facts, UntoldError
from vmferry.preflight.finding import Answer, Evidence, blocker, check, fine, warning
from vmferry.units import KIB, format_size

MAY_MOVE = frozenset({"running", "paused"})
IDLE_MIGRATIONS = ENDED | {"none"}


@check("earlier-move", "a move that was left half-way must be settled first", forceable=False)
def earlier_move(facts: Facts) -> Answer:
    if facts.unsettled:
        return blocker(
            f"run {facts.unsettled} of this VM was left half-way",
            Evidence("vmferry's journal", facts.unsettled),
            remedy="`vmferry recover` settles it",
        )
    return fine("no earlier move of this VM was left half-way")


@check(
    "runs",
    "only a VM that runs, or that its user has paused, is whole: others boot, shut down, are "
    "saved, or stand still after an error of their disk",
    forceable=False,
)
def runs(facts: Facts) -> Answer:
    state = facts.source.runstate
    evidence = Evidence("query-status", state)
    if state in MAY_MOVE:
        return fine(f"the VM is {state}", evidence)
    remedy = "wait, or see why with `vmferry status`"
    if state == "io-error":
        remedy = "mend the disk, then let the VM go on"
    elif state == "prelaunch":
        remedy = "start the VM first (QMP cont)"
    return blocker(f"the VM is {state}", evidence, remedy=remedy)


@check(
    "migration-idle",
    "QEMU does one migration at a time, and one that somebody else has begun is theirs",
    forceable=False,
)
def migration_idle(facts: Facts) -> Answer:
    state = facts.source.migration
    evidence = Evidence("query-migrate", state)
    if state in IDLE_MIGRATIONS:
        return fine("no migration of it is under way", evidence)
    return blocker(
        f"a migration of it is {state} already", evidence, remedy="wait until that has ended"
    )


@check(
    "migration-allowed",
    "QEMU itself refuses to migrate a VM with a device or a CPU feature whose state it cannot "
    "carry over",
    forceable=False,
)
def migration_allowed(facts: Facts) -> Answer:
    reasons = facts.source.blocked
    if not reasons:
        return fine("QEMU names nothing that forbids a migration")
    return blocker(
        "QEMU refuses to migrate it: " + "; ".join(reasons),
        *(Evidence("query-migrate blocked-reasons", reason) for reason in reasons),
        remedy="unmount, unplug or leave out what QEMU names",
    )


@check(
    "capabilities",
    "the handover rests on them: without them both sides, or none, could run after a fault",
    forceable=False,
)
def capabilities(facts: Facts) -> Answer:
    source = facts.source
    ours = told(source.capabilities, source, "capabilities")
    missing = sorted(NEEDED_AT_SOURCE - ours)
    lacking = [("the source", name) for name in missing]
    if facts.destination is not None:
        destination = facts.destination
        theirs = told(destination.capabilities, destination, "capabilities")
        lacking += [("the destination", name) for name in sorted(NEEDED_AT_DESTINATION - theirs)]
    if not lacking:
        return fine("QEMU offers what the handover rests on")
    return blocker(
        "QEMU does not offer " + ", ".join(f"{name} at {side}" for side, name in lacking),
        *(Evidence("query-migrate-capabilities", f"{side} lacks {name}") for side, name in lacking),
        remedy="use QEMU 4.0 or later on both sides",
    )


@check(
    "tls",
    "where one side encrypts the stream and the other does not, neither understands a word",
)
def tls(facts: Facts) -> Answer:
    source, destination = facts.pair()
    ours = told(source.parameters, source, "parameters").get("tls-creds", "")
    theirs = told(destination.parameters, destination, "parameters").get("tls-creds", "")
    evidence = Evidence(
        "query-migrate-parameters tls-creds", str(ours or "none"), str(theirs or "none")
    )
    if bool(ours) == bool(theirs):
        return fine("both sides encrypt the stream" if ours else "neither side encrypts", evidence)
    which = "source" if ours else "destination"
    return blocker(
        f"only the {which} encrypts the stream",
        evidence,
        remedy="set tls-creds on both sides or on none (QMP migrate-set-parameters)",
    )


@check(
    "tcg-dirty-tracking",
    "QEMU before 9.0 under TCG forgets pages that the guest writes during a migration where its "
    "RAM is a multiple of 256 KiB: the guest is damaged without a word",
)
def tcg_dirty_tracking(facts: Facts) -> Answer:
    source = facts.source
    accelerator = told(source.accelerator, source, "accelerator")
    memory = told(source.memory, source, "memory")
    version = ".".join(str(part) for part in source.version)
    # The dirty log is kept piece by piece: a DIMM, or the memory of a NUMA node, is one.
    backends = [one.size for one in source.backends or ()]
    pieces = sorted({*backends, memory} if sum(backends) < memory else {*backends})
    evidence = (
        Evidence("query-version", version),
        Evidence("query-kvm", accelerator),
        Evidence("query-memdev", ", ".join(f"{piece // KIB} KiB" for piece in pieces)),
    )
    problems = (trap_problem(piece, accelerator, source.version) for piece in pieces)
    problem = next(filter(None, problems), "")
    if problem:
        return blocker(
            f"a move would lose writes of its guest: {problem}",
            *evidence,
            remedy="start it with 8 KiB more, as `vmferry run` does, or with QEMU 9.0 or later",
        )
    return fine(f"QEMU {version} with {accelerator} and this RAM tracks every write", *evidence)


@check(
    "block-jobs",
    "a backup, mirror or other job holds the disks when QEMU has to give them up: the switchover "
    "fails, and with a mirror QEMU 7.2 dies of it",
    forceable=False,
)
def block_jobs(facts: Facts) -> Answer:
    jobs = told(facts.source.jobs, facts.source, "jobs")
    if not jobs:
        return fine("no job works on its disks")
    return blocker(
        f"{', '.join(jobs)} is under way",
        *(Evidence("query-jobs", job) for job in jobs),
        remedy="wait until it has ended, or cancel it (QMP job-cancel)",
    )


@check(
    "disk-exports",
    "who reads from it is cut off when the source ends; where others may write to it, QEMU cannot "
    "give up the disk, and the switchover fails",
)
def disk_exports(facts: Facts) -> Answer:
    exports = told(facts.source.exports, facts.source, "exports")
    if not exports:
        return fine("it serves no disk to others")
    return warning(
        f"it serves a disk to others: {', '.join(exports)}",
        *(Evidence("query-block-exports", export) for export in exports),
        remedy="end the export (QMP block-export-del)",
    )


@check(
    "memory-not-huge",
    "beyond 1 TiB the first pass alone takes minutes, the bitmap of dirty pages is large, and "
    "what one thread can send decides",
)
def memory_not_huge(facts: Facts) -> Answer:
    source = facts.source
    memory = told(source.memory, source, "memory") + (source.plugged_memory or 0)
    evidence = Evidence("query-memory-size-summary", format_size(memory))
    if memory > 1024**4:
        return warning(
            f"it has {format_size(memory)} of RAM",
            evidence,
            remedy="rehearse it first (`vmferry rehearse`), and plan for more than a night",
        )
    return fine(f"{format_size(memory)} of RAM", evidence)


@check(
    "dirty-log-granularity",
    "with eager_page_split off, KVM splits huge pages one by one under the guest's writes while "
    "it migrates, and the guest stalls",
)
def dirty_log_granularity(facts: Facts) -> Answer:
    if told(facts.source.accelerator, facts.source, "accelerator") != "kvm":
        return fine("the VM does not use KVM")
    if facts.source.process is None or facts.host is None:
        raise UntoldError("the source's host cannot be seen from here")
    value = facts.host.kvm.get("eager_page_split")
    if value is None:
        raise UntoldError("there is no /sys/module/kvm/parameters/eager_page_split")
    evidence = Evidence("/sys/module/kvm/parameters/eager_page_split", value)
    if value == "Y":
        return fine("KVM splits huge pages before the passes begin", evidence)
    return warning(
        "KVM does not split huge pages before the passes begin",
        evidence,
        remedy="as root: echo Y > /sys/module/kvm/parameters/eager_page_split",
    )


CHECKS = (
    earlier_move,
    runs,
    migration_idle,
    migration_allowed,
    capabilities,
    tls,
    tcg_dirty_tracking,
    block_jobs,
    disk_exports,
    memory_not_huge,
    dirty_log_granularity,
)
