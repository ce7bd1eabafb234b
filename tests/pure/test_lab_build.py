"""What the lab is built from: sources, pins, kernels; and what a host's command line keeps to."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import time
from pathlib import Path

import pytest
import zstandard

from lab import image as images
from lab import places
from lab.archive import Source, debian_sources
from lab.errors import LabError
from lab.image import Image
from lab.inside import guests
from lab.kernel import plain_kernel
from lab.machine import Files, Options, command_line, link_between
from lab.network import limit_script
from lab.python_parts import pinned
from vmferry.errors import UsageError

KEYRING = Path("/usr/share/keyrings/some.gpg")
MAIN = Source("http://mirror.example/debian", "bookworm", "Debian", "Debian")
UPDATES = Source("http://mirror.example/debian", "bookworm-updates", "Debian", "Debian")
SECURITY = Source(
    "http://mirror.example/debian-security", "bookworm-security", "Debian", "Debian-Security"
)
OTHER = Source("https://packages.example/apt", "stable", "Example", "Example")


def test_sources_are_those_of_the_machine_for_another_release() -> None:
    text = debian_sources([OTHER, MAIN, UPDATES, SECURITY], "trixie", None, KEYRING)
    main, security = text.split("\n\n")
    assert "URIs: http://mirror.example/debian\n" in main
    assert "Suites: trixie trixie-updates\n" in main
    assert "URIs: http://mirror.example/debian-security\n" in security
    assert "Suites: trixie-security\n" in security
    assert text.count(f"Signed-By: {KEYRING}\n") == 2
    assert "Example" not in text and "packages.example" not in text


def test_mirror_without_updates_or_security_is_asked_for_none() -> None:
    text = debian_sources([MAIN], "trixie", None, KEYRING)
    assert "Suites: trixie\n" in text and "security" not in text


def test_disc_that_the_machine_was_installed_from_is_no_mirror() -> None:
    disc = Source("cdrom://[Debian GNU/Linux 12]/", "bookworm", "Debian", "Debian")
    assert debian_sources([disc, MAIN], "trixie", None, KEYRING) == debian_sources(
        [MAIN], "trixie", None, KEYRING
    )
    with pytest.raises(LabError, match="no lists of a Debian mirror"):
        debian_sources([disc], "trixie", None, KEYRING)


def test_given_mirror_goes_first() -> None:
    text = debian_sources([], "trixie", "http://other.example/debian", KEYRING)
    assert "URIs: http://other.example/debian\n" in text


def test_machine_without_debian_is_told_what_to_do() -> None:
    with pytest.raises(LabError) as caught:
        debian_sources([OTHER], "trixie", None, KEYRING)
    assert "VMFERRY_LAB_MIRROR" in str(caught.value.hint)


def test_pins_of_the_named_libraries_keep_their_hashes() -> None:
    lock = (
        "# written\nalpha-beta==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "gamma==2.0 \\\n    --hash=sha256:cc\ndelta==3 ; python_version < '3.12' \\\n"
        "    --hash=sha256:dd\n"
    )
    assert pinned(lock, {"alpha-beta", "delta"}) == (
        "alpha-beta==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "delta==3 ; python_version < '3.12' \\\n    --hash=sha256:dd\n"
    )


def _image(payload: bytes) -> bytes:
    image = bytearray(5 * 512)
    image[0x1F1] = 4
    struct.pack_into("<II", image, 0x248, 100, len(payload))
    return bytes(image) + bytes(100) + payload + b"what follows"


@pytest.mark.parametrize(
    "payload",
    [
        gzip.compress(b"\x7fELF kernel"),
        lzma.compress(b"\x7fELF kernel") + b"size",
        zstandard.compress(b"\x7fELF kernel") + b"size",
        b"\x02\x21\x4c\x18 packed",
    ],
)
def test_kernel_is_taken_out_of_its_image(payload: bytes) -> None:
    def unpack_lz4(data: bytes) -> bytes:
        assert data == b"\x02\x21\x4c\x18 packed"
        return b"\x7fELF kernel"

    assert plain_kernel(_image(payload), unpack_lz4) == b"\x7fELF kernel"


@pytest.mark.parametrize(
    "image", [b"", bytes(100), _image(b"unknown"), _image(gzip.compress(b"no ELF")), bytes(9000)]
)
def test_image_that_is_no_kernel_is_refused(image: bytes) -> None:
    with pytest.raises(LabError, match="kernel"):
        plain_kernel(image, bytes)


def _line(folder: str, name: str, index: int, options: Options) -> list[str]:
    files = Files(Path(folder), Path(folder, "disk.qcow2"))
    link = link_between(Path(folder), index)
    image, payload = Image(Path("/cache/x")), Path(folder, "payload")
    return command_line(image, options, name, files, link=link, payload=payload, incoming=True)


@pytest.mark.parametrize("options", [Options(), Options(vtd=True, append="intel_iommu=on,sp_off")])
def test_hosts_differ_only_in_what_the_machine_inside_cannot_see(options: Options) -> None:
    """Else the state that was prepared for all of them would not fit."""
    backends = ("-drive", "-chardev", "-netdev", "-serial", "-qmp", "-name")
    first, second = (_line(f"/run/{n}", f"lab-{n}", i, options) for i, n in enumerate("ab"))
    assert len(first) == len(second)
    different = [
        first[at - 1] for at, (one, two) in enumerate(zip(first, second, strict=True)) if one != two
    ]
    assert set(different) <= set(backends)


def test_iommu_comes_before_the_devices_behind_it() -> None:
    devices = [word for word in _line("/run/a", "a", 0, Options(vtd=True)) if "," in word]
    first = next(at for at, word in enumerate(devices) if word.startswith("intel-iommu"))
    assert not any("-pci" in word or "e1000e" in word for word in devices[:first])


def test_link_is_limited_in_the_units_of_tc() -> None:
    assert "rate 500000000bit" in limit_script(62_500_000, 0.0)
    assert "delay 2000us" in limit_script(None, 0.002)
    assert limit_script(None, 0.0).startswith("tc qdisc del")
    for rate, delay in ((10, 0.0), (None, -1.0), (None, 60.0)):
        with pytest.raises(UsageError):
            limit_script(rate, delay)


def test_guest_has_the_queues_and_the_arguments_that_were_asked_for() -> None:
    words = ["start", "web", "--queues", "4", "--ip", "192.168.77.50/24", "--append=nopvspin"]
    line = guests.Guest("web").command(guests.parse([*words, "--", "-device", "virtio-scsi-pci"]))
    assert line[-2:] == ["-device", "virtio-scsi-pci"]
    assert any("queues=4" in word and "vhost=on" in word for word in line)
    assert any("mq=on,vectors=10" in word for word in line)
    append = line[line.index("-append") + 1]
    assert "nopvspin" in append and "lab.ip=192.168.77.50/24" in append


@pytest.mark.parametrize("name", ["", "a/b", "much-too-long", "dots.in.it", "elevenchars"])
def test_names_that_make_no_tap_are_refused(name: str) -> None:
    with pytest.raises(guests.GuestError):
        guests.Guest(name)


def test_builds_used_last_are_kept_beside_the_new_one() -> None:
    now = time.time()
    for name, used in (("a", 1), ("b", 4), ("c", 2), ("d", 3), ("new", 0), ("used", now)):
        folder = places.cache() / name
        folder.mkdir()
        (folder / "lab.json").touch()
        os.utime(folder, (used, used))
    images.forget_others(Image(places.cache() / "new"))
    assert sorted(path.name for path in places.cache().iterdir()) == ["b", "d", "new", "used"]
