"""What QEMU and the kernel print, read into facts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.qmp import QmpError, QmpGone
from vmferry.preflight.asking import Asking
from vmferry.preflight.collect_cpu import read_all_features, read_cpu
from vmferry.preflight.collect_devices import (
    netdevs_of,
    read_devices,
    read_keys,
    read_virtio,
)
from vmferry.preflight.collect_files import Files, Look
from vmferry.preflight.collect_listener import tcp_listeners, unix_listeners
from vmferry.preflight.collect_qemu import ram_blocks_of
from vmferry.preflight.collect_storage import image_of, read_drives
from vmferry.preflight.facts import Cpu, Drive, Netdev, RamBlock, Virtio

# As QEMU 7.2 prints it, and 10.0, which adds columns.
RAM_BLOCKS = """\
              Block Name    PSize              Offset               Used              Total
                    mem0    4 KiB  0x0000000000000000 0x0000000002800000 0x0000000002800000
    /rom@etc/acpi/tables    4 KiB  0x0000000002880000 0x0000000000020000 0x0000000000200000
"""
RAM_BLOCKS_10 = """\
              Block Name    PSize              Offset               Used              Total                HVA  RO
                  pc.ram    2 MiB  0x0000000000000000 0x0000000040000000 0x0000000040000000 0x00007f1234000000  rw
"""  # noqa: E501

NETWORK = """\
virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:01\r
 \\ net0: index=0,type=user,net=10.0.2.0,restrict=off\r
nic1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:02\r
 \\ net1: index=0,type=tap,ifname=tap3,script=no,downscript=no\r
nic1: index=1,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:02\r
 \\ net1: index=1,type=tap,ifname=tap3,script=no,downscript=no\r
"""

UNIX = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 32210 /run/dest.sock
0000000000000000: 00000003 00000000 00000000 0001 03 32211 /run/other.sock
0000000000000000: 00000002 00000000 00010000 0001 01 32212 a relative.sock
0000000000000000: 00000002 00000000 00010000 0001 01 32213
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:1F91 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 2 1
"""


class Tree:
    """A QEMU of which only the object tree is known: properties by path."""

    def __init__(self, objects: Mapping[str, Mapping[str, tuple[str, Any]]]) -> None:
        self._objects = objects

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        path = str((arguments or {}).get("path"))
        if path not in self._objects:
            raise QmpError(f"no object {path}")
        if command == "qom-list":
            return [{"name": n, "type": t} for n, (t, _) in self._objects[path].items()]
        value = self._objects[path][(arguments or {})["property"]][1]
        if value is None:
            raise QmpError("not readable")
        return value


def child(type_: str) -> tuple[str, None]:
    return f"child<{type_}>", None


def device(type_: str, bus: str, **values: Any) -> dict[str, tuple[str, Any]]:
    named = {name: (type(value).__name__, value) for name, value in values.items()}
    return {"type": ("string", type_), "parent_bus": ("link<bus>", bus), **named}


ANONYMOUS = "/machine/peripheral-anon/device"
TREE = Tree(
    {
        "/machine/peripheral": {
            "type": ("string", "container"),
            "vs": child("virtio-serial-pci"),
            "vcpu1": child("max-x86_64-cpu"),
            "disk": child("virtio-blk-pci"),
        },
        "/machine/peripheral/disk": {
            **device("virtio-blk-pci", "/machine/q35/pcie.0", addr=48),
            "iothread": ("link<iothread>", "/objects/io0"),
            "iothread-vq-mapping": (
                "IOThreadVirtQueueMappingList",
                [{"iothread": "io1", "vqs": [0]}, {"iothread": "io0"}],
            ),
        },
        "/machine/peripheral-anon": {
            "device[10]": child("virtio-rng-pci"),
            "device[9]": child("virtio-rng-pci"),
            "device[1]": child("virtserialport"),
        },
        "/machine/unattached": {
            "device[0]": child("max-x86_64-cpu"),
            "device[1]": child("hpet"),
            "sysbus": child("System"),
        },
        "/machine/peripheral/vs": device(
            "virtio-serial-pci", "/machine/q35/pcie.0", addr=24, broken=None
        ),
        f"{ANONYMOUS}[1]": device(
            "virtserialport", "/machine/peripheral/vs/virtio-backend/vs.0", nr=1
        ),
        f"{ANONYMOUS}[9]": device("virtio-rng-pci", "/machine/q35/pcie.0", addr=32),
        f"{ANONYMOUS}[10]": device("virtio-rng-pci", "/machine/q35/pcie.0", addr=40),
        "/machine/unattached/device[0]": {
            "type": ("string", "max-x86_64-cpu"),
            "sse4.1": ("bool", True),
            "sse4_1": ("bool", True),
            "sse4-1": ("bool", True),
            "lahf-lm": ("bool", False),
            "lahf_lm": ("bool", False),
            "family": ("int", 15),
        },
    }
)


