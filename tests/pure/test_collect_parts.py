"""What the collectors make of texts and trees: monitors, smaps, fdinfo, page tables, histograms."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.fastpath import collect_deep as deep
from vmferry.fastpath import collect_neighbours, collect_window
from vmferry.fastpath.collect_memory import find_ram, parse_smaps
from vmferry.fastpath.collect_neighbours import Ran, count_neighbours, read_neighbours
from vmferry.fastpath.collect_network import Backend, parse_backends, with_helpers_taps
from vmferry.fastpath.collect_process import processes, vhost_threads
from vmferry.fastpath.collect_taps import Link, Links
from vmferry.fastpath.collect_vcpus import accelerator_of
from vmferry.fastpath.collect_window import role_of
from vmferry.fastpath.facts import Vcpu, VmFacts
from vmferry.host.open_files import OpenFiles, read_open_files
from vmferry.host.process import ProcessId
from vmferry.host.threads import ThreadTimes
from vmferry.hypervisor.qemu.side import QemuSide

# As QEMU 7.2 prints it for a two-queue tap that was passed by descriptors, a user network, and a
# backend that no card is joined to.
INFO_NETWORK = """net0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\r
 \\ n0: index=0,type=tap,fd=23\r
net0: index=1,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\r
 \\ n0: index=1,type=tap,fd=24\r
e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:57\r
 \\ n1: index=0,type=user,net=10.0.2.0,restrict=off\r
n2: index=0,type=tap,ifname=tap9,script=no,downscript=no\r
"""
# And for taps of the bridge helper.
INFO_NETWORK_HELPER = """net0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56
 \\ n0: index=0,type=tap,helper=(null),br=br0
net1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57
 \\ n1: index=0,type=tap,helper=/usr/lib/helper,br=br1
net2: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57
 \\ n2: index=0,type=tap,fd=7
"""

SMAPS = """7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Size:             262144 kB
KernelPageSize:        4 kB
Rss:                8192 kB
AnonHugePages:      4096 kB
VmFlags: rd wr mr mw me dd ac
7f0010000000-7f0020000000 rw-p 00000000 00:00 0
KernelPageSize:        4 kB
Rss:                4096 kB
AnonHugePages:      2048 kB
7f0020000000-7f0020001000 ---p 00000000 00:00 0
KernelPageSize:        4 kB
7f0030000000-7f0050000000 rw-s 00000000 00:0f 1234  /dev/hugepages/qemu_back_mem.x (deleted)
KernelPageSize:     2048 kB
Rss:                   0 kB
Shared_Hugetlb:     6144 kB
"""
HALF_GIB = 512 << 20


def row(page: int, *entries: int) -> str:
    """A leaf with the entries of the five levels on the way to it."""
    return f"{page:#015x} |\t" + "\t".join(f"{entry:#018x}" for entry in entries)


DUMP = "\n".join(
    [
        "Device 0000:00:05.0 @0x10a2b4000",
        "IOVA_PFN\t\tPML5E\t\t\tPML4E\t\t\tPDPE\t\t\tPDE\t\t\tPTE",
        row(0x0, 0, 0x10AE37003, 0x10AE38003, 0x83, 0),
        row(0x200, 0, 0x10AE37003, 0x10AE38003, 0x10AE39003, 0x200001003),
        row(0x201, 0, 0x10AE37003, 0x10AE38003, 0x10AE39003, 0x200002003),
        row(0x40000, 0, 0x10AE37003, 0x40000083, 0, 0),
        "",
        "Device 0000:01:00.0 @0x10a2b5000",
        row(0x0, 0, 0x10AE37003, 0x10AE38003, 0x83, 0),
    ]
)

HISTOGRAM = """# event histogram
#
# trigger info: hist:keys=common_pid:vals=hitcount:sort=hitcount:size=512 [active]
#

{ common_pid:        901 } hitcount:          7
{ common_pid:         12 } hitcount:         90

Totals:
    Hits: 97
    Entries: 2
    Dropped: 0
