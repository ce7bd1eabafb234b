"""The page writer in a real guest: its rate, its settings, and that verification can fail."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.qemu.testguest_vm import GuestVm, wait_for
from vmferry.testguest.agent import AgentError, BadPage
from vmferry.testguest.beats import Beats
from vmferry.testguest.heartbeat import HeartbeatReader
from vmferry.testguest.settings import PageWriterSettings

MIB = 1024**2


BASE = PageWriterSettings.model_validate(
    {"working_set": "16MiB", "write_rate": "8MiB/s", "cold": "3MiB", "untouched": "5MiB"}
)


@pytest.fixture(scope="module")
def shared_guest() -> Iterator[GuestVm]:
    with (
        tempfile.TemporaryDirectory(prefix="vf-", dir="/tmp") as folder,
        GuestVm(Path(folder) / "vm", **BASE.wire()) as vm,
    ):
        yield vm


@pytest.fixture
def guest(shared_guest: GuestVm) -> GuestVm:
    """A small writer at 8 MiB/s with cold and untouched pages, all of them newly stamped."""
    shared_guest.agent.set(working_set=0)
    shared_guest.agent.set(**BASE.wire())
    shared_guest.agent.verify()  # forgets the faults that the last test met
    return shared_guest


def beats_during(vm: GuestVm, guest_seconds: float) -> Beats:
    reader = HeartbeatReader(vm.heartbeat, "source")
    reader.start()
    try:
        vm.guest_seconds_pass(guest_seconds)
    finally:
        reader.stop()
    return reader.beats()


def rates(beats: Beats, window: float) -> list[float]:
    """Bytes dirtied per second of the guest's clock, in windows of so many seconds of it."""
    seconds = (beats.guest_ns - beats.guest_ns[0]) / 1e9
    edges = np.arange(0, seconds[-1], window)
    work = np.interp(edges, seconds, beats.work - beats.work[0])
    return [float(rate) for rate in np.diff(work) * 4096 / window]


def test_every_page_is_verified_after_the_guest_ran(guest: GuestVm) -> None:
    guest.guest_seconds_pass(1)
    verification = guest.agent.verify()
    assert verification.ok
    assert verification.pages == (16 + 3 + 5) * MIB // 4096
    assert guest.agent.status()["pages_written"] > 0


def test_the_command_line_sets_every_setting(own_folders: Path) -> None:
    wanted = {
        "working_set": 4 * MIB,
        "write_rate": "unlimited",
        "hot_writes": 90,
        "hot_pages": 10,
        "order": "sequential",
        "content": "text",
        "threads": 3,
        "read_share": 20,
        "phases": "busy:0.5,idle:2",
        "cold": MIB,
        "untouched": 2 * MIB,
        "disk_rate": "2MiB/s",
    }
    with GuestVm(own_folders / "vm", **wanted) as vm:
        assert vm.agent.settings() == PageWriterSettings.model_validate(wanted)


@pytest.mark.parametrize("rate", [2 * MIB, 16 * MIB, 64 * MIB])
def test_the_rate_is_kept(guest: GuestVm, rate: int) -> None:
    guest.agent.set(write_rate=rate, threads=2)
    reader = HeartbeatReader(guest.heartbeat, "source")
    reader.start()
    try:
        guest.guest_seconds_pass(3)
        # A busy host takes time from the guest, which is not caught up: wait for a second that
        # it had to itself.
        wait_for("rate", lambda: max(rates(reader.beats(), 1)) > 0.98 * rate, guest)
    finally:
        reader.stop()
    assert max(rates(reader.beats(), 1)) < 1.02 * rate


def test_zero_stops_the_writer_and_unlimited_is_fastest(guest: GuestVm) -> None:
    guest.agent.set(write_rate=0)
    still = beats_during(guest, 0.5)
    assert still.work[0] == still.work[-1]
    guest.agent.set(write_rate="unlimited")
    assert max(rates(beats_during(guest, 1), 0.2)) > 64 * MIB
    assert guest.agent.verify().ok