def test_devices_have_keys_in_the_order_in_which_they_were_made() -> None:
    async def read() -> dict[str, tuple[str, str, object]]:
        asking = Asking(TREE)
        devices = await read_devices(asking, *await read_keys(asking))
        return {one.key: (one.owner, one.bus, one.properties.get("addr")) for one in devices}

    assert asyncio.run(read()) == {
        "disk": ("", "/machine/q35/pcie.0", 48),
        "vs": ("", "/machine/q35/pcie.0", 24),
        "virtserialport#0": ("vs", "virtio-backend/vs.0", None),
        "virtio-rng-pci#0": ("", "/machine/q35/pcie.0", 32),
        "virtio-rng-pci#1": ("", "/machine/q35/pcie.0", 40),
        "hpet#0 (built in)": ("", "", None),
    }


def test_who_serves_a_device() -> None:
    async def read() -> dict[str, frozenset[str]]:
        asking = Asking(TREE)
        devices = await read_devices(asking, *await read_keys(asking))
        return {one.key: one.iothreads for one in devices if one.iothreads}

    assert asyncio.run(read()) == {"disk": frozenset({"io0", "io1"})}


def test_an_answer_that_is_not_understood_is_a_fact_that_was_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken() -> int:
        raise KeyError("qdev")

    async def gone() -> int:
        raise QmpGone("gone")

    asking = Asking(TREE)
    assert asyncio.run(asking.whole("drives", broken())) is None
    assert asking.unread == {"drives": "by a bug in vmferry: KeyError: 'qdev'"}
    with pytest.raises(QmpGone):
        asyncio.run(asking.whole("drives", gone()))
    monkeypatch.setattr("vmferry.preflight.asking._WHOLE_SECONDS", 0.01)
    assert asyncio.run(asking.whole("jobs", asyncio.sleep(60))) is None
    assert asking.unread["jobs"] == "QEMU did not tell it within 0.01 s"


def test_a_feature_has_one_name() -> None:
    cpu = asyncio.run(read_cpu(Asking(TREE), "/machine/unattached/device[0]", "tcg"))
    assert cpu.features == {"sse4.1": True, "lahf-lm": False}
    assert (cpu.type, cpu.values) == ("max-x86_64-cpu", {"family": 15})


def test_features_are_asked_for_by_name_where_no_word_has_them() -> None:
    def word(bits: int) -> dict[str, object]:
        return {
            "cpuid-register": "EBX",
            "cpuid-input-eax": 7,
            "cpuid-input-ecx": 0,
            "features": bits,
        }

    names = ("avx2", "pmu", "vmx-ept", "hv-time", "mds-no", "x-knob")
    on: dict[str, tuple[str, Any]] = dict.fromkeys(names, ("bool", True))
    words = ("X86CPUFeatureWordInfo", [word(0x20)])
    opening = {"vmx": ("bool", True), "arch-capabilities": ("bool", True)}
    qemu = Tree(
        {
            "plain": {**on, "feature-words": words},
            "open": {**on, **opening, "feature-words": words},
            "aarch64": on,
        }
    )

    def read(path: str, accelerator: str) -> Cpu:
        return asyncio.run(read_cpu(Asking(qemu), path, accelerator))

    assert read("plain", "tcg").words == {"0x7.0 EBX 0x20"}
    assert read("plain", "tcg").features.keys() == {"pmu"}
    assert read("plain", "kvm").features.keys() == {"pmu", "hv-time"}
    opened = {"pmu", "hv-time", "vmx", "vmx-ept", "arch-capabilities", "mds-no"}
    assert read("open", "kvm").features.keys() == opened
    assert read("aarch64", "kvm").features.keys() == {*names} - {"x-knob"}
    everything = read_all_features(Asking(qemu), read("plain", "tcg"))
    assert asyncio.run(everything).keys() == {*names} - {"x-knob"}


