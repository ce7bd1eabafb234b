"""Judges large pages of the IOMMU, for devices of the host in the VM. Facts in, findings out.

Offered: the IOMMU can, and neither the kernel nor VFIO is told not to. Negotiated: the VM's RAM
lies in large pages. Effective: large leaves stand in the IOMMU's tables.
"""

from __future__ import annotations

from collections.abc import Mapping

from vmferry.fastpath.facts import Facts, GuestRam, Iommu, Passthrough
from vmferry.fastpath.finding import Evidence, Feature, Finding, Level
from vmferry.fastpath.verdicts import NAME_A_VM, RESTART, Findings, Place, saw
from vmferry.units import GIB, KIB, MIB, format_share, format_size

# The capability register of VT-d, bits 34 and 35 (SLLPS): leaves of 2 MiB and 1 GiB.
CAP_2M, CAP_1G = 1 << 34, 1 << 35
# So much of the memory in large pages is all that can be had: the rest is what firmware needs.
ENOUGH = 0.9
_MAPPED_BY_A_TABLE = 512 * 4 * KIB
_WHY = (
    "each 4 KiB then needs an entry of its own, 512 times as many as with 2 MiB; misses of the "
    "IOMMU's cache cost up to 20 % of the throughput at 200 Gbit/s (Farshin et al. 2023)"
)
_HUGE = (
    "-object memory-backend-memfd,id=ram,size=…,hugetlb=on,hugetlbsize=2M,prealloc=on "
    "-machine memory-backend=ram, with as many pages in /proc/sys/vm/nr_hugepages; libvirt: "
    "<memoryBacking><hugepages/></memoryBacking>"
)


def judge(facts: Facts) -> list[Finding]:
    """The findings on IOMMU large pages at the three levels; measured ones for every device."""
    out = Findings(Feature.LARGE_PAGES)
    if facts.host is None and facts.vm is None:
        for level in Level:
            out.at(level, "pass-through").untold(
                "this is not to be seen from inside a guest", change=f"on the host: {NAME_A_VM}"
            )
        return out.found
    devices = facts.vm.passthrough if facts.vm else None
    if devices is not None and not devices:
        for level in Level:
            seen = saw("QMP qom-list /machine, vfio-pci", "none")
            out.at(level, "pass-through").unused("the VM has no device of the host", seen)
        return out.found
    _offered(facts, out)
    if devices is None or facts.vm is None:
        reason = facts.vm.unread.get("passthrough", "") if facts.vm else ""
        for level in (Level.NEGOTIATED, Level.EFFECTIVE):
            place = out.at(level, "pass-through")
            place.untold("this is seen at a VM with a device", why=reason, change=NAME_A_VM)
        return out.found
    _negotiated(facts.vm.ram, facts.vm.unread.get("ram", ""), out)
    for device in devices:
        _effective(facts, device, out)
    return out.found


def _offered(facts: Facts, out: Findings) -> None:
    host = facts.host
    if host is None:
        place = out.at(Level.OFFERED, "iommu")
        place.untold("nothing is known of the host", change="vmferry audit --host")
        return
    words = (host.command_line or "").split()
    asked = [word for word in words if word.startswith(("intel_iommu=", "amd_iommu=", "iommu="))]
    shown = saw("/proc/cmdline", " ".join(asked) or "nothing on the IOMMU")
    if any("sp_off" in word.partition("=")[2].split(",") for word in asked):
        out.at(Level.OFFERED, "iommu-sp-off").wrong(
            "the kernel is told not to use large pages (sp_off)",
            shown,
            why=_WHY,
            change="take sp_off out of intel_iommu= on the host's kernel command line",
            cost="a reboot of the host",
        )
    _vfio(facts, out)
    if host.iommus is None:
        why = host.unread.get("iommus", "")
        place = out.at(Level.OFFERED, "iommu")
        place.untold("the IOMMUs could not be read", change="look at /sys/class/iommu", why=why)
    elif not host.iommus:
        seen = saw("/sys/class/iommu", "none")
        out.at(Level.OFFERED, "iommu").unused("the host has no IOMMU, or it is off", seen, shown)
    for iommu in sorted(host.iommus or (), key=lambda one: one.name):
        _capability(iommu, out)


def _vfio(facts: Facts, out: Findings) -> None:
    modules = (facts.host.modules if facts.host else None) or {}
    value = modules.get("vfio_iommu_type1", {}).get("disable_hugepages")
    devices = (facts.vm.passthrough if facts.vm else None) or ()
    # iommufd maps without this module.
    others = bool(devices) and all(one.container == "iommufd" for one in devices)
    if value not in ("Y", "y", "1") or others:
        return
    name = "/sys/module/vfio_iommu_type1/parameters/disable_hugepages"
    out.at(Level.OFFERED, "vfio-huge-pages").wrong(
        "VFIO is told to map page by page",
        saw(name, value),
        why=_WHY,
        change=f"echo N > {name}, and the same in /etc/modprobe.d/",
        cost=f"it holds for what is mapped from then on: {RESTART}",
    )


