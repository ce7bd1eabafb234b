"""The facts of a host, from trees of files that are whole, in part there, or nonsense."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.fastpath.collect_host import parse_cpus, read_host
from vmferry.fastpath.facts import Iommu
from vmferry.host.kernel_files import read_text

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
flags\t\t: fpu svm npt hypervisor constant_tsc

processor\t: 1
vendor_id\t: AuthenticAMD
flags\t\t: fpu
"""
CLOCK = "sys/devices/system/clocksource/clocksource0"
FILES = {
    "proc/cpuinfo": CPUINFO,
    "proc/cmdline": "intel_iommu=on,sp_off quiet\n",
    "proc/sys/kernel/osrelease": "6.1.0-53-amd64\n",
    "proc/self/status": "Name:\tx\nCapEff:\t0000000000001000\n",
    f"{CLOCK}/current_clocksource": "tsc\n",
    f"{CLOCK}/available_clocksource": "tsc kvm-clock acpi_pm \n",
    "sys/devices/system/cpu/online": "0-2,5\n",
    "sys/module/kvm/parameters/halt_poll_ns": "200000\n",
    "sys/module/vhost_net/parameters/experimental_zcopytx": "1\n",
    "sys/module/soundcore/parameters/x": "1\n",
    "lib/modules/6.1.0-53-amd64/modules.builtin": "kernel/drivers/net/tun.ko\nkernel/tunx.ko\n",
    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "64\n",
    "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "12\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/class/iommu/dmar0/intel-iommu/cap": "d2008c222f0686\n",
    "sys/class/iommu/dmar0/intel-iommu/ecap": "f00f4a\n",
    "sys/class/iommu/ivhd0/amd-iommu/cap": "1f03000f\n",
    "sys/class/iommu/ivhd0/amd-iommu/features": "0:29d7\n",
    "sys/class/iommu/smmu3.0/x": "",
    "proc/vmstat": "nr_free_pages 7\nnr_iommu_pages 323\nnr_unstable 0\n",
    "sys/class/dmi/id/sys_vendor": "QEMU\n",
}


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_whole_host(tmp_path: Path) -> None:
    facts = read_host(make(tmp_path, FILES))
    assert (facts.kernel, facts.cpus, facts.vendor) == ("6.1.0-53-amd64", 4, "AuthenticAMD")
    assert facts.flags is not None
    assert "svm" in facts.flags
    assert facts.modules == {
        "kvm": {"halt_poll_ns": "200000"},
        "vhost_net": {"experimental_zcopytx": "1"},
        "tun": {},
    }
    assert facts.command_line == "intel_iommu=on,sp_off quiet"
    assert facts.clocksource == "tsc"
    assert facts.clocksources == ("tsc", "kvm-clock", "acpi_pm")
    assert facts.huge_pages == {2 << 20: (64, 12)}
    assert facts.transparent_huge_pages == "madvise"
    assert facts.iommus == (
        Iommu("dmar0", "intel", 0xD2008C222F0686, 0xF00F4A),
        Iommu("ivhd0", "amd", 0x1F03000F, 0x29D7),
        Iommu("smmu3.0", "other", None, None),
    )
    assert facts.iommu_tables == 323
    make(tmp_path, {"proc/interrupts": " 27: 0 1 IR-PCI-MSI-0000:00:02.0 0-edge ahci\n"})
    assert read_host(tmp_path).iommu_tables == 323 - 256
    assert facts.hypervisor == "QEMU"
    assert facts.net_admin is True
    assert dict(facts.unread) == {}


def test_a_host_that_shows_nothing_says_why(tmp_path: Path) -> None:
    facts = read_host(tmp_path)
    assert facts.cpus >= 1
    assert facts.kernel
    assert facts.devices == {}
    fields = (
        *("vendor", "flags", "modules", "command_line", "clocksource", "clocksources"),
        *("huge_pages", "transparent_huge_pages", "iommus", "hypervisor"),
    )
    for field in fields:
        assert getattr(facts, field) is None
        assert facts.unread[field].endswith("is not there")


def test_a_bare_metal_host_runs_under_nothing(tmp_path: Path) -> None:
    cpuinfo = {"proc/cpuinfo": CPUINFO.replace(" hypervisor", "")}
    assert read_host(make(tmp_path, FILES | cpuinfo)).hypervisor == ""


def test_devices_are_looked_at_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "dev/vfio").mkdir(parents=True)
    (tmp_path / "sys/dev/char").mkdir(parents=True)
    null = os.stat("/dev/null").st_rdev  # noqa: PTH116
    (tmp_path / f"sys/dev/char/{os.major(null)}:{os.minor(null)}").touch()
    (tmp_path / "dev/kvm").symlink_to("/dev/null")
    (tmp_path / "dev/vhost-net").symlink_to("/dev/zero")
    (tmp_path / "dev/vfio/vfio").touch()
    assert read_host(tmp_path).devices == {
        "/dev/kvm": "",
        "/dev/vhost-net": "no driver is loaded behind it",
        "/dev/vfio/vfio": "it is no device",
    }


def test_a_pipe_in_a_strange_place_does_not_hold_us_up(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    os.mkfifo(tmp_path / "proc/cmdline")
    facts = read_host(tmp_path)
    assert "Not a plain file" in facts.unread["command_line"]


def test_what_may_not_be_looked_at_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers whose profile closes parts of /sys, for root too."""
    make(tmp_path, FILES)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kvm").symlink_to("/dev/null")
    seen = Path.stat

    def refused(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.is_relative_to(tmp_path / "sys"):
            raise PermissionError(13, "Permission denied", str(path))
        return seen(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refused)
    facts = read_host(tmp_path)
    assert facts.modules == {"tun": {}}
    assert facts.devices == {"/dev/kvm": ""}
    assert facts.iommus is not None
    assert {one.kind for one in facts.iommus} == {"other"}


def test_no_more_is_read_than_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_text("x" * 100_000)
    assert read_text(path, 70_000) == "x" * 70_000


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", {0}),
        ("0-3,8", {0, 1, 2, 3, 8}),
        ("", set()),
        ("3-1", set()),
        ("0-999999", set()),
        ("0-x", set()),
    ],
)
def test_lists_of_cpus(text: str, cpus: set[int]) -> None:
    assert parse_cpus(text) == cpus


# What stands in for a file: gone, some bytes, a folder, or a link to itself.
KINDS = st.one_of(st.none(), st.binary(max_size=60), st.sampled_from(["folder", "loop"]))


@given(kinds=st.fixed_dictionaries(dict.fromkeys(FILES, KINDS)))
def test_no_host_is_too_strange(
    kinds: dict[str, bytes | str | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("host")
    for name, kind in kinds.items():
        path = root / name
        if kind is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path.name)
        elif isinstance(kind, bytes):
            path.write_bytes(kind)
    facts = read_host(root)
    for field in ("flags", "command_line", "clocksource", "iommus"):
        assert getattr(facts, field) is not None or facts.unread[field]