def test_a_refusal_is_remembered_and_a_lost_connection_is_not_an_answer() -> None:
    class Refusing:
        error: QmpError = QmpError("The command has not been found")

        async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
            raise self.error

    qemu = Refusing()
    asking = Asking(qemu)
    assert asyncio.run(asking.ask("jobs", "query-jobs")) is None
    assert asking.unread == {"jobs": "query-jobs: The command has not been found"}
    qemu.error = QmpGone("gone")
    with pytest.raises(QmpGone):
        asyncio.run(asking.ask("jobs", "query-jobs"))
    with pytest.raises(QmpGone):
        asyncio.run(asking.get("/machine", "type"))


def test_ram_blocks() -> None:
    assert ram_blocks_of(RAM_BLOCKS) == {
        "mem0": RamBlock(4096, 0x2800000, 0x2800000),
        "/rom@etc/acpi/tables": RamBlock(4096, 0x20000, 0x200000),
    }
    assert ram_blocks_of(RAM_BLOCKS_10) == {"pc.ram": RamBlock(2 << 20, 1 << 30, 1 << 30)}


def test_cards_and_what_is_behind_them() -> None:
    assert netdevs_of(NETWORK) == (
        Netdev("virtio-net-pci.0", "user", 1),
        Netdev("nic1", "tap", 2, "tap3"),
    )


def test_who_listens() -> None:
    assert unix_listeners(UNIX) == {"/run/dest.sock": {"32210"}, "a relative.sock": {"32212"}}
    assert unix_listeners("") == {}
    assert tcp_listeners(TCP) == {8080: {"1"}}
    assert tcp_listeners("") == {}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("/a.raw", "/a.raw"),
        ("nbd://h/x", "nbd://h/x"),
        ('json:{"driver":"qcow2","file":{"driver":"file","filename":"/t/vl.1"}}', "/t/vl.1"),
        ('json:{"driver":"throttle"}', 'json:{"driver":"throttle"}'),
        ("json:{", "json:{"),
    ],
)
def test_an_image_is_known_by_its_file(name: str, file: str) -> None:
    assert image_of(name) == file


# What QEMU 7.2 answers; what is of no use here is left out.
OVERLAY = (
    'json:{"backing": {"driver": "raw", "file": {"driver": "file", "filename": "/d.raw"}}, '
    '"driver": "qcow2", "file": {"driver": "file", "filename": "/var/tmp/vl.9Z2HZ3"}}'
)
CACHE = {"no-flush": True, "direct": False, "writeback": True}
BLOCKS: dict[str, Any] = {
    "query-block": [
        {
            "device": "n1",
            "inserted": {
                "image": {"virtual-size": 1048576, "filename": OVERLAY, "format": "qcow2"},
                "ro": False,
                "node-name": "#block760",
                "drv": "qcow2",
                "cache": CACHE,
                "file": OVERLAY,
            },
            "qdev": "/machine/peripheral-anon/device[0]/virtio-backend",
        },
        {"device": "cd0", "locked": False, "removable": True, "qdev": "cd"},
        {
            "device": "",
            "inserted": {
                "image": {
                    "virtual-size": 4194304,
                    "filename": "nbd://h/x",
                    "format": "copy-before-write",
                    "backing-image": {
                        "virtual-size": 4194304,
                        "filename": "nbd://h/x",
                        "format": "raw",
                    },
                },
                "ro": True,
                "node-name": "n0",
                "drv": "raw",
                "cache": CACHE,
                "file": "nbd://h/x",
            },
            "qdev": "h0",
        },
    ],
    "query-named-block-nodes": [
        {"node-name": "f0", "file": "nbd://h/x", "dirty-bitmaps": [{"count": 0}]},
        {
            "node-name": "n0",
            "file": "nbd://h/x",
            "dirty-bitmaps": [{"name": "daily"}, {"name": "weekly"}],
        },
    ],
    "x-query-virtio": [
        {"name": "virtio-net", "path": "/machine/peripheral/nic0/virtio-backend"},
        {"name": "virtio-gpu", "path": "/machine/peripheral/vga/virtio-backend"},
    ],
    "x-query-virtio-status": {
        "host-features": {
            "unknown-dev-features": 1 << 40,
            "dev-features": ["VIRTIO_NET_F_MQ: Multiqueue with automatic receive steering"],
            "transports": ["VIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy)"],
        },
        "guest-features": {"dev-features": [], "transports": []},
        "vhost-started": False,
    },
}


