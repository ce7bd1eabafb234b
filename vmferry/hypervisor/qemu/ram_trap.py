"""The TCG trap: RAM sizes that make QEMU before 9.0 lose guest writes in a migration.

Under TCG the fast path of the dirty-bitmap sync misses writes (upstream 03bfc2188f, "physmem: Fix
migration dirty bitmap coherency with TCG memory access", in 9.0). It is taken where a RAM block is
a multiple of 64 pages, so any other size is safe. KVM is not affected.
"""

from __future__ import annotations

from vmferry.units import KIB

TRAP_STEP = 256 * KIB
FIXED_IN = (9, 0, 0)
# The smallest step that QEMU does not round up.
SAFE_EXTRA = 8 * KIB


def is_ram_trapped(ram_bytes: int, accelerator: str, version: tuple[int, int, int]) -> bool:
    """Whether a move of such a VM may lose writes. `accelerator` is `kvm` or `tcg`."""
    return accelerator == "tcg" and version < FIXED_IN and ram_bytes % TRAP_STEP == 0


def trap_problem(ram_bytes: int, accelerator: str, version: tuple[int, int, int]) -> str:
    """Why a move of such a VM would lose writes; empty where it would not."""
    if not is_ram_trapped(ram_bytes, accelerator, version):
        return ""
    return (
        "QEMU before 9.0 under TCG forgets dirty pages in a migration where the RAM "
        f"({ram_bytes // KIB} KiB) is a multiple of 256 KiB"
    )


def safe_ram_bytes(ram_bytes: int, accelerator: str, version: tuple[int, int, int]) -> int:
    """The size itself, or a little more where the size itself would lose writes."""
    trapped = is_ram_trapped(ram_bytes, accelerator, version)
    return ram_bytes + SAFE_EXTRA if trapped else ram_bytes
