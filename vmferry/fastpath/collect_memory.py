"""The VM's RAM, in QEMU and as the kernel has mapped it, and the host's devices in the VM."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vmferry.fastpath.collect_qom import Asker, Device, read_devices
from vmferry.fastpath.facts import GuestRam, Passthrough
from vmferry.host.kernel_files import PROC, read_text, reason_of
from vmferry.host.open_files import OpenFiles
from vmferry.units import GIB, format_size

# The kernel walks every page for /proc/PID/smaps, and holds up the VM's own mmap meanwhile.
SMAPS_RAM_MOST = 128 * GIB
_SMAPS_BYTES = 16 << 20
_AREA = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ *(.*)")
_KIB = re.compile(r"(\w+): +(\d+) kB")
_HUGE = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")
_RESIDENT = ("Rss", "Private_Hugetlb", "Shared_Hugetlb")
# Of /proc/PID/status: what VFIO and iommufd have accounted for devices; mlock is in the first too.
_PINNED = re.compile(r"^(?:VmLck|VmPin):\s*(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mapped:
    """An area of a process's memory. Sizes in bytes; `page_size` is the kernel's."""

    start: int
    size: int
    path: str
    page_size: int
    transparent_huge: int
    resident: int
    locked: int

    def goes_on_in(self, other: Mapped) -> bool:
        """Whether `other` follows at once and is of the same kind."""
        alike = (self.path, self.page_size) == (other.path, other.page_size)
        return alike and self.start + self.size == other.start

    def joined(self, other: Mapped) -> Mapped:
        """This one and the one that follows it."""
        return replace(
            self,
            size=self.size + other.size,
            transparent_huge=self.transparent_huge + other.transparent_huge,
            resident=self.resident + other.resident,
            locked=self.locked + other.locked,
        )


async def read_ram(asker: Asker, pid: int | None, *, mapping: bool) -> GuestRam | None:
    """The RAM; None where QEMU does not say. `mapping`: how the kernel has mapped it as well."""
    summary, backends, main = await asyncio.gather(
        asker.ask("ram", "query-memory-size-summary"),
        asker.ask("ram", "query-memdev"),
        asker.get("/machine", "memory-backend"),
    )
    if summary is None or backends is None:
        return None
    size = int(summary["base-memory"]) + int(summary.get("plugged-memory", 0))
    kinds = await asyncio.gather(
        *(asker.get(f"/objects/{one['id']}", "type") for one in backends if one.get("id"))
    )
    names = {str(kind).removeprefix("memory-backend-") for kind in kinds if kind}
    # The machine's default one is not listed by name.
    if not names and main:
        names = {str(await asker.get(str(main), "type") or "").removeprefix("memory-backend-")}
    ram = GuestRam(
        size=size,
        backend=", ".join(sorted(names)),
        page_size=None,
        prealloc=_same([one.get("prealloc") for one in backends]),
        share=_same([one.get("share") for one in backends]),
    )
    if not mapping:
        return ram
    sizes = [int(one["size"]) for one in backends] or [size]
    return await asyncio.to_thread(_with_pages, ram, sizes, pid, asker)


async def read_passthrough(asker: Asker, files: OpenFiles | None) -> list[Passthrough] | None:
    """The VM's VFIO devices; None where QEMU does not list its devices."""
    devices = await read_devices(asker, "passthrough", lambda model: model.startswith("vfio-"))
    if devices is None:
        return None
    return [await _passthrough(asker, device, files) for device in devices]


def find_ram(areas: Sequence[Mapped], sizes: Sequence[int]) -> list[Mapped] | None:
    """The areas of the backends' sizes, or the runs of neighbours that the kernel has split them
    into; None where there are fewer or more of a size than backends."""
    found = []
    for size, count in Counter(sizes).items():
        whole = [area for area in areas if area.size == size]
        some = whole if len(whole) >= count else list(_runs(areas, size))
        if len(some) != count:
            return None
        found += some
    return found


