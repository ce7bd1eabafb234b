"""What the host offers, from /proc, /sys and /dev. No root, no ioctl, and no device is opened.

Not opened: the first open of a device such as /dev/vhost-net may load its module.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from vmferry.fastpath.facts import HostFacts, Iommu
from vmferry.host.huge_pages import read_huge_pages
from vmferry.host.kernel_files import Tree, read_text

MODULES = (
    *("kvm", "kvm_intel", "kvm_amd", "kvm_pvm"),
    *("vhost_net", "vhost", "tun", "macvtap", "bridge"),
    *("vfio", "vfio_pci", "vfio_iommu_type1", "iommufd"),
)
# Of a device whose module the kernel loads when somebody opens it.
ASLEEP = "no driver is loaded behind it"
DEVICES = ("/dev/kvm", "/dev/vhost-net", "/dev/net/tun", "/dev/vfio/vfio", "/dev/iommu")

_CHOSEN = re.compile(r"\[(\S+)\]")
_RELEASE = re.compile(r"[\w.+~-]{1,64}")
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
_TABLES = re.compile(r"^nr_iommu_pages (\d{1,18})$", re.MULTILINE)
_REMAPPED = re.compile(r" IR-")
# Linux drivers/iommu/intel/irq_remapping.c: 65,536 entries of 16 bytes for each IOMMU, or none.
_INTERRUPT_TABLE = 256
_CAPABILITIES = re.compile(r"^CapEff:\s*([0-9a-f]{1,32})$", re.MULTILINE)
# Of linux/capability.h.
_NET_ADMIN = 12
_CPUS_MOST = 1 << 16
_CLOCK = "/sys/devices/system/clocksource/clocksource0"
_IOMMU_KINDS = {"intel-iommu": "intel", "amd-iommu": "amd"}


def read_host(root: Path = Path("/")) -> HostFacts:
    """The facts of the host whose files are below `root`; never raises for what a file holds."""
    unread: dict[str, str] = {}
    tree = Tree(root, unread)
    kernel = tree.maybe("/proc/sys/kernel/osrelease") or ""
    if _RELEASE.fullmatch(kernel) is None:
        kernel = os.uname().release
    cpuinfo = _cpuinfo(tree)
    flags = _flags(cpuinfo, unread)
    sources = tree.text("clocksources", f"{_CLOCK}/available_clocksource")
    iommus = _iommus(tree)
    return HostFacts(
        architecture=os.uname().machine,
        kernel=kernel,
        cpus=len(parse_cpus(tree.maybe("/sys/devices/system/cpu/online") or ""))
        or os.cpu_count()
        or 1,
        vendor=None if cpuinfo is None else cpuinfo.get("vendor_id"),
        flags=flags,
        modules=_modules(tree, kernel),
        devices={name: why for name in DEVICES if (why := _device(tree, name)) is not None},
        command_line=tree.text("command_line", "/proc/cmdline"),
        clocksource=tree.text("clocksource", f"{_CLOCK}/current_clocksource"),
        clocksources=None if sources is None else tuple(sources.split()),
        huge_pages=read_huge_pages(tree),
        transparent_huge_pages=_transparent(tree),
        iommus=iommus,
        iommu_tables=_tables(tree, iommus),
        hypervisor=_hypervisor(tree, flags),
        net_admin=_net_admin(tree),
        unread=unread,
    )


def parse_cpus(text: str) -> frozenset[int]:
    """CPUs from the kernel's `0-3,8`; none where the text is no such list."""
    found: set[int] = set()
    for part in text.strip().split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            return frozenset()
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= _CPUS_MOST:
            return frozenset()
        found.update(range(first, last + 1))
    return frozenset(found)


def _cpuinfo(tree: Tree) -> dict[str, str] | None:
    """The first CPU of /proc/cpuinfo; they are alike in what is read here."""
    text = tree.text("flags", "/proc/cpuinfo")
    if text is None:
        tree.unread["vendor"] = tree.unread["flags"]
        return None
    rows = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, colon, value in rows if colon}


def _flags(cpuinfo: dict[str, str] | None, unread: dict[str, str]) -> frozenset[str] | None:
    if cpuinfo is None:
        return None
    if "vendor_id" not in cpuinfo:
        unread["vendor"] = "/proc/cpuinfo has no line vendor_id"
    line = cpuinfo.get("flags", cpuinfo.get("Features"))
    if line is None:
        unread["flags"] = "/proc/cpuinfo has no line of flags"
        return None
    return frozenset(line.split())