class Answers:
    """A QEMU that has one answer to each command."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, Any] | None]] = []

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        self.asked.append((command, arguments))
        return BLOCKS[command]


def test_disks_and_what_is_behind_them() -> None:
    keys = {"/machine/peripheral-anon/device[0]": "virtio-blk-pci#0"}
    drives = asyncio.run(
        read_drives(
            Asking(Answers()),
            keys,
            Files(ProcessId.of(os.getpid()), deleted=("/var/tmp/vl.9Z2HZ3",)),
        )
    )
    assert drives == (
        Drive(
            key="virtio-blk-pci#0",
            file="/var/tmp/vl.9Z2HZ3",
            format="qcow2",
            size=1048576,
            read_only=False,
            direct=False,
            no_flush=True,
            is_file=True,
            gone=True,
        ),
        Drive(
            key="h0",
            file="nbd://h/x",
            format="raw",
            size=4194304,
            read_only=True,
            direct=False,
            no_flush=True,
            bitmaps=("daily", "weekly"),
        ),
    )


def test_features_of_the_kinds_that_qemu_can_decode() -> None:
    """QEMU 7.2 aborts where it is asked to decode the features of a kind that it forgot."""
    qemu = Answers()
    keys = {"/machine/peripheral/nic0": "nic0", "/machine/peripheral/vga": "vga"}
    offered = frozenset({"VIRTIO_NET_F_MQ", "VIRTIO_F_VERSION_1", "bit 40"})
    assert asyncio.run(read_virtio(Asking(qemu), keys)) == {"nic0": Virtio(offered, frozenset())}
    assert [path for command, path in qemu.asked if command == "x-query-virtio-status"] == [
        {"path": "/machine/peripheral/nic0/virtio-backend"}
    ]


def test_files_as_a_process_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    me = ProcessId.of(os.getpid())
    with (tmp_path / "a").open("r+b"):
        files = Files.of(me)
    found = files.named(name)
    assert found is not None
    assert files.named(str(tmp_path / "link")) == files.named("a") == found
    assert files.opened_as(name) == files.opened_as("a") == Look(found)
    assert files.named(str(tmp_path / "none")) is files.named(str(tmp_path)) is None
    assert Files.of(None).named(name) is None
    assert Files.of(None).opened_as(name) == Look()


def test_a_name_that_leads_elsewhere_by_now(tmp_path: Path) -> None:
    """What is open counts: a name may be another file's, or may never have been a path."""
    name = str(tmp_path / "a")
    with (tmp_path / "a").open("w"):
        (tmp_path / "a").unlink()
        gone = Files.of(ProcessId.of(os.getpid()))
        assert gone.opened_as(name) == gone.opened_as("a") == Look(gone=True)
        (tmp_path / "a").write_bytes(b"another file")
        assert gone.named(name) is not None
        assert gone.opened_as(name) == Look(gone=True)
    for passed in ("/dev/fdset/1", "left-by-daemonize.qcow2", "/etc/passwd"):
        assert gone.opened_as(passed) == Look()