"""


def test_backends_have_a_line_for_each_queue() -> None:
    files = OpenFiles({23: "vnet3", 24: "vnet3"}, 2, frozenset())
    assert parse_backends(INFO_NETWORK, files) == {
        "n0": Backend("tap", 2, "vnet3"),
        "n1": Backend("user", 1, ""),
        "n2": Backend("tap", 1, "tap9"),
    }
    assert parse_backends(INFO_NETWORK, None)["n0"] == Backend("tap", 2, "")


def test_a_helpers_tap_is_the_one_on_its_bridge_that_no_other_card_has() -> None:
    found = [link(1, "br0", "bridge"), link(2, "br1", "bridge")]
    found += [link(4 + place, f"tap{place}", "tun", master=1) for place in (0, 1)]
    found += [link(7, "tap5", "tun", master=2), link(8, "tap6", "tun", master=2)]
    links = Links({one.name: one for one in found})

    def interfaces(taps: Mapping[int, str]) -> list[str]:
        files = OpenFiles(taps, 0, frozenset())
        backends = parse_backends(INFO_NETWORK_HELPER, files)
        assert backends["n1"].bridge == "br1"
        return [one.interface for one in with_helpers_taps(backends, files, links).values()]

    assert interfaces({7: "tap0", 8: "tap5", 9: "tap1"}) == ["tap1", "tap5", "tap0"]
    assert interfaces({7: "tap0", 8: "tap5", 9: "tap6"}) == ["", "", "tap0"]
    backends = parse_backends(INFO_NETWORK_HELPER, None)
    assert with_helpers_taps(backends, None, links) == backends


def test_the_ram_is_the_one_area_or_run_of_its_size() -> None:
    first, second, huge = parse_smaps(SMAPS)
    assert (huge.size, huge.page_size, huge.resident) == (HALF_GIB, 2 << 20, 6 << 20)
    found = find_ram([first, second], [HALF_GIB])
    assert found is not None
    (run,) = found
    assert (run.size, run.page_size) == (HALF_GIB, 4096)
    assert (run.transparent_huge, run.resident) == (6 << 20, 12 << 20)
    # A whole area is more likely it than neighbours that happen to be as large.
    assert find_ram([first, second, huge], [HALF_GIB]) == [huge]
    assert find_ram([first, huge], [HALF_GIB // 2]) == [first]
    assert find_ram([first, second], [HALF_GIB // 2]) is None
    assert find_ram([first, huge], [3 * HALF_GIB // 2]) is None
    # NUMA nodes have backends of one size.
    assert find_ram([first, second, huge], [HALF_GIB // 2, HALF_GIB // 2]) == [first, second]
    nodes = [HALF_GIB // 2, HALF_GIB, HALF_GIB // 2]
    assert find_ram([first, second, huge], nodes) == [first, second, huge]
    assert find_ram([first, huge], [HALF_GIB // 2, HALF_GIB // 2]) is None


def test_open_files(tmp_path: Path) -> None:
    fd, info = tmp_path / "7/fd", tmp_path / "7/fdinfo"
    fd.mkdir(parents=True)
    info.mkdir()
    targets = ["/dev/net/tun", "/dev/vhost-net", "/dev/vhost-net", "/dev/vfio/vfio", "/dev/vfio/12"]
    # The device of a macvtap is told by its number.
    for number, target in enumerate([*targets, "socket:[1]", "/dev/net/tun", "/dev/null"]):
        (fd / str(number)).symlink_to(target)
    (info / "0").write_text("pos:\t0\nflags:\t02104002\niff:\ttap0\n")
    (info / "6").write_text("pos:\t0\n")
    number = Path("/dev/null").stat().st_rdev
    device = tmp_path / f"dev/char/{os.major(number)}:{os.minor(number)}"
    device.parent.mkdir(parents=True)
    device.symlink_to("../../devices/virtual/net/macvtap0/macvtap/tap5")
    files = read_open_files(7, tmp_path, tmp_path)
    assert files == OpenFiles(
        {0: "tap0", 7: "macvtap0"}, 2, frozenset({"/dev/vfio/vfio", "/dev/vfio/12"})
    )
    with pytest.raises(OSError, match="No such file"):
        read_open_files(8, tmp_path)


def test_neighbours_are_counted_by_where_they_may_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tid, name in ((7, "qemu-system-x86"), (8, "CPU 0/KVM"), (9, "CPU 1/KVM")):
        (tmp_path / f"7/task/{tid}").mkdir(parents=True)
        (tmp_path / f"7/task/{tid}/comm").write_text(f"{name}\n")
    (tmp_path / "7/comm").write_text("qemu-system-x86\n")
    places = {8: frozenset({0}), 9: frozenset({0, 1, 2, 3})}
    monkeypatch.setattr(collect_neighbours, "cores_of", places.__getitem__)

    def count(first: Ran, *cpus: int) -> tuple[int, int]:
        return count_neighbours(first, read_neighbours(1, tmp_path), frozenset(cpus))

    # Nobody counts what they ran.
    idle = read_neighbours(1, tmp_path)
    assert idle == {7: {8: 0.0, 9: 0.0}}
    assert count(idle, 0, 1) == (2, 1)
    assert count(idle, 3) == (1, 0)
    assert read_neighbours(7, tmp_path) == {}
    # One that waits for its migration, or is paused, ran nothing in between.
    for tid in (8, 9):
        (tmp_path / f"7/task/{tid}/schedstat").write_text("590000 12 3\n")
    waiting = read_neighbours(1, tmp_path)
    assert count(waiting, 0, 1) == (0, 0)
    # Where one vCPU ran, the others may at any moment.
    (tmp_path / "7/task/9/schedstat").write_text("591000 12 4\n")
    assert count(waiting, 0, 1) == (2, 1)
    # It came in between.
    assert count({}, 0, 1) == (2, 1)


def test_processes_by_name(tmp_path: Path) -> None:
    names = {"7": "qemu-system-x86", "9": "vhost-7", "10": "vhost-70", "x": "no", "11": None}
    for number, name in names.items():
        (tmp_path / number).mkdir()
        if name is not None:
            (tmp_path / number / "comm").write_text(f"{name}\n")
    assert dict(processes(tmp_path)) == {7: "qemu-system-x86", 9: "vhost-7", 10: "vhost-70"}
    assert vhost_threads(7, tmp_path) == [9]


@pytest.mark.parametrize(
    ("words", "kvm", "accelerator"),
    [
        (["qemu", "-accel", "kvm"], True, "kvm"),
        (["qemu", "-accel", "tcg,thread=multi"], False, "tcg"),
        (["qemu", "-machine", "q35,accel=kvm:tcg"], False, "tcg"),
        (["qemu", "-machine", "q35"], False, "tcg"),
        (["qemu", "-accel", "kvm", "-accel", "tcg"], False, "tcg"),
        (["qemu", "-M", "xenfv,accel=xen"], False, "xen"),
        (None, False, None),
        (None, True, "kvm"),
    ],
)
def test_the_accelerator(words: list[str] | None, kvm: bool, accelerator: str | None) -> None:
    assert accelerator_of(words, kvm) == accelerator


def test_leaves_are_counted_by_the_last_level_that_has_an_entry() -> None:
    assert deep.count_leaves(iter(DUMP.splitlines(keepends=True)), ["0000:00:05.0"]) == {
        "0000:00:05.0": {4096: 2, 2 << 20: 1, 1 << 30: 1}
    }
    both = deep.count_leaves(iter(DUMP.splitlines()), ["0000:00:05.0", "0000:01:00.0"])
    assert both["0000:01:00.0"] == {2 << 20: 1}


@given(st.lists(st.text(max_size=120)))
def test_no_dump_is_too_strange(lines: list[str]) -> None:
    deep.count_leaves(iter(["Device a b", *lines]), ["a"])


@pytest.mark.parametrize(
    ("kernel", "read"),
    [
        ("5.15.0", False),
        ("6.1.0-53-amd64", True),
        ("6.6.30", True),
        ("6.7.0", False),
        ("6.12.38", False),
        ("6.18.1", True),
        ("7.0.0", True),
        ("strange", False),
    ],
)
def test_tables_are_read_where_that_is_safe(kernel: str, read: bool, tmp_path: Path) -> None:
    common = tmp_path / "iommu/intel/domain_translation_struct"
    own = tmp_path / "iommu/intel/0000:00:05.0/domain_translation_struct"
    for path in (common, own):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(DUMP)
    unread: dict[str, str] = {}
    pages = deep.read_leaf_pages(kernel, ["0000:00:05.0"], unread, tmp_path)
    assert (pages is not None) is read
    assert (unread == {}) is read


def test_tables_that_are_not_there_say_what_they_need(tmp_path: Path) -> None:
    unread: dict[str, str] = {}
    assert deep.read_leaf_pages("6.1.0", ["0000:00:05.0"], unread, tmp_path) is None
    assert "debugfs" in unread["leaf_pages"]
    common = tmp_path / "iommu/intel/domain_translation_struct"
    common.parent.mkdir(parents=True)
    common.write_text(DUMP)
    assert deep.read_leaf_pages("6.1.0", ["0000:07:00.0"], unread, tmp_path) == {}
    assert "0000:07:00.0" in unread["leaf_pages"]


def test_calls_are_of_the_vms_own_threads() -> None:
    now = {"handle_tx_copy": deep.parse_histogram(HISTOGRAM), "skb_copy_ubufs": {1: 5}}
    before = {"handle_tx_copy": {901: 2}}
    assert now["handle_tx_copy"] == {901: 7, 12: 90}
    calls = {"handle_tx_copy": 5, "skb_copy_ubufs": 5}
    assert deep.transmit_calls(before, now, frozenset({901})) == calls
    assert deep.transmit_calls(before, now, None)["handle_tx_copy"] == 95


def test_without_tracefs_nothing_is_counted(tmp_path: Path) -> None:
    with deep.TransmitProbes([tmp_path]) as probes:
        assert probes.counts() is None
    assert "tracefs" in probes.problem


def test_probes_of_a_killed_audit_with_our_number_do_not_hold_us_up(tmp_path: Path) -> None:
    group = f"vmferry_{os.getpid()}"
    (tmp_path / "kprobe_events").write_text(f"p:{group}/handle_tx_copy handle_tx_copy\n")
    (tmp_path / "instances" / group).mkdir(parents=True)
    with deep.TransmitProbes([tmp_path]) as probes:
        assert "exists" not in probes.problem
    assert f"-:{group}/handle_tx_copy" in (tmp_path / "kprobe_events").read_text()


def link(index: int, name: str, kind: str = "", **fields: Any) -> Link:
    values: dict[str, Any] = {
        "mtu": 1500,
        "master": 0,
        "below": 0,
        "real": False,
        "multi_queue": False,
        "queues": None,
        "disabled": None,
        "counters": {"sent_packets": index},
    }
    return Link(index, name, kind, **(values | fields))


def test_a_tap_knows_the_cards_behind_its_bridge() -> None:
    found = [
        link(1, "tap0", "tun", master=2, multi_queue=True, queues=1, disabled=3),
        link(2, "br0", "bridge"),
        link(3, "bond0.5", "vlan", master=2, below=4),
        link(4, "bond0", "bond"),
        link(5, "eth0", master=4, real=True, scatter_gather=False),
        link(6, "veth1", "veth", master=2, below=7),
        link(7, "veth2", "veth", below=6),
        link(8, "tap1", "tun", queues=1, disabled=0),
    ]
    links = Links({one.name: one for one in found})
    tap = links.tap("tap0")
    assert tap is not None
    assert (tap.multi_queue, tap.queues, tap.disabled, tap.bridge) == (True, 1, 3, "br0")
    assert tap.bridge_ports == ("bond0.5", "veth1")
    assert tap.uplinks == {"bond0.5": False}
    alone = links.tap("tap1")
    assert alone is not None
    assert (alone.bridge, alone.bridge_ports, alone.uplinks) == ("", (), {})
    assert links.tap("eth0") is None
    tunnel = link(9, "vxlan7", "vxlan", master=2)
    out = Links({one.name: one for one in (*found[:2], tunnel)}).tap("tap0")
    assert out is not None
    assert out.uplinks == {"vxlan7": None}
    through = [link(9, "mv0", "macvtap", below=5), *found]
    way = Links({one.name: one for one in through}).tap("mv0")
    assert way is not None
    assert (way.kind, way.bridge, way.uplinks) == ("macvtap", "", {"eth0": False})
    assert links.tap("gone") is None
    assert links.counters("tap1") == {"sent_packets": 8}


def test_roles_of_threads() -> None:
    vm = VmFacts(
        *("vm", (7, 2, 0), "kvm", "q35", 10),
        vcpus=(Vcpu(0, 11, None, "/x"),),
        iothreads={"io0": 12},
    )
    roles = {
        (10, "qemu-system-x86"): "main",
        (11, "qemu-system-x86"): "vcpu",
        (12, "qemu-system-x86"): "iothread",
        (13, "CPU 1/KVM"): "vcpu",
        (14, "mig/src/main"): "migration",
        (15, "vhost-10"): "vhost",
        (16, "worker"): "other",
    }
    for (tid, name), role in roles.items():
        assert role_of(ThreadTimes(tid, name, 0.0, 0.0), vm) == role


def test_a_kernel_that_does_not_count_is_not_taken_for_idle_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side = QemuSide(Path("/nowhere"), ProcessId(7, 1, "boot"), ours=False)
    times = [ThreadTimes(7, "qemu-system-x86", 0.0, 0.0), ThreadTimes(8, "CPU 0/KVM", 0.0, 0.0)]
    monkeypatch.setattr(collect_window, "thread_times", lambda pid: times)
    assert collect_window.WindowReader(side)._thread_times() == {}
    times.append(ThreadTimes(9, "CPU 1/KVM", 0.5, 0.1))
    assert set(collect_window.WindowReader(side)._thread_times()) == {7, 8, 9}


def test_our_own_process_can_be_read() -> None:
    assert (os.getpid(), "") not in list(processes())
    assert any(pid == os.getpid() for pid, _ in processes())
    assert read_open_files(os.getpid()).vhost_net == 0