def _capability(iommu: Iommu, out: Findings) -> None:
    place = out.at(Level.OFFERED, "iommu", iommu.name)
    if iommu.kind == "amd":
        seen = saw(f"/sys/class/iommu/{iommu.name}", "amd")
        place.ok("AMD's IOMMU has leaves of many sizes", seen)
        return
    name = f"/sys/class/iommu/{iommu.name}/intel-iommu/cap"
    if iommu.kind != "intel" or iommu.cap is None:
        what = "what this IOMMU can is not known"
        place.untold(what, saw(name, iommu.cap), change=f"look at {name} (bits 34 and 35)")
        return
    sizes = [text for bit, text in ((CAP_2M, "2 MiB"), (CAP_1G, "1 GiB")) if iommu.cap & bit]
    seen = saw(name, f"{iommu.cap:x}: bits 34 and 35 say {' and '.join(sizes) or 'no large pages'}")
    if sizes:
        place.ok(f"it has leaves of {' and '.join(sizes)}", seen)
    else:
        place.unused("this hardware has no large pages", seen)


def _negotiated(ram: GuestRam | None, unread: str, out: Findings) -> None:
    place = out.at(Level.NEGOTIATED, "ram-pages")
    if ram is None or ram.page_size is None:
        change = "audit as root or as the user who runs QEMU: /proc/PID/smaps has it"
        place.untold("how the RAM is mapped could not be read", why=unread, change=change)
        return
    evidence = [
        saw("QOM, the RAM's backend", ram.backend),
        saw("/proc/PID/smaps, KernelPageSize", format_size(ram.page_size)),
    ]
    if ram.page_size >= 2 * MIB:
        place.ok(f"the RAM lies in pages of {format_size(ram.page_size)}", *evidence)
        return
    if ram.transparent_huge is None or not ram.resident:
        change = "start the VM, and audit again"
        place.untold("how the RAM is mapped could not be read", *evidence, change=change)
        return
    share = ram.transparent_huge / ram.resident
    evidence.append(
        saw(
            "/proc/PID/smaps, transparent huge pages",
            f"{format_size(ram.transparent_huge)} of {format_size(ram.resident)}",
        )
    )
    if share >= ENOUGH:
        place.ok(f"{format_share(share)} of the RAM lies in transparent huge pages", *evidence)
        return
    size = format_size(4 * KIB)
    place.better(
        f"{format_share(1 - share)} of the RAM lies in pages of {size}",
        *evidence,
        why=_WHY,
        change=_HUGE,
        cost=f"{RESTART}; this memory is then the VM's alone, used or not",
    )


def _effective(facts: Facts, device: Passthrough, out: Findings) -> None:
    place = out.at(Level.EFFECTIVE, "iommu-leaves", device.name)
    leaves = ((facts.deep.leaf_pages if facts.deep else None) or {}).get(device.host)
    if not leaves or not sum(leaves.values()):
        if not _by_the_room(facts, place):
            _unread_leaves(facts, place)
        return
    mapped = sum(size * count for size, count in leaves.items())
    large = sum(size * count for size, count in leaves.items() if size >= 2 * MIB)
    share = large / mapped if mapped else 0.0
    seen = _leaves(device, leaves)
    if share >= ENOUGH:
        place.ok(f"{format_share(share)} of the mapped memory is in large leaves", seen)
        return
    place.wrong(
        f"{format_share(1 - share)} of the mapped memory is in leaves of 4 KiB",
        seen,
        why=_WHY,
        change=f"what the findings above name; if there are none, the RAM: {_HUGE}",
        cost=RESTART,
    )


def _by_the_room(facts: Facts, place: Place) -> bool:
    """Whether the tables of all the host's IOMMUs are too small for leaves of 4 KiB: a page of them
    has 512 entries."""
    tables = facts.host.iommu_tables if facts.host else None
    ram = facts.vm.ram if facts.vm else None
    if tables is None or ram is None or not ram.size or (ram.pinned or 0) < ENOUGH * ram.size:
        return False
    share = 1 - tables * _MAPPED_BY_A_TABLE / ram.size
    if share < ENOUGH:
        return False
    place.ok(
        f"{format_share(share)} of the RAM or more is in large leaves: the tables have no room "
        "for more small ones",
        saw(
            "/proc/PID/status, VmLck and VmPin",
            f"{format_size(ram.pinned or 0)} for devices, of {format_size(ram.size)} of RAM",
        ),
        saw(
            "/proc/vmstat, nr_iommu_pages but those for interrupts",
            f"{tables:,}: leaves of 4 KiB for {format_size(tables * _MAPPED_BY_A_TABLE)} at most",
        ),
    )
    return True


def _unread_leaves(facts: Facts, place: Place) -> None:
    reason = "the IOMMU's tables are read on demand only"
    if facts.deep is not None:
        reason = facts.deep.unread.get("leaf_pages", "the tables hold nothing for it")
    change = f"run `{NAME_A_VM} --deep` as root, on a kernel with INTEL_IOMMU_DEBUGFS"
    place.untold("the sizes in the IOMMU's tables are not known", why=reason, change=change)


def _leaves(device: Passthrough, leaves: Mapping[int, int]) -> Evidence:
    names = {1 * GIB: "1 GiB", 2 * MIB: "2 MiB", 4 * KIB: "4 KiB"}
    shown = ", ".join(
        f"{count:,} of {names.get(size, format_size(size))}"
        for size, count in sorted(leaves.items(), reverse=True)
    )
    return saw(f"debugfs, IOMMU tables of {device.host}", shown)
