"""QEMU's command line: both sides alike, but for what would collide on one host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vmferry.hypervisor.qemu.command_line import command_line, late_commands, mac_address
from vmferry.hypervisor.qemu.instance import InstanceFiles
from vmferry.hypervisor.qemu.ram_trap import is_ram_trapped, safe_ram_bytes
from vmferry.testguest.build import GuestImage
from vmferry.vm.spec import Scsi, VmSpec

IMAGE = GuestImage(Path("/cache/vmlinuz"), Path("/cache/initrd"), "6.1")
SOURCE, DESTINATION = InstanceFiles(Path("/run/a")), InstanceFiles(Path("/run/b"))


def spec(**changes: Any) -> VmSpec:
    """A resolved specification."""
    base: dict[str, Any] = {
        "name": "web",
        "cpu": {"count": 2, "model": "max"},
        "memory": {"size": 262152 * 1024},
        "boot": {"kernel": "testguest"},
        "qemu": {"binary": "/bin/qemu", "machine": "pc-q35-7.2", "accelerator": "tcg"},
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if key in base and key != "name" else value
    return VmSpec.model_validate(base)


def words(vm: VmSpec, files: InstanceFiles = SOURCE, *, incoming: bool = False) -> list[str]:
    return command_line(vm, files, IMAGE if vm.is_testguest else None, incoming=incoming)


def after(line: list[str], option: str) -> list[str]:
    return [line[place + 1] for place, word in enumerate(line) if word == option]


def test_the_basics() -> None:
    line = words(spec())
    assert line[0] == "/bin/qemu"
    assert after(line, "-name") == ["guest=web,debug-threads=on"]
    assert after(line, "-m") == ["262152k"]
    assert after(line, "-object") == ["memory-backend-ram,id=pc.ram,size=268443648"]
    assert after(line, "-accel") == ["tcg,thread=multi"]
    assert len(after(line, "-mon")) == 3
    assert "-S" not in line
    assert "-incoming" not in line


def test_a_destination_differs_by_its_folder_and_by_waiting_only() -> None:
    vm = spec(disk=[{"path": "/d"}], nic=[{}], qemu={"extra": ["-vnc", "unix:{instance}/vnc"]})
    source = words(vm)
    destination = words(vm, DESTINATION, incoming=True)
    start = destination.index("-incoming")
    assert destination[start : start + 3] == ["-incoming", "defer", "-S"]
    del destination[start : start + 3]
    assert [word.replace("/run/b", "/run/a") for word in destination] == source


def test_no_file_or_socket_is_shared_by_two_instances() -> None:
    vm = spec(qemu={"extra": ["-D", "{instance}/qemu.log"]})
    source = {part for word in words(vm) for part in word.split(",") if "/run/" in part}
    destination = {
        part for word in words(vm, DESTINATION) for part in word.split(",") if "/run/" in part
    }
    assert len(source) == 8
    assert not source & destination


def test_forwarded_ports_are_opened_by_the_destination_later() -> None:
    vm = spec(nic=[{"forward": [{"host": 2222, "guest": 22}]}])
    assert after(words(vm), "-netdev") == ["user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22"]
    assert after(words(vm, incoming=True), "-netdev") == ["user,id=net0"]
    assert late_commands(vm) == [
        (
            "human-monitor-command",
            {"command-line": "hostfwd_add net0 tcp:127.0.0.1:2222-:22"},
        )
    ]
    assert late_commands(spec()) == []


def test_ram_in_files_is_in_a_folder_and_unnamed() -> None:
    vm = spec(memory={"backend": "file", "path": "/ram,disk"})
    assert after(words(vm), "-object") == [
        "memory-backend-file,id=pc.ram,size=268443648,mem-path=/ram,,disk,share=on"
    ]


def test_huge_pages_are_of_the_size_asked_for_and_taken_at_the_start() -> None:
    for size, expected in ((None, 2**21), ("1GiB", 2**30)):
        memory = {"size": 2**30, "backend": "hugepages", "page_size": size}
        assert after(words(spec(memory=memory)), "-object") == [
            f"memory-backend-memfd,id=pc.ram,size={2**30},"
            f"hugetlb=on,hugetlbsize={expected},prealloc=on"
        ]


def test_a_disk_may_have_any_path() -> None:
    path = '/a,b"c\\d é'
    disk = {"path": path, "format": "qcow2", "interface": "scsi", "cache": "none"}
    line = words(spec(boot={"kernel": None}, disk=[disk]))
    blockdev = json.loads(after(line, "-blockdev")[0])
    assert blockdev["file"]["filename"] == path
    assert blockdev["cache"] == {"direct": True, "no-flush": False}
    assert "virtio-scsi-pci,id=scsi" in after(line, "-device")


def test_queues_and_who_serves_them() -> None:
    vm = spec(
        disk=[
            {"path": "/a", "interface": "scsi"},
            {"path": "/b", "queues": 2, "iothreads": []},
            {"path": "/c", "iothreads": [3]},
            {"path": "/d"},
        ],
        scsi={"queues": 4, "iothreads": [1]},
    )
    line = words(vm)
    assert after(line, "-object")[1:] == ["iothread,id=iothread1", "iothread,id=iothread3"]
    assert after(line, "-device")[3:] == [
        "virtio-scsi-pci,id=scsi,num_queues=4,iothread=iothread1",
        "scsi-hd,bus=scsi.0,drive=disk0,id=drive0,bootindex=1",
        "virtio-blk-pci,drive=disk1,id=drive1,bootindex=2,num-queues=2",
        "virtio-blk-pci,drive=disk2,id=drive2,bootindex=3,iothread=iothread3",
        "virtio-blk-pci,drive=disk3,id=drive3,bootindex=4",
    ]


def test_devices_are_made_in_order_where_one_needs_json() -> None:
    """QEMU makes those in JSON after all others: a scsi-hd would not find its controller."""
    disks = [{"path": "/a", "interface": "scsi"}, {"path": "/b"}]
    plain = spec(disk=disks, nic=[{"queues": 2, "kind": "bridge", "bridge": "br0"}])
    spread = plain.model_copy(update={"scsi": Scsi(queues=2, iothreads=(2, 1))})
    devices = [json.loads(one) for one in after(words(spread), "-device")]
    drivers = [one.partition(",")[0] for one in after(words(plain), "-device")]
    assert [one["driver"] for one in devices] == drivers
    assert devices[3] == {
        "driver": "virtio-scsi-pci",
        "id": "scsi",
        "num_queues": 2,
        "iothread-vq-mapping": [{"iothread": "iothread2"}, {"iothread": "iothread1"}],
    }
    assert (devices[6]["mq"], devices[6]["vectors"]) == (True, 6)


def test_a_card_on_a_bridge_has_the_tap_that_it_is_given() -> None:
    vm = spec(nic=[{"kind": "bridge", "bridge": "br0", "queues": 2}])
    given = command_line(vm, SOURCE, IMAGE, {0: "fds=7:8,vhost=off"}, incoming=False)
    assert after(given, "-netdev") == ["tap,id=net0,fds=7:8,vhost=off"]
    assert any(word.endswith(",mq=on,vectors=6,romfile=") for word in after(given, "-device"))
    helped = words(spec(nic=[{"kind": "bridge", "bridge": "br0", "queues": 1}]))
    assert after(helped, "-netdev") == ["bridge,id=net0,br=br0"]
    assert any(word.endswith(",mq=off,vectors=4,romfile=") for word in after(helped, "-device"))


def test_a_passed_through_device() -> None:
    vm = spec(passthrough=[{"host": "01:00.0"}])
    assert "vfio-pci,host=0000:01:00.0,id=passthrough0" in after(words(vm), "-device")


def test_only_a_test_guest_has_channels() -> None:
    assert any("vmferry.heartbeat" in word for word in words(spec()))
    other = words(spec(boot={"kernel": "/vmlinuz", "append": "quiet"}))
    assert not any("vmferry.heartbeat" in word for word in other)
    assert after(other, "-append") == ["quiet"]


def test_the_page_writer_is_set_by_the_kernel_command_line() -> None:
    vm = spec(testguest={"threads": 3}, boot={"append": "debug"})
    line = after(words(vm), "-append")[0]
    assert "pagewriter.threads=3" in line
    assert line.endswith(" debug")


def test_a_mac_address_follows_from_name_and_place() -> None:
    assert mac_address("web", 0) == mac_address("web", 0)
    assert len({mac_address("web", 0), mac_address("web", 1), mac_address("db", 0)}) == 3
    assert mac_address("web", 0).startswith("52:54:00:")


def test_what_is_not_resolved_is_not_run() -> None:
    with pytest.raises(ValueError, match="not resolved"):
        words(spec(qemu={"binary": None}))


@pytest.mark.parametrize(
    ("size", "accelerator", "version", "trapped"),
    [
        (2**28, "tcg", (7, 2, 22), True),
        (2**28, "tcg", (8, 2, 0), True),
        (2**28, "tcg", (9, 0, 0), False),
        (2**28, "kvm", (7, 2, 22), False),
        (2**28 + 8192, "tcg", (7, 2, 22), False),
        (2**28 + 2**18, "tcg", (7, 2, 22), True),
    ],
)
def test_the_ram_trap(
    size: int, accelerator: str, version: tuple[int, int, int], trapped: bool
) -> None:
    assert is_ram_trapped(size, accelerator, version) is trapped
    safe = safe_ram_bytes(size, accelerator, version)
    assert safe == size + 8192 * trapped
    assert not is_ram_trapped(safe, accelerator, version)
