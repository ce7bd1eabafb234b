"""Conditions on the machine that both QEMUs build, and on the QEMUs themselves."""

from __future__ import annotations

from vmferry.preflight.checks.common import differing, equal, shown, told
from vmferry.preflight.facts import Facts
from vmferry.preflight.finding import Answer, Evidence, blocker, check, fine, warning

# Options of a machine that a check of their own compares, that only say where things come from, or
# that follow from others.
_NOT_COMPARED = frozenset(
    {
        "type",
        "kernel",
        "initrd",
        "append",
        "firmware",
        "dtb",
        "dumpdtb",
        "mem-merge",
        "dump-guest-core",
        "memory-backend",
        "device-memory-region-size",
        "pcspk-audiodev",
        "aux-ram-share",
        "shadow-kernel",
        # Names of block nodes; and what only the firmware looks at, when it boots.
        "pflash0",
        "pflash1",
        "graphics",
    }
)


@check("architecture", "a guest's memory is of use to the same kind of CPU alone")
def architecture(facts: Facts) -> Answer:
    source, destination = facts.pair()
    return equal(
        "query-target",
        "architecture",
        (
            told(source.architecture, source, "architecture"),
            told(destination.architecture, destination, "architecture"),
        ),
        remedy=f"start the destination with qemu-system-{source.architecture}",
    )


@check(
    "machine-type",
    "the versioned machine type fixes the guest's board and the layout of each device's state; "
    "q35 and pc stand for another one in each version of QEMU",
)
def machine_type(facts: Facts) -> Answer:
    source, destination = facts.pair()
    return equal(
        "qom-get /machine type",
        "machine type",
        (
            told(source.machine, source, "machine"),
            told(destination.machine, destination, "machine"),
        ),
        remedy=f"start the destination with -machine {source.machine}",
    )


@check(
    "machine-options",
    "options such as hpet, smm or vmport add and remove parts of the board that the guest knows of",
)
def machine_options(facts: Facts) -> Answer:
    source, destination = facts.pair()
    ours = told(source.machine_options, source, "machine_options")
    theirs = told(destination.machine_options, destination, "machine_options")
    other = differing(ours, theirs, _NOT_COMPARED)
    if not other:
        return fine("the machine's options are the same")
    wanted = ",".join(f"{name}={shown(ours[name])}" for name in other)
    evidence = [
        Evidence(f"qom-get /machine {name}", shown(ours[name]), shown(theirs[name]))
        for name in other
    ]
    remedy = f"start the destination with -machine {source.machine},{wanted}"
    if all("auto" in (ours[name], theirs[name]) for name in other):
        what = f"the machine's options may differ: {', '.join(other)}"
        return warning(what, *evidence, remedy=remedy)
    what = f"the machine's options differ: {', '.join(other)}"
    return blocker(what, *evidence, remedy=remedy)


@check(
    "boot-files",
    "the guest keeps what it has booted; at its next reboot it gets what the destination was "
    "started with",
)
def boot_files(facts: Facts) -> Answer:
    source, destination = facts.pair()
    ours = told(source.boot_files, source, "boot_files")
    theirs = told(destination.boot_files, destination, "boot_files")
    other = sorted(name for name in ours if ours[name] != theirs.get(name))
    if not other:
        return fine("kernel, initrd, its command line and the firmware are the same")
    return warning(
        f"the destination would boot otherwise: {', '.join(other)}",
        *(
            Evidence(f"qom-get /machine {name}", shown(ours[name]), shown(theirs.get(name)))
            for name in other
        ),
        remedy="start the destination with the source's -kernel, -initrd, -append and -bios",
    )


@check(
    "qemu-version",
    "an older QEMU may not know a part of the state that a newer one sends, and the load fails",
)
def qemu_version(facts: Facts) -> Answer:
    source, destination = facts.pair()
    ours, theirs = (".".join(map(str, one.version)) for one in (source, destination))
    evidence = Evidence(
        "query-version", f"{ours} {source.package}", f"{theirs} {destination.package}"
    )
    if destination.version[:2] < source.version[:2]:
        return warning(
            f"the destination's QEMU is older: {theirs} after {ours}",
            evidence,
            remedy=f"use QEMU {source.version[0]}.{source.version[1]} or later at the destination",
        )
    return fine(f"QEMU {theirs} takes what {ours} sends", evidence)


@check(
    "accelerator",
    "KVM and TCG give a guest different CPUs, clocks and interrupt controllers; QEMU does not "
    "carry a VM from one to the other",
)
def accelerator(facts: Facts) -> Answer:
    source, destination = facts.pair()
    return equal(
        "query-kvm",
        "accelerator",
        (
            told(source.accelerator, source, "accelerator"),
            told(destination.accelerator, destination, "accelerator"),
        ),
        remedy=f"start the destination with -accel {source.accelerator}",
    )


@check(
    "uuid",
    "the guest knows its UUID from its firmware tables; licences and inventories hang on it, and "
    "at its next reboot it gets the destination's",
)
def uuid(facts: Facts) -> Answer:
    source, destination = facts.pair()
    ours = told(source.uuid, source, "uuid")
    theirs = told(destination.uuid, destination, "uuid")
    evidence = Evidence("query-uuid", ours, theirs)
    if ours == theirs:
        return fine("the VM keeps its UUID", evidence)
    return warning(
        "the VM would have another UUID after a reboot",
        evidence,
        remedy=f"start the destination with -uuid {ours}",
    )


@check(
    "not-confidential",
    "the memory of a guest under SEV, TDX or Secure Execution cannot be read, so it cannot be sent",
)
def not_confidential(facts: Facts) -> Answer:
    guard = told(facts.source.confidential, facts.source, "confidential")
    if not guard:
        return fine("its memory is not encrypted against its host")
    return blocker(
        f"its memory is encrypted against its host ({guard})",
        Evidence("qom-get /machine confidential-guest-support", guard),
        remedy="shut it down and start it at the destination",
    )


CHECKS = (
    architecture,
    machine_type,
    machine_options,
    boot_files,
    qemu_version,
    accelerator,
    uuid,
    not_confidential,
)
