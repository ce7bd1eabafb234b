"""The first vCPU of one QEMU. A QEMU has some 400 names for its features and tells them one by one,
so they are only all read where the words that they are bits of differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vmferry.preflight.asking import Asking, scalars
from vmferry.preflight.facts import Cpu

_VALUES = frozenset(
    {"type", "vendor", "family", "model", "stepping", "model-id", "phys-bits", "tsc-frequency"}
)
# Bits of these are in no word of CPUID that QEMU tells, or say why some are on; and what opens the
# groups below.
_BESIDE = frozenset(
    {"migratable", "kvm", "kvm-hint-dedicated", "kvm-pv-enforce-cpuid", "pmu", "lmce"}
    | {"l3-cache", "legacy-cache", "cpuid-0xb", "vmware-cpuid-freq", "tcg-cpuid", "fill-mtrr-mask"}
    | {"vmx", "arch-capabilities", "core-capability", "hypervisor"}
)
# Of MSR_IA32_ARCH_CAPABILITIES and its kin, beside names that end with `-no`.
_ARCH_CAPABILITIES = frozenset(
    {"ibrs-all", "rsba", "skip-l1dfl-vmentry", "tsx-ctrl", "fb-clear", "rfds-clear"}
    | {"split-lock-detect", "full-width-write"}
)


async def read_cpu(asking: Asking, path: str, accelerator: str | None) -> Cpu:
    """One vCPU: the words of its features, and by name those that are in none."""
    types = await asking.listed(path)
    values = scalars(await asking.some(path, types.keys() & _VALUES))
    booleans = {name for name, type_ in types.items() if type_ == "bool"}
    words = frozenset[str]()
    if "feature-words" in types:
        words = _words(await asking.get(path, "feature-words") or ())
    if not words:
        features = await _features(asking, path, booleans)
    else:
        features = await _features(asking, path, booleans & _BESIDE)
        features |= await _features(asking, path, _opened(booleans, features, accelerator))
    return Cpu(str(values.pop("type", "")), values, features, words, path)


async def read_all_features(asking: Asking, cpu: Cpu) -> dict[str, bool]:
    """Every feature by name."""
    types = await asking.listed(cpu.path)
    return await _features(asking, cpu.path, {n for n, type_ in types.items() if type_ == "bool"})


def _opened(booleans: set[str], features: Mapping[str, bool], accelerator: str | None) -> set[str]:
    """The names of groups that other features, or KVM, make a part of what the guest sees."""
    groups = {
        "vmx-": features.get("vmx", False),
        "hv-": accelerator != "tcg",
    }
    found = {
        name for name in booleans for group, on in groups.items() if on and name.startswith(group)
    }
    if features.get("arch-capabilities", False) or features.get("core-capability", False):
        found |= {name for name in booleans if name.endswith("-no")} | booleans & _ARCH_CAPABILITIES
    return found


async def _features(asking: Asking, path: str, names: Iterable[str]) -> dict[str, bool]:
    """Without the names that QEMU keeps beside newer ones (`sse4_1`, `sse4-1`), and what it keeps
    for itself (`x-…`)."""
    names = frozenset(names)
    wanted = {name for name in names if not name.startswith("x-") and not _is_twin(name, names)}
    values = await asking.some(path, wanted)
    return {name: value for name, value in values.items() if isinstance(value, bool)}


def _is_twin(name: str, names: frozenset[str]) -> bool:
    dotted = re.sub(r"(?<=sse4)[-_]", ".", name)
    return any(other != name and other in names for other in (dotted, name.replace("_", "-")))


def _words(told: Any) -> frozenset[str]:
    """The words of CPUID, each as its leaf, register and bits."""
    return frozenset(
        f"{one['cpuid-input-eax']:#x}.{one.get('cpuid-input-ecx', 0)} {one['cpuid-register']} "
        f"{one['features']:#x}"
        for one in told
    )
