"""Moves of a QEMU that vmferry did not start: `qmp:PATH` to where another one waits."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.qemu.home import Home, ask, migration_settings
from tests.qemu.test_launch import free_port
from tests.qemu.testguest_vm import GuestVm, wait_for

MEMORY = "163848k"


def guest(folder: Path, *arguments: str) -> GuestVm:
    """A QEMU with a test guest; `attach.sock` in its folder is the one that vmferry gets."""
    return GuestVm(
        folder,
        *("-qmp", f"unix:{folder}/attach.sock,server=on,wait=off", "-m", MEMORY, *arguments),
        working_set=16 * 2**20,
        write_rate=2 * 2**20,
    )


@contextlib.contextmanager
def held(folder: Path) -> Iterator[GuestVm]:
    """A QEMU that is neither started nor waits for a VM."""
    vm = guest(folder, "-S")
    process = subprocess.Popen(vm.command, stdin=subprocess.DEVNULL)
    vm.process = process
    try:
        wait_for("socket", (folder / "attach.sock").exists, vm)
        yield vm
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


@pytest.fixture(scope="module")
def shared(home: Home) -> Iterator[GuestVm]:
    with guest(home.folder / "shared") as vm:
        # As somebody may have set it for moves of their own.
        vm.ask("migrate-set-parameters", **{"downtime-limit": 1234, "max-bandwidth": 5 * 2**20})
        xbzrle = {"capability": "xbzrle", "state": True}
        vm.ask("migrate-set-capabilities", capabilities=[xbzrle])
        yield vm


@pytest.fixture
def source(shared: GuestVm) -> Iterator[GuestVm]:
    """A guest that no test may move away or change."""
    before = settings(shared)
    yield shared
    assert shared.ask("query-status")["status"] == "running"
    assert shared.agent.verify().ok
    assert settings(shared) == before


def settings(vm: GuestVm) -> object:
    return vm.ask("query-migrate-parameters"), vm.ask("query-migrate-capabilities")


def name(vm: GuestVm) -> str:
    return f"qmp:{vm.folder}/attach.sock"


def test_to_a_unix_socket_and_its_qmp(home: Home) -> None:
    place = home.folder / "incoming.sock"
    with (
        guest(home.folder / "from") as source,
        guest(home.folder / "to", "-incoming", f"unix:{place}") as destination,
    ):
        expected = settings(destination)
        *progress, outcome = home.records(
            *("migrate", name(source), "--to", f"unix:{place}"),
            *("--to-qmp", f"{destination.folder}/attach.sock", "--bandwidth", "64MiB/s"),
        )
        assert (outcome["status"], outcome["vm_runs_at"]) == ("completed", "destination")
        assert (outcome["vm"], outcome["why"]) == (name(source), "")
        # Nobody listens to this guest's heartbeats, and its QEMU does not name its threads.
        assert outcome["guest"] is None
        assert outcome["cost"]["migration_cpu_seconds"] is None
        assert progress
        assert source.process.wait() == 0
        assert destination.ask("query-status")["status"] == "running"
        assert destination.agent.verify().ok
        assert settings(destination) == expected


def test_to_a_destination_that_cannot_be_seen(home: Home) -> None:
    port = free_port()
    with (
        guest(home.folder / "here") as source,
        guest(home.folder / "there", "-incoming", f"tcp:127.0.0.1:{port}") as destination,
    ):
        done = home.call("migrate", name(source), "--to", f"tcp:127.0.0.1:{port}")
        assert "the destination cannot be seen, as there is no --to-qmp" in done.stdout
        assert source.process.wait() == 0
        assert destination.ask("query-status")["status"] == "running"
        assert destination.agent.verify().ok


def test_an_abandoned_move_puts_every_setting_back(home: Home, source: GuestVm) -> None:
    place = home.folder / "abandoned.sock"
    with guest(home.folder / "waiting", "-incoming", f"unix:{place}") as destination:
        *_, outcome = home.records(
            *("migrate", name(source), "--to", f"unix:{place}"),
            *("--to-qmp", f"{destination.folder}/attach.sock"),
            *("--bandwidth", "4MiB/s", "--deadline", "2s"),
            status=4,
        )
    assert (outcome["status"], outcome["vm_runs_at"]) == ("abandoned", "source")
    assert outcome["why"].startswith("the deadline of 2.0 s passed")


def test_a_migration_of_somebody_else_is_left_alone(home: Home, source: GuestVm) -> None:
    source.ask("migrate", uri="exec:cat >/dev/null")
    try:
        done = home.call("migrate", name(source), "--to", "tcp:127.0.0.1:9", status=3)
        assert "a migration of " in done.stderr
        assert "that somebody else has begun is " in done.stderr
        assert source.ask("query-migrate")["status"] in ("setup", "active")
    finally:
        source.ask("migrate_cancel")
        wait_for(
            "end of the migration",
            lambda: source.ask("query-migrate")["status"] == "cancelled",
            source,
        )


def test_who_holds_the_socket_is_named(home: Home, source: GuestVm) -> None:
    holder = socket.socket(socket.AF_UNIX)
    holder.connect(f"{source.folder}/attach.sock")
    assert b"QMP" in holder.recv(4096)
    with subprocess.Popen(["sleep", "1000"], stdin=holder.fileno()) as other:
        holder.close()
        try:
            done = home.call("migrate", name(source), "--to", "tcp:127.0.0.1:9", status=3)
        finally:
            other.kill()
    assert f"held by sleep (process {other.pid})" in done.stderr


def test_a_vm_of_libvirt_is_refused(home: Home) -> None:
    folder = home.folder / "libvirt" / "qemu"
    folder.mkdir(parents=True)
    monitor, link = folder / "monitor.sock", home.folder / "link.sock"
    link.symlink_to(monitor)
    with socket.socket(socket.AF_UNIX) as libvirt:
        libvirt.bind(str(monitor))
        libvirt.listen()
        libvirt.setblocking(False)
        for path in (monitor, link):
            done = home.call("migrate", f"qmp:{path}", "--to", "tcp:127.0.0.1:9", status=2)
            assert "is the socket of a VM that libvirt manages" in done.stderr
        with pytest.raises(BlockingIOError):
            libvirt.accept()


def test_nothing_like_it_can_be_started_here(home: Home, source: GuestVm) -> None:
    done = home.call("migrate", name(source), "--to", "local", status=2)
    assert "was not started by vmferry" in done.stderr
    assert "--to unix:PATH" in done.stderr


def test_a_qemu_that_does_not_wait_is_no_destination(home: Home, source: GuestVm) -> None:
    with held(home.folder / "held") as other:
        attach = other.folder / "attach.sock"
        before = migration_settings(attach)
        done = home.call(
            *("migrate", name(source), "--to", "unix:/nonexistent", "--to-qmp", str(attach)),
            status=3,
        )
        assert "does not wait for a VM: it is prelaunch" in done.stderr
        assert migration_settings(attach) == before
        assert ask(attach, "query-status")[0]["status"] == "prelaunch"


def test_the_vm_itself_is_no_destination(home: Home, source: GuestVm) -> None:
    attach = f"{source.folder}/attach.sock"
    done = home.call(
        *("migrate", name(source), "--to", "unix:/nonexistent", "--to-qmp", attach), status=2
    )
    assert "--to-qmp names the VM itself" in done.stderr


def test_a_destination_that_does_not_fit(home: Home, source: GuestVm) -> None:
    place = home.folder / "misfit.sock"
    with guest(
        home.folder / "misfit", "-incoming", f"unix:{place}", "-m", "131080k"
    ) as destination:
        to_qmp = ("--to-qmp", f"{destination.folder}/attach.sock")
        words = ("migrate", name(source), "--to", f"unix:{place}", *to_qmp)
        (refused,) = home.records(*words, status=3)
        assert (refused["status"], refused["vm_runs_at"]) == ("refused", "source")
        assert "memory-size: RAM is " in refused["why"]
        assert "ram-blocks: the destination has pc.ram in another size" in refused["why"]
        assert destination.ask("query-status")["status"] == "inmigrate"
        forced = ("--force", "memory-size", "--force", "ram-blocks")
        *_, outcome = home.records(*words, *forced, status=5)
    assert (outcome["status"], outcome["vm_runs_at"]) == ("failed", "source")
    assert "Size mismatch: pc.ram" in outcome["why"]


def test_a_vm_of_vmferry_goes_by_its_name(home: Home) -> None:
    disk = home.folder / "empty.raw"
    disk.write_bytes(bytes(2**20))
    home.run(
        "web", f'[memory]\nsize = "64MiB"\n[[disk]]\npath = "{disk}"\n[qemu]\naccelerator = "tcg"'
    )
    try:
        path = home.instance("web").files.observer_socket
        done = home.call("migrate", f"qmp:{path}", "--to", "tcp:127.0.0.1:9", status=2)
        assert "'web'" in done.stderr
    finally:
        home.call("stop", "web", "--force")
