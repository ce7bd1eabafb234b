"""`run`, `ls`, `status`, `console` and `stop`, as a user calls them, with real guests."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vmferry.host.paths import instances_dir, vms_dir
from vmferry.hypervisor.qemu.instance import Instance, list_instances
from vmferry.units import MIB
from vmferry.vm.lock import MoveLock

COMMAND = [sys.executable, "-c", "from vmferry.cli.main import main; main()"]
GUEST = """
[memory]
size = "192MiB"
[boot]
kernel = "testguest"
[testguest]
working_set = "{working_set}"
[qemu]
accelerator = "tcg"
"""
EMPTY = """
[memory]
size = "64MiB"
[[disk]]
path = "empty.raw"
[qemu]
accelerator = "tcg"
"""


def call(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def begin(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def records(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in call(*arguments, "--json").stdout.splitlines()]


def only_instance() -> Instance:
    (instance,) = list_instances()
    return instance


@pytest.fixture
def guest(tmp_path: Path) -> str:
    spec = tmp_path / "web.toml"
    spec.write_text(GUEST.format(working_set="16MiB"))
    return str(spec)


@pytest.fixture
def empty(tmp_path: Path) -> str:
    """A VM whose firmware finds nothing to boot: it runs, and hears no ACPI."""
    (tmp_path / "empty.raw").write_bytes(bytes(2**20))
    spec = tmp_path / "web.toml"
    spec.write_text(EMPTY)
    return str(spec)


def test_the_life_of_a_test_guest(guest: str) -> None:
    (started,) = records("run", guest)
    instance = only_instance()
    assert (started["event"], started["pid"]) == ("started", instance.process.pid)
    assert "vmferry-guest ready" in instance.files.console_log.read_text()

    (row,) = records("ls")
    (seen,) = records("status", "web")
    assert (row["name"], row["state"], row["pid"]) == ("web", "running", instance.process.pid)
    assert (seen["memory"], seen["accelerator"]) == (instance.spec.memory.size, "tcg")
    (outside,) = records("status", f"qmp:{instance.files.observer_socket}")
    assert (outside["name"], outside["pid"]) == ("web", instance.process.pid)
    assert (outside["memory"], outside["state"]) == (seen["memory"], "running")

    again = call("run", guest, status=2)
    assert f"VM 'web' already runs (process {instance.process.pid})" in again.stderr
    with MoveLock.acquire("web", "migrate"):
        assert f"migrate by process {os.getpid()}" in call("stop", "web", status=3).stderr
    assert instance.alive()

    call("stop", "web")
    assert not instance.alive()
    assert records("ls") == []
    assert list(vms_dir().iterdir()) == []


def test_of_two_runs_at_once_one_wins(guest: str) -> None:
    runs = [begin("run", guest) for _ in range(3)]
    ends = sorted((run.wait(), *run.communicate()[1:]) for run in runs)
    statuses = [status for status, _ in ends]
    assert statuses[0] == 0
    assert set(statuses[1:]) <= {2, 3}, ends
    assert only_instance().alive()
    call("stop", "web")


def test_a_killed_vm_is_shown_and_replaced(empty: str) -> None:
    call("run", empty)
    dead = only_instance()
    dead.process.kill()
    assert dead.process.wait_dead(10)
    (row,) = records("ls")
    assert (row["state"], row["pid"]) == ("crashed", None)
    assert "does not run" in call("console", "web", status=2).stderr
    call("run", empty)
    assert only_instance() != dead
    call("stop", "web", "--force")


def test_a_guest_that_hears_no_acpi_is_not_harmed(
    empty: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vmferry.cli import main
    from vmferry.hypervisor.qemu import lifecycle

    call("run", empty)
    monkeypatch.setattr(lifecycle, "POWERDOWN_SECONDS", 0.5)
    assert main.run_command(["stop", "web"]) == 5
    assert "`vmferry stop web --force`" in capsys.readouterr().err
    assert only_instance().alive()
    call("stop", "web", "--force")


def test_a_test_guest_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    spec = tmp_path / "web.toml"
    (tmp_path / "small.raw").write_bytes(bytes(MIB))
    small = '[[disk]]\npath = "small.raw"\nformat = "raw"\n'
    spec.write_text(GUEST.format(working_set='8MiB"\ndisk = "64MiB') + small)
    assert "the test guest says: " in call("run", str(spec), status=2).stderr
    assert list(instances_dir().iterdir()) == []
    assert list(vms_dir().iterdir()) == []


def test_what_a_killed_run_left_can_be_stopped(guest: str) -> None:
    run = begin("run", guest)
    while not list_instances():
        assert run.poll() is None
        time.sleep(0.01)
    run.kill()
    run.communicate()
    left = only_instance()
    (row,) = records("ls")
    assert "`vmferry stop web` ends it" in row["why"]
    assert "already runs" in call("run", guest, status=2).stderr
    call("stop", "web")
    assert not left.alive()


def test_ctrl_c_while_the_guest_boots_leaves_nothing(guest: str) -> None:
    run = begin("run", guest)
    while not list_instances():
        assert run.poll() is None
        time.sleep(0.01)
    # It stands still while we look: on a busy machine it would be up before.
    process = only_instance().process
    process.kill(signal.SIGSTOP)
    (row,) = records("ls")
    assert (row["name"], row["state"]) == ("web", "starting")
    process.kill(signal.SIGCONT)
    run.send_signal(signal.SIGINT)
    assert run.wait() == 130
    run.communicate()
    assert list(instances_dir().iterdir()) == []


def test_the_console_is_a_terminal_that_can_be_left(empty: str) -> None:
    call("run", empty)
    terminal, inside = pty.openpty()
    console = subprocess.Popen(
        [*COMMAND, "console", "web"], stdin=inside, stdout=inside, stderr=subprocess.PIPE
    )
    assert console.stderr is not None
    assert b"Ctrl-] leaves" in console.stderr.readline()
    lock = only_instance().folder / "console.lock"
    while not lock.exists():
        time.sleep(0.01)
    assert "somebody else is attached" in call("console", "web", status=2).stderr
    os.write(terminal, b"hello\x1d")
    assert console.wait() == 0
    console.communicate()
    os.close(terminal)
    os.close(inside)
    call("stop", "web", "--force")


def test_a_qmp_socket_that_somebody_holds_is_reported(empty: str) -> None:
    import socket

    call("run", empty)
    path = only_instance().files.control_socket
    with socket.socket(socket.AF_UNIX) as holder:
        holder.connect(str(path))
        assert b"QMP" in holder.recv(4096)
        told = call("status", f"qmp:{path}", status=2).stderr
        assert "does not greet" in told
        (seen,) = records("status", "web")
        assert seen["state"] == "running"
    call("stop", "web", "--force")
