"""Settles what a specification leaves open, for this host and its QEMU.

A resolved specification is what a VM is run as, and what its next instance is started from: a
destination must not choose anew, or the two sides could differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmferry.errors import UsageError
from vmferry.host.kvm import kvm_problem
from vmferry.hypervisor.qemu.binary import Version, find_binary
from vmferry.hypervisor.qemu.ram_trap import safe_ram_bytes
from vmferry.units import format_size
from vmferry.vm.spec import VmSpec


@dataclass(frozen=True, slots=True)
class Resolved:
    """`spec` with nothing left open, the QEMU it is for, and a sentence for each choice."""

    spec: VmSpec
    version: Version
    reasons: tuple[str, ...]


def resolve(spec: VmSpec) -> Resolved:
    """`spec` made concrete; one that is already so stays as it is. Raises UsageError."""
    binary = find_binary(spec.qemu.binary)
    reasons: list[str] = []
    accelerator = spec.qemu.accelerator
    if accelerator == "auto":
        problem = kvm_problem()
        accelerator = "tcg" if problem else "kvm"
        reasons.append(f"accelerator {accelerator}" + (f": {problem}" if problem else ""))
    size = safe_ram_bytes(spec.memory.size, accelerator, binary.version)
    if size != spec.memory.size:
        if spec.memory.backend == "hugepages":
            raise UsageError(
                "memory.backend: with 'hugepages' under TCG, this QEMU "
                f"({format_version(binary.version)}) would lose guest writes in a move",
                hint="use backend 'ram', KVM, or QEMU 9.0 or later",
            )
        reasons.append(
            f"memory {size // 1024} KiB instead of {format_size(spec.memory.size)}: under TCG, "
            f"QEMU before 9.0 (this is {format_version(binary.version)}) loses guest writes in a "
            "move where RAM is a multiple of 256 KiB"
        )
    model = spec.cpu.model or ("host" if accelerator == "kvm" else "max")
    machine = binary.aliases.get(spec.qemu.machine, spec.qemu.machine)
    resolved = spec.model_copy(
        update={
            "cpu": spec.cpu.model_copy(update={"model": model}),
            "memory": spec.memory.model_copy(update={"size": size}),
            "qemu": spec.qemu.model_copy(
                update={"binary": binary.path, "machine": machine, "accelerator": accelerator}
            ),
        }
    )
    return Resolved(resolved, binary.version, tuple(reasons))


def format_version(version: Version) -> str:
    return ".".join(str(part) for part in version)