def _modules(tree: Tree, kernel: str) -> dict[str, dict[str, str]] | None:
    """A built-in one without parameters has no folder, but is in the kernel's list of such."""
    if tree.names("modules", "/sys/module") is None:
        return None
    built_in = tree.maybe(f"/lib/modules/{kernel}/modules.builtin") or ""
    found: dict[str, dict[str, str]] = {}
    for name in MODULES:
        if tree.has_folder(f"/sys/module/{name}"):
            found[name] = _parameters(tree.path(f"/sys/module/{name}/parameters"))
        elif re.search(rf"/{name.replace('_', '[-_]')}\.ko$", built_in, re.MULTILINE):
            found[name] = {}
    return found


def _parameters(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            with contextlib.suppress(OSError):
                found[path.name] = read_text(path).strip()
    return found


def _device(tree: Tree, name: str) -> str | None:
    """Why it cannot be opened, empty where it can, None where it is not there."""
    path = tree.path(name)
    try:
        status = path.stat()
    except PermissionError:
        return "this user may not look into its folder"
    except OSError:
        return None
    if not stat.S_ISCHR(status.st_mode):
        return "it is no device"
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    # The node of a module that is not loaded may be there: it is loaded when somebody opens it.
    with contextlib.suppress(OSError):
        if tree.has_folder("/sys/dev/char") and not tree.path(f"/sys/dev/char/{number}").exists():
            return ASLEEP
    if not os.access(path, os.R_OK | os.W_OK):
        return "this user may not open it"
    return ""


def _transparent(tree: Tree) -> str | None:
    """always, madvise or never."""
    name = "/sys/kernel/mm/transparent_hugepage/enabled"
    text = tree.text("transparent_huge_pages", name)
    if text is None:
        return None
    chosen = _CHOSEN.search(text)
    if chosen is None:
        tree.unread["transparent_huge_pages"] = f"{name} marks none as chosen"
        return None
    return chosen[1]


def _iommus(tree: Tree) -> tuple[Iommu, ...] | None:
    folder = "/sys/class/iommu"
    names = tree.names("iommus", folder)
    return None if names is None else tuple(_iommu(tree, f"{folder}/{name}") for name in names)


def _iommu(tree: Tree, folder: str) -> Iommu:
    name = folder.rpartition("/")[2]
    for subfolder, kind in _IOMMU_KINDS.items():
        if not tree.has_folder(f"{folder}/{subfolder}"):
            continue
        cap = tree.maybe(f"{folder}/{subfolder}/cap")
        if kind == "intel":
            extended = tree.maybe(f"{folder}/{subfolder}/ecap")
        else:
            # Two registers since Linux 5.17, the second one first; one before.
            extended = (tree.maybe(f"{folder}/{subfolder}/features") or "").rpartition(":")[2]
        return Iommu(name, kind, _number(cap, 16), _number(extended, 16))
    return Iommu(name, "other", None, None)


def _tables(tree: Tree, iommus: tuple[Iommu, ...] | None) -> int | None:
    """The kernel brings the counts of its CPUs together each second."""
    match = _TABLES.search(tree.maybe("/proc/vmstat") or "")
    if match is None:
        return None
    intel = sum(one.kind == "intel" for one in iommus or ())
    if intel and _REMAPPED.search(tree.maybe("/proc/interrupts") or "") is not None:
        return int(match[1]) - _INTERRUPT_TABLE * intel
    return int(match[1])


def _hypervisor(tree: Tree, flags: frozenset[str] | None) -> str | None:
    """Under what this host itself runs; empty where it says that it is no VM."""
    if flags is None:
        tree.unread["hypervisor"] = tree.unread.get("flags", "the CPU's flags are not known")
        return None
    if "hypervisor" not in flags:
        return ""
    told = tree.maybe("/sys/hypervisor/type") or tree.maybe("/sys/class/dmi/id/sys_vendor")
    return told or "one that does not say its name"


def _net_admin(tree: Tree) -> bool | None:
    """Whether this process has the capability, in its user namespace."""
    text = tree.text("net_admin", "/proc/self/status")
    if text is None:
        return None
    match = _CAPABILITIES.search(text)
    if match is None:
        tree.unread["net_admin"] = "/proc/self/status has no line CapEff"
        return None
    return bool(int(match[1], 16) >> _NET_ADMIN & 1)


def _number(text: str | None, base: int = 10) -> int | None:
    try:
        return int((text or "").strip(), base)
    except ValueError:
        return None
