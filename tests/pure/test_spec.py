"""VM specifications: what is taken, and every problem of a file named at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vmferry.errors import UsageError
from vmferry.vm.spec import VmSpec, load_spec

SMALL = '[memory]\nsize = "256MiB"\n[boot]\nkernel = "testguest"\n'


@pytest.fixture
def write(tmp_path: Path) -> Path:
    return tmp_path / "web.toml"


def problems(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_spec(path)
    assert caught.value.exit_status == 2
    assert str(path) in caught.value.message
    return caught.value.message


def test_the_least_that_is_enough(write: Path) -> None:
    write.write_text(SMALL)
    spec = load_spec(write)
    assert (spec.name, spec.memory.size, spec.cpu.count) == ("web", 256 * 2**20, 1)
    assert spec.is_testguest


def test_everything(write: Path, tmp_path: Path) -> None:
    (tmp_path / "root.qcow2").touch()
    (tmp_path / "vmlinuz").touch()
    (tmp_path / "ram").mkdir()
    write.write_text(
        """
        format = 1
        name = "db-1"
        [cpu]
        count = 4
        model = "host,-avx"
        pin = [4, 5, 6, 7]
        [memory]
        size = "1GiB"
        backend = "file"
        path = "ram"
        [boot]
        kernel = "vmlinuz"
        append = "quiet"
        [[disk]]
        path = "root.qcow2"
        format = "qcow2"
        interface = "scsi"
        cache = "none"
        readonly = true
        [[nic]]
        forward = [{ host = 2222, guest = 22 }, { host = 5353, guest = 53, protocol = "udp" }]
        [[nic]]
        kind = "bridge"
        bridge = "br0"
        create_bridge = true
        mac = "52:54:00:AB:CD:EF"
        queues = 4
        vhost = true
        zero_copy = true
        [scsi]
        queues = 4
        iothreads = [0, 1]
        [[passthrough]]
        host = "C1:00.1"
        [qemu]
        accelerator = "tcg"
        extra = ["-vnc", "unix:{instance}/vnc.sock"]
        """
    )
    spec = load_spec(write)
    assert spec.boot.kernel == str(tmp_path / "vmlinuz"), "relative to the file, not to the shell"
    assert spec.disk[0].path == str(tmp_path / "root.qcow2")
    assert spec.nic[1].mac == "52:54:00:ab:cd:ef"
    assert spec.passthrough[0].host == "0000:c1:00.1"


def test_json_and_back_even_when_a_file_has_gone(write: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.touch()
    write.write_text('[memory]\nsize = "64MiB"\n[[disk]]\npath = "disk.raw"\n')
    spec = load_spec(write)
    disk.unlink()
    assert VmSpec.model_validate_json(spec.model_dump_json()) == spec


def test_all_problems_at_once(write: Path) -> None:
    found = problems(
        write,
        """
        [memory]
        sise = "1GiB"
        [cpu]
        count = 0
        [boot]
        kernel = "missing"
        [[disk]]
        path = "also-missing"
        format = "vmdk"
        [[disk]]
        [[nic]]
        mac = "zz"
        """,
    )
    for expected in (
        "memory.size: is missing",
        "memory.sise: unknown key; allowed: backend, page_size, path, size; did you mean 'size'?",
        "cpu.count: 0 is out of range",
        "boot.kernel: there is no file",
        "disk[0].path: there is no file",
        "disk[0].format: 'vmdk' is not allowed; allowed: 'raw' or 'qcow2'",
        "disk[1].path: is missing",
        "nic[0].mac: 'zz' is not a MAC address",
    ):
        assert expected in found
    assert "8 problems" in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = ", "is not valid TOML: Invalid value (at end of document)"),
        (SMALL + "x = [", "is not valid TOML"),
        (SMALL + "x = " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("", "memory: is missing"),
        ("memory = 1", "memory: 1 is not a table"),
        ("disk = 1\n" + SMALL, "disk: 1 is not a list"),
        ("format = 2\n" + SMALL, "format: 2 is not allowed; allowed: 1"),
        ('name = ""\n' + SMALL, "name: '' is no VM name"),
        ('name = "../x"\n' + SMALL, "name: '../x' is no VM name"),
        (f'name = "{"n" * 300}"\n' + SMALL, "is no VM name"),
        ('name = "a\\nb"\n' + SMALL, "name: 'a\\nb' is no VM name"),
        ("name = 7\n" + SMALL, "name: 7 is not text in quotes"),
        ('[memory]\nsize = "many"', "memory.size: 'many' is not a size"),
        ("[memory]\nsize = 100", "memory.size: 100 B is out of range; allowed: 1MiB to 64TiB"),
        ("[memory]\nsize = 1052672", "memory.size: 1052672 bytes is not a multiple of 8KiB"),
        ('[memory]\nsize = "64MiB"', "nothing to boot"),
        ('[memory]\nsize = "64MiB"\nbackend = "file"', "memory: backend 'file' needs path"),
        ('[memory]\nsize = "64MiB"\npath = "."', "memory: backend 'ram' takes no path"),
        ('[memory]\nsize = 1\npage_size = "4KiB"', "memory.page_size: 4.00 KiB is no size of huge"),
        ('[memory]\nsize = "64MiB"\npage_size = "2MiB"', "'ram' takes no page_size"),
        (
            '[memory]\nsize = "65MiB"\nbackend = "hugepages"',
            "size 65.0 MiB is not a multiple of the huge pages' 2.00 MiB",
        ),
        (
            '[memory]\nsize = "64MiB"\nbackend = "hugepages"\npage_size = "1GiB"',
            "size 64.0 MiB is not a multiple of the huge pages' 1.00 GiB",
        ),
        (SMALL + "[cpu]\npin = [0, 1]", "cpu: pin names 2 CPUs of the host for 1 vCPUs"),
        (SMALL + "[cpu]\ncount = 2\npin = [1, 1]", "cpu.pin: 1 is there twice"),
        (SMALL + "[cpu]\npin = [-1]", "cpu.pin[0]: -1 is out of range"),
        (SMALL + "[scsi]\nqueues = 2", "[scsi] needs a [[disk]] with interface = 'scsi'"),
        (
            SMALL + "[[nic]]\nqueues = 2",
            "nic[0]: queues, vhost and zero_copy are for kind 'bridge'",
        ),
        (
            SMALL + '[[nic]]\nkind = "bridge"\nbridge = "br0"\nmodel = "e1000"\nvhost = true',
            "nic[0]: queues, vhost and zero_copy are for kind 'bridge' with model 'virtio'",
        ),
        (
            SMALL + '[[nic]]\nkind = "bridge"\nbridge = "br0"\nvhost = false\nzero_copy = true',
            "nic[0]: zero_copy needs vhost",
        ),
        (SMALL + "[[nic]]\ncreate_bridge = true", "nic[0]: kind 'user' takes no bridge"),
        (
            SMALL + '[[nic]]\nkind = "bridge"\nbridge = "br0"\nqueues = 257',
            "nic[0].queues: 257 is out of range; allowed: 256 or less",
        ),
        (
            SMALL + '[[passthrough]]\nhost = "eth0"',
            "passthrough[0].host: 'eth0' is not a PCI address",
        ),
        (
            SMALL + '[[passthrough]]\nhost = "01:00.0"\n[[passthrough]]\nhost = "0000:01:00.0"',
            "passthrough host 0000:01:00.0 is there twice",
        ),
        (SMALL + 'initrd = "web.toml"', "boot: the test guest brings its own initrd"),
        (SMALL + "[cpu]\ncount = 1.5", "cpu.count: 1.5 is not a whole number"),
        (SMALL + '[cpu]\ncount = "2"', "cpu.count: '2' is not a whole number"),
        (SMALL + "[cpu]\ncount = true", "cpu.count: True is not a whole number"),
        (SMALL + '[testguest]\nworking_set = "1GiB"', "does not fit: memory.size 256 MiB"),
        (SMALL + '[testguest]\nwrite_rate = "fast"', "testguest.write_rate: 'fast' is not a rate"),
        (SMALL + "[testguest]\nwrite_rate = -1", "testguest.write_rate: -1 is not allowed"),
        (SMALL + '[testguest]\ndisk = "1MiB"', "testguest.disk needs a [[disk]]"),
        ('[memory]\nsize = "64MiB"\n[[disk]]\npath = "/"', "disk[0].path: / is a folder"),
        ('[memory]\nsize = "64MiB"\n[[disk]]\npath = "a\\u0000"', "has control characters"),
        (SMALL + '[[nic]]\nkind = "bridge"', "nic[0]: kind 'bridge' needs bridge"),
        (SMALL + '[[nic]]\nbridge = "br0"', "nic[0]: kind 'user' takes no bridge"),
        (SMALL + '[[nic]]\nmac = "01:00:00:00:00:00"', "is a group address"),
        (
            SMALL + "[[nic]]\nforward = [{ host = 1, guest = 2 }, { host = 1, guest = 3 }]",
            "forwarded port of the host tcp 1 is there twice",
        ),
        (SMALL + "[[nic]]\nforward = [{ host = 0, guest = 2 }]", "nic[0].forward[0].host: 0"),
        (SMALL + '[qemu]\nmachine = "q35,usb=on"', "qemu.machine: 'q35,usb=on' is not a QEMU"),
        (SMALL + '[qemu]\naccelerator = "xen"', "allowed: 'auto', 'kvm' or 'tcg'"),
    ],
)
def test_a_problem_in_words(write: Path, text: str, expected: str) -> None:
    assert expected in problems(write, text)


@pytest.mark.parametrize(
    "option",
    [
        "-S",
        "-incoming",
        "-qmp",
        "-mon",
        "-monitor",
        "-daemonize",
        "-pidfile",
        "-name",
        "-m",
        "-smp",
        "-cpu",
        "-machine",
        "-M",
        "-accel",
        "-kernel",
        "-append",
        "-readconfig",
        "-snapshot",
        "--qmp",
        "-s",
    ],
)
def test_an_extra_argument_that_collides_is_refused_with_a_reason(write: Path, option: str) -> None:
    found = problems(write, SMALL + f'[qemu]\nextra = ["{option}"]')
    assert f"qemu.extra: {option} is not allowed: " in found


def test_what_two_instances_would_share_needs_the_instance_folder(write: Path) -> None:
    found = problems(write, SMALL + '[qemu]\nextra = ["-vnc", ":1"]')
    assert "use -vnc unix:{instance}/vnc.sock" in found


def test_a_scsi_disk_has_its_queues_at_its_controller(write: Path, tmp_path: Path) -> None:
    (tmp_path / "d").touch()
    disk = '[[disk]]\npath = "d"\ninterface = "scsi"\nqueues = 2'
    expected = "disk[0]: queues and iothreads of a disk with interface 'scsi' go into [scsi]"
    assert expected in problems(write, SMALL + disk)


def test_a_name_from_the_file_is_said_to_be_so(tmp_path: Path) -> None:
    assert "set name" in problems(tmp_path / "my vm.toml", SMALL)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\xff\xfe\x00", "it is not UTF-8 text"), (b"\0\0", "not valid TOML")],
)
def test_no_toml_at_all(write: Path, content: bytes, expected: str) -> None:
    write.write_bytes(content)
    with pytest.raises(UsageError, match=expected):
        load_spec(write)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "is a folder"),
        ("/nonexistent.toml", "there is no file"),
        ("/dev/zero", "is not a regular file"),
        ("n" * 5000, "cannot read"),
        ("a\0b", "there is no file"),
    ],
)
def test_no_file_to_read(path: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        load_spec(Path(path))


def test_record_of_a_vm_that_was_started_with_a_folder_of_huge_pages_is_read() -> None:
    """Else it could not be looked at, moved or stopped any more."""
    memory = {"size": 64 * 2**20, "backend": "hugepages", "path": "/dev/hugepages"}
    record = {"name": "web", "memory": memory, "boot": {"kernel": "/vmlinuz"}}
    read = VmSpec.model_validate(record).memory
    assert (read.backend, read.path) == ("hugepages", None)
    assert VmSpec.model_validate_json(json.dumps(record)).memory == read


def test_folder_of_huge_pages_in_a_file_is_refused(write: Path) -> None:
    text = f'[memory]\nsize = "64MiB"\nbackend = "hugepages"\npath = "{write.parent}"\n'
    assert "takes no path" in problems(write, text + '[boot]\nkernel = "testguest"\n')