def test_phases_alternate(guest: GuestVm) -> None:
    guest.agent.set(phases="busy:1,idle:1")
    beats = beats_during(guest, 5)
    # Where the work counter changes; between two changes lies a quiet time.
    changes = beats.guest_ns[np.flatnonzero(np.diff(beats.work))]
    quiet = np.diff(changes) / 1e9
    assert (quiet > 0.9).sum() >= 2
    seconds = (beats.guest_ns[-1] - beats.guest_ns[0]) / 1e9
    share = (beats.work[-1] - beats.work[0]) * 4096 / seconds / (8 * MIB)
    assert 0.2 < share < 0.7


@pytest.mark.parametrize("content", ["random", "one-word", "text", "same"])
@pytest.mark.parametrize("order", ["random", "sequential"])
def test_pages_stay_right_whatever_is_written(guest: GuestVm, content: str, order: str) -> None:
    before = guest.agent.status()
    guest.agent.set(
        content=content,
        order=order,
        threads=2,
        read_share=30,
        hot_writes=80,
        hot_pages=20,
        write_rate="unlimited",
    )
    guest.guest_seconds_pass(0.5)
    assert guest.agent.verify().ok
    after = guest.agent.status()
    assert after["pages_written"] > before["pages_written"] + 4096
    reads, writes = (after[key] - before[key] for key in ("pages_read", "pages_written"))
    assert reads / (reads + writes) == pytest.approx(0.3, abs=0.05)


def test_areas_grow_and_shrink_while_it_runs(guest: GuestVm) -> None:
    for size in (40 * MIB, 6 * MIB + 4096, 7 * MIB, 0, 20 * MIB):
        guest.agent.set(working_set=size, cold=size // 2 // 4096 * 4096, untouched="1MiB")
        verification = guest.agent.verify()
        assert verification.ok, verification.bad[:3]
        assert verification.pages == size // 4096 + size // 2 // 4096 + 256


def test_what_cannot_be_set_is_refused_and_changes_nothing(guest: GuestVm) -> None:
    before = guest.agent.settings()
    for changes, complaint in (
        ({"write_rate": "fast"}, "'fast' is not a rate"),
        ({"hot_writes": 50}, "hot_writes and hot_pages"),
        ({"working_set": "64GiB"}, "do not fit"),
        ({"disk": "1MiB"}, "no disk"),
        ({"colour": "red"}, "colour"),
    ):
        with pytest.raises(AgentError, match=complaint):
            guest.agent.set(**changes)
    assert guest.agent.settings() == before
    assert guest.agent.verify().ok


def test_a_load_too_big_for_the_guest_is_told(own_folders: Path) -> None:
    vm = GuestVm(own_folders / "vm", working_set="1GiB")
    vm.ready = lambda: "vmferry-guest error" in vm.said()  # type: ignore[method-assign]
    with vm:
        assert "do not fit" in vm.said()
        assert "do not fit" in vm.agent.status()["trouble"]


def test_most_of_the_memory_can_be_the_writers(own_folders: Path) -> None:
    with GuestVm(own_folders / "vm", working_set="174MiB", write_rate="unlimited", threads=2) as vm:
        vm.guest_seconds_pass(1)
        assert vm.agent.verify().ok
        vm.agent.set(working_set="4MiB", cold="170MiB")
        assert vm.agent.verify().ok


@pytest.mark.parametrize("kind", ["torn", "stale", "lost"])
def test_a_spoilt_page_is_named(guest: GuestVm, kind: Literal["torn", "stale", "lost"]) -> None:
    guest.agent.set(write_rate=0)
    guest.agent.corrupt(1234, kind)
    verification = guest.agent.verify()
    assert not verification.ok
    assert [(bad.area, bad.page, bad.kind) for bad in verification.bad] == [
        ("working_set", 1234, kind)
    ]
    (bad,) = verification.bad
    if kind == "stale":
        assert bad.seen == bad.expected - 1
    assert "page 1234" in str(bad)


@pytest.mark.parametrize("kind", ["stale", "lost"])
def test_a_bad_page_is_remembered_when_it_is_written_over(
    guest: GuestVm, kind: Literal["stale", "lost"]
) -> None:
    guest.agent.set(write_rate=0)
    guest.agent.corrupt(77, kind)
    guest.agent.set(write_rate="unlimited", working_set="2MiB")
    wait_for("fault", lambda: guest.agent.status()["faults"] > 0, guest)
    assert [(bad.page, bad.kind) for bad in guest.agent.verify().bad] == [(77, kind)]
    assert guest.agent.verify().ok  # healed, and told once


def test_disk_blocks_are_written_and_verified(own_folders: Path) -> None:
    image = own_folders / "disk.raw"
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    drive = ("-drive", f"if=none,id=d,file={image},format=raw", "-device", "virtio-blk-pci,drive=d")
    with GuestVm(own_folders / "vm", *drive, disk="1MiB", disk_rate="unlimited") as vm:
        wait_for("block", lambda: vm.agent.status()["disk_blocks_written"] > 300, vm)
        verification = vm.agent.verify()
        assert verification.ok
        assert 0 < verification.disk_blocks <= 256

        vm.agent.set(disk_rate=0)
        with image.open("r+b") as file:
            stamped = [n for n in range(256) if os.pread(file.fileno(), 8, n * 4096) != bytes(8)]
            block = stamped[5]
            os.pwrite(file.fileno(), b"not ours", block * 4096 + 2000)
        verification = vm.agent.verify()
        assert [(b.area, b.page, b.kind) for b in verification.bad] == [("disk", block, "torn")]
        with pytest.raises(AgentError, match="only 8388608 bytes"):
            vm.agent.set(disk="9MiB")
    image.unlink()


def ask_raw(vm: GuestVm, text: bytes) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(vm.folder / "agent.sock"))
        connection.sendall(text)
        answer = b""
        while not answer.endswith(b"\n"):
            answer += connection.recv(4096)
    return dict(json.loads(answer))