def _runs(areas: Sequence[Mapped], size: int) -> Iterator[Mapped]:
    for first, area in enumerate(areas):
        run = area
        for following in areas[first + 1 :]:
            if run.size >= size or not run.goes_on_in(following):
                break
            run = run.joined(following)
        if run.size == size:
            yield run


def parse_smaps(text: str) -> list[Mapped]:
    """The areas of /proc/PID/smaps that are read and written."""
    return [
        Mapped(
            start=start,
            size=end - start,
            path=path,
            page_size=counts.get("KernelPageSize", 0),
            transparent_huge=sum(counts.get(name, 0) for name in _HUGE),
            resident=sum(counts.get(name, 0) for name in _RESIDENT),
            locked=counts.get("Locked", 0),
        )
        for start, end, path, counts in _areas(text)
    ]


def _areas(text: str) -> Iterator[tuple[int, int, str, dict[str, int]]]:
    """Of those that are read and written: where, which file, and the counts in bytes."""
    head: re.Match[str] | None = None
    counts: dict[str, int] = {}
    for line in [*text.splitlines(), "0-0 ---- 0 0 0"]:
        found = _AREA.match(line)
        if found is None:
            count = _KIB.match(line)
            if count is not None:
                counts[count[1]] = int(count[2]) * 1024
            continue
        if head is not None and head[3].startswith("rw"):
            yield int(head[1], 16), int(head[2], 16), head[4], counts
        head, counts = found, {}


def _with_pages(ram: GuestRam, sizes: list[int], pid: int | None, asker: Asker) -> GuestRam:
    """`ram` with what the kernel shows of its mapping."""

    def unread(why: str) -> GuestRam:
        asker.unread["ram"] = why
        return ram

    if pid is None:
        return unread("QEMU's process cannot be seen")
    if ram.size > SMAPS_RAM_MOST:
        return unread(f"/proc/{pid}/smaps would take too long for {format_size(ram.size)} of RAM")
    path = PROC / str(pid) / "smaps"
    try:
        areas = parse_smaps(read_text(path, _SMAPS_BYTES))
        pinned = _pinned(read_text(path.with_name("status")))
    except OSError as error:
        return unread(reason_of(error, path))
    mapped = find_ram(areas, sizes)
    if mapped is None:
        return unread(f"{path} does not show which of the process's memory is the RAM")
    return replace(
        ram,
        # The smallest decides what an IOMMU may map.
        page_size=min(one.page_size for one in mapped),
        transparent_huge=sum(one.transparent_huge for one in mapped),
        resident=sum(one.resident for one in mapped),
        # With `-overcommit mem-lock=on` all of it is counted once more.
        pinned=max(0, pinned - ram.size) if any(one.locked for one in mapped) else pinned,
    )


def _pinned(status: str) -> int:
    return sum(int(one) * 1024 for one in _PINNED.findall(status))


async def _passthrough(asker: Asker, device: Device, files: OpenFiles | None) -> Passthrough:
    async def get(name: str) -> str:
        known = name in device.properties
        return str(await asker.get(device.path, name) or "") if known else ""

    host, sysfs, iommufd = await asyncio.gather(get("host"), get("sysfsdev"), get("iommufd"))
    container = "iommufd" if iommufd else ""
    if not container and files is not None and "/dev/vfio/vfio" in files.vfio:
        container = "vfio"
    address = sysfs.rstrip("/").rpartition("/")[2] if sysfs else host
    return Passthrough(device.name, address, _group(address), container)


def _group(address: str) -> int | None:
    try:
        link = Path("/sys/bus/pci/devices", address, "iommu_group").readlink()
        return int(link.name)
    except (OSError, ValueError):
        return None


def _same(values: list[object]) -> bool | None:
    """What all say; None where they differ or say nothing."""
    first = values[0] if values else None
    return first if isinstance(first, bool) and all(one is first for one in values) else None
