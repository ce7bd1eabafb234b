"""A gigabyte mapped for a passed-through device in pages of 4 KiB, 2 MiB and 1 GiB.

No guest is needed: what QEMU asks of VFIO for a guest's memory is asked here.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from vmferry.fastpath.bench.rows import Row, Rows, spread
from vmferry.fastpath.bench.run import Benchmark, Figure, Setting
from vmferry.fastpath.collect_deep import PAGE_1G, PAGE_2M, PAGE_4K, read_leaf_pages
from vmferry.fastpath.large_pages import vfio

SMALL, LARGE, HUGE, FORBIDDEN = "4 KiB", "2 MiB", "1 GiB", "2 MiB, disable_hugepages"
_SIZES = {SMALL: mmap.PAGESIZE, LARGE: PAGE_2M, HUGE: PAGE_1G, FORBIDDEN: PAGE_2M}
_BYTES = PAGE_1G
_DISABLE = Path("/sys/module/vfio_iommu_type1/parameters/disable_hugepages")
_POOLS = Path("/sys/kernel/mm/hugepages")


async def _measure(case: str, _: Setting) -> Row:
    return await asyncio.to_thread(_map, case)


def _map(case: str) -> Row:
    group, devices = next(iter(vfio.groups().items()))
    try:
        with (
            _pool(_SIZES[case]),
            _disabled(case == FORBIDDEN),
            vfio.memory(_BYTES, _SIZES[case]) as address,
            vfio.container(group) as whole,
        ):
            before = _tables()
            row: Row = {"map_ms": round(1000 * vfio.map_memory(whole, address, _BYTES), 3)}
            after = _tables()
            if before is not None and after is not None:
                row["tables"] = after - before
            row |= _leaves(devices)
            row["unmap_ms"] = round(1000 * vfio.unmap_memory(whole, _BYTES), 3)
    except OSError as error:
        return {"why": f"{case}: {error.strerror} (memory of that kind, or the group, is not free)"}
    return row


def _leaves(devices: Sequence[str]) -> Row:
    """Leaf entries by size, where this kernel's dump of them may be read."""
    unread: dict[str, str] = {}
    found = read_leaf_pages(platform.release(), devices, unread)
    if not found:
        return {"leaves_unread": unread.get("leaf_pages", "")}
    counts = max(found.values(), key=lambda sizes: sum(size * n for size, n in sizes.items()))
    names = {PAGE_4K: "leaves_4k", PAGE_2M: "leaves_2m", PAGE_1G: "leaves_1g"}
    return {names[size]: count for size, count in counts.items() if size in names}


def _tables() -> int | None:
    """Pages of the IOMMU's tables on this host; None where the kernel does not count them."""
    with contextlib.suppress(OSError):
        # Counts of each CPU are brought together when this is read.
        Path("/proc/sys/vm/stat_refresh").read_bytes()
    try:
        words = Path("/proc/vmstat").read_text().split()
        return int(words[words.index("nr_iommu_pages") + 1])
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _pool(page_size: int) -> Iterator[None]:
    """Enough free huge pages of that size for one `with`. Raises OSError."""
    if page_size == mmap.PAGESIZE:
        yield
        return
    pool = _POOLS / f"hugepages-{page_size // 1024}kB"
    before = int((pool / "nr_hugepages").read_text())
    missing = _BYTES // page_size - int((pool / "free_hugepages").read_text())
    if missing > 0:
        (pool / "nr_hugepages").write_text(str(before + missing))
    try:
        yield
    finally:
        if missing > 0:
            (pool / "nr_hugepages").write_text(str(before))


@contextlib.contextmanager
def _disabled(wanted: bool) -> Iterator[None]:
    """VFIO pins page by page, as where somebody has set its parameter, for one `with`."""
    before = _DISABLE.read_text().strip()
    if wanted:
        _DISABLE.write_text("Y")
    try:
        yield
    finally:
        if wanted:
            _DISABLE.write_text(before)


def _problem() -> str:
    if os.geteuid() != 0:
        return "it needs root, for huge pages and /dev/vfio"
    if not vfio.groups():
        return "no device has the driver vfio-pci (an IOMMU must be on; bind a spare device to it)"
    group = next(iter(vfio.groups()))
    try:
        with vfio.container(group):
            return "" if _DISABLE.exists() else "vfio_iommu_type1 is not loaded"
    except OSError as error:
        return f"group {group} of /dev/vfio cannot be used: {error.strerror}"


def _prove(rows: Rows) -> Sequence[str]:
    told = []
    small = {key: spread(rows.of(SMALL), key) for key in ("map_ms", "tables")}
    for case in (LARGE, HUGE):
        time, tables = (spread(rows.of(case), key) for key in ("map_ms", "tables"))
        base, base_tables = small["map_ms"], small["tables"]
        if time is None or base is None or not time.median:
            continue
        text = f"{case}: mapping takes 1/{base.median / time.median:.0f} of the time of 4 KiB"
        if tables is not None and base_tables is not None:
            text += f"; pages of tables: {tables.median:.0f} instead of {base_tables.median:.0f}"
        told.append(text)
    return told


BENCHMARK = Benchmark(
    name="large-pages",
    question="how large are the pages of the IOMMU's tables, and what do they save?",
    cases=(SMALL, LARGE, HUGE, FORBIDDEN),
    figures=(
        Figure("map_ms", "mapping 1 GiB, ms"),
        Figure("unmap_ms", "unmapping it, ms"),
        Figure("tables", "pages of IOMMU tables for it"),
        Figure("leaves_4k", "entries of 4 KiB"),
        Figure("leaves_2m", "entries of 2 MiB"),
        Figure("leaves_1g", "entries of 1 GiB"),
    ),
    problem=_problem,
    measure=_measure,
    limits=(
        "no device reads the memory, so misses of the IOMMU's cache, which cost up to a fifth of a "
        "200 Gbit/s card's throughput, are not shown; an emulated IOMMU has no such cost at all"
    ),
    prove=_prove,
)