def test_requests_that_make_no_sense_get_an_error(guest: GuestVm) -> None:
    for text in (
        b"hello\n",
        b"{\n",
        b'{"do":1,"do"}\n',
        b'{"do":"fly"}\n',
        b'{"do":"set","write_rate":-1}\n',
        b'{"do":"set","threads":1.5}\n',
        b'{"do":"set","phases":"busy:x"}\n',
        b'{"do":"corrupt","page":1,"kind":"odd"}\n',
        b'{"a":"' + b"x" * 9000 + b'"}\n',
    ):
        answer = ask_raw(guest, text)
        assert answer["ok"] is False and answer["error"], text
    guest.agent.ping()


def test_a_client_that_goes_away_does_not_disturb_the_next(guest: GuestVm) -> None:
    for text in (b'{"do":"stat', b'{"do":"verify"}\n', b"\n\n", b'"'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(guest.folder / "agent.sock"))
            connection.sendall(text)
        assert guest.agent.status()["faults"] == 0


def test_bad_page_reads_well() -> None:
    bad = BadPage("disk", 7, "stale", 3, 4)
    assert str(bad) == "disk block 7: stale (sequence 3, expected 4)"


def test_two_builders_at_once_make_one_image(tmp_path: Path) -> None:
    program = "from vmferry.testguest.build import build; print(build().kernel)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    kernels = {builder.communicate()[0].strip() for builder in builders}
    assert [builder.returncode for builder in builders] == [0, 0]
    (kernel,) = kernels
    assert {file.name for file in Path(kernel).parent.iterdir()} == {
        "vmlinuz",
        "initrd",
        "image.json",
    }
    left = {path.name for path in Path(kernel).parent.parent.iterdir()}
    assert left == {"lock", Path(kernel).parent.name}
    # A cached one needs no tool at all.
    again = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.strip() == kernel


def test_a_missing_tool_is_named_with_its_package(tmp_path: Path) -> None:
    program = "from vmferry.testguest.build import build; build()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "BuildError: the test guest cannot be built: there is no apt-cache" in done.stderr
