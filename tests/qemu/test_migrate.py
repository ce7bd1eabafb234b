"""`vmferry migrate VM --to local`, as a user calls it: one guest, moved by every test."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench._bench_bare import PlainQmp
from tests.qemu.home import (
    PATIENCE,
    Home,
    ask,
    finish,
    lines_of,
    migration_settings,
    processes_of,
    until_stage,
)
from tests.qemu.test_launch import free_port
from vmferry.precopy.sample import Sample
from vmferry.precopy.trace import Note, Trace, read_trace

SPECIFICATION = """
[cpu]
count = 2
[memory]
size = "160MiB"
[boot]
kernel = "testguest"
[testguest]
working_set = "16MiB"
write_rate = "2MiB/s"
disk = "8MiB"
[[disk]]
path = "{disk}"
format = "qcow2"
[[nic]]
forward = [{{ host = {port}, guest = 7 }}]
[qemu]
accelerator = "tcg"
"""
# At this speed a busy guest writes more than the limit allows, in every pass.
TOO_SLOW = ("--bandwidth", "24MiB/s", "--downtime", "50ms")


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def shared(port: int) -> Iterator[Home]:
    with Home() as home:
        disk = home.folder / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
        home.run("web", SPECIFICATION.format(disk=disk, port=port))
        yield home
        home.call("stop", "web")


@pytest.fixture
def home(shared: Home) -> Iterator[Home]:
    """The home of the running VM; each test leaves one instance, with sound memory and disk."""
    yield shared
    instance = shared.instance("web")
    assert shared.instances() == [instance.folder.name]
    assert list(processes_of(shared)) == [instance.process]
    checked = shared.agent("web").verify()
    assert checked.ok, checked.bad[:5]
    assert checked.pages >= 4096
    assert checked.disk_blocks > 0


@pytest.fixture
def busy(home: Home) -> Iterator[Home]:
    """The guest writes as fast as it can."""
    home.agent("web").set(write_rate="unlimited")
    yield home
    home.agent("web").set(write_rate=2 * 2**20)


def settings(home: Home) -> tuple[dict[str, Any], dict[str, bool]]:
    return migration_settings(home.instance("web").files.observer_socket)


def read(path: Path) -> Trace:
    with path.open() as lines:
        return read_trace(lines, path.name)


def test_a_move_is_whole(home: Home, tmp_path: Path, port: int) -> None:
    source, before = home.instance("web"), settings(home)
    file = tmp_path / "run.jsonl"
    told = home.call("migrate", "web", "--to", "local", "--verify", "--trace", str(file)).stdout
    assert "web moved in " in told
    assert "none missing" in told
    assert "none lost" in told

    destination = home.instance("web")
    assert not source.alive()
    assert not source.folder.exists()
    assert destination.alive()
    assert destination.spec == source.spec
    (seen,) = home.records("status", "web")
    assert (seen["state"], seen["pid"], seen["busy"]) == ("running", destination.process.pid, None)
    assert settings(home) == before

    run = home.records("runs", "web")[-1]
    outcome = run["outcome"]
    assert (run["step"], outcome["status"], outcome["vm_runs_at"]) == (
        "done",
        "completed",
        "destination",
    )
    assert outcome["guest"]["missing_beats"] == 0
    assert (outcome["guest"]["verified"], outcome["guest"]["lost_pages"]) == (True, 0)
    check_sums(outcome, read(file))

    # The port answers: QEMU listens on it, whatever the guest behind it does.
    with socket.create_connection(("127.0.0.1", port), PATIENCE):
        pass


def check_sums(outcome: dict[str, Any], trace: Trace) -> None:
    """Passes add up to QEMU's own totals, to the page and to the byte."""
    last = [item for item in trace.items if isinstance(item, Sample)][-1]
    assert last.status == "completed"
    passes = outcome["passes"]
    assert [one["n"] for one in passes] == list(range(1, len(passes) + 1))
    assert sum(one["sent_bytes"] for one in passes) == last.transferred == outcome["bytes"]
    assert sum(one["zero_pages"] for one in passes) == last.zero_pages
    assert sum(one["sent_pages"] for one in passes) == last.normal_pages + last.zero_pages
    assert outcome["downtime_ms"] == last.downtime_ms
    stages = [item.value for item in trace.items if isinstance(item, Note) and item.kind == "stage"]
    handover = [
        "record the intent",
        "let the source switch over",
        "record that the source is dead",
        "start the destination",
        "record that the move is done",
        "end the source",
        "done",
    ]
    assert stages[-len(handover) :] == handover


def test_a_guest_whose_listener_died_while_it_stood_still_beats_in_the_next_move(
    home: Home,
) -> None:
    # QEMU holds a beat back then; one that moved along with the VM would break its virtio-serial
    # device where that QEMU lets go of it.
    instance = home.instance("web")
    qmp = PlainQmp(instance.files.observer_socket)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.connect(str(instance.files.heartbeat_socket))
        listener.recv(1)
        qmp.ask("stop")
    while not any(
        each["label"] == "heartbeat" and each["filename"].startswith("disconnected")
        for each in qmp.ask("query-chardev")
    ):
        time.sleep(0.01)
    qmp.ask("cont")
    held_back = "port 1, guest on, host on, throttle on"
    while held_back not in qmp.ask("human-monitor-command", **{"command-line": "info qtree"}):
        time.sleep(0.01)
    qmp.close()
    outcome = home.records("migrate", "web", "--to", "local", "--verify")[-1]
    assert (outcome["guest"]["missing_beats"], outcome["guest"]["verified"]) == (0, True)


def test_there_and_back_with_nothing_but_json(home: Home) -> None:
    seen = {home.instance("web").process}
    for _ in range(2):
        records = home.records("migrate", "web", "--to", "local", "--bandwidth", "64MiB/s")
        assert {record["event"] for record in records[:-1]} <= {"forecast", "progress"}
        assert {record["format"] for record in records} == {1}
        outcome = records[-1]
        assert (outcome["event"], outcome["status"]) == ("outcome", "completed")
        fractions = [one["fraction"] for one in records[:-1] if one["event"] == "progress"]
        assert fractions == sorted(fractions)
        seen.add(home.instance("web").process)
    assert len(seen) == 3


def test_the_deadline_abandons_what_cannot_converge(busy: Home) -> None:
    source, before = busy.instance("web"), settings(busy)
    *_, outcome = busy.records(
        *("migrate", "web", "--to", "local", *TOO_SLOW, "--deadline", "10s"), status=4
    )
    assert (outcome["status"], outcome["vm_runs_at"]) == ("abandoned", "source")
    reason, numbers = outcome["why"].split("\n", 1)
    assert reason == "the deadline of 10.0 s passed"
    assert "would not have converged" in numbers
    assert "50 ms at " in numbers
    assert "\n- a bandwidth cap of " in numbers
    assert busy.instance("web") == source
    assert settings(busy) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels(busy: Home, number: signal.Signals) -> None:
    source, before = busy.instance("web"), settings(busy)
    move = busy.start("migrate", "web", "--to", "local", *TOO_SLOW, "--json")
    until_stage(move, "passes")
    move.send_signal(number)
    done = finish(move, 4)
    assert "cancelling" in done.stderr
    outcome = lines_of(done.stdout)[-1]
    assert (outcome["status"], outcome["vm_runs_at"]) == ("cancelled", "source")
    assert "cancelled by the user" in outcome["why"]
    assert busy.instance("web") == source
    assert settings(busy) == before


def test_ctrl_c_before_the_first_pass_cancels(home: Home) -> None:
    source = home.instance("web")
    move = home.start("migrate", "web", "--to", "local", "--json")
    while len(home.instances()) == 1:
        assert move.poll() is None
        time.sleep(0.01)
    move.send_signal(signal.SIGINT)
    outcome = lines_of(finish(move, 4).stdout)[-1]
    assert (outcome["status"], outcome["vm_runs_at"]) == ("cancelled", "source")
    assert home.instance("web") == source


def test_the_classic_profile(busy: Home) -> None:
    move = busy.start("migrate", "web", "--to", "local", "--profile", "classic", "--json")
    until_stage(move, "passes")
    parameters, _ = settings(busy)
    assert (parameters["max-bandwidth"], parameters["downtime-limit"]) == (32 * 2**20, 300)
    move.send_signal(signal.SIGINT)
    finish(move, 4)


def test_of_two_moves_at_once_one_wins(home: Home) -> None:
    words = ("migrate", "web", "--to", "local", "--bandwidth", "16MiB/s", "--json")
    moves = [home.start(*words) for _ in range(2)]
    ends = sorted((move.communicate(), move.returncode) for move in moves)
    loser = next(said for said, status in ends if status != 0)
    assert sorted(status for _, status in ends) == [0, 3], ends
    assert "'web' is busy: migrate by process " in loser[1]
    (refused,) = lines_of(loser[0])
    assert (refused["event"], refused["status"]) == ("outcome", "refused")
    assert "is busy" in refused["why"]
    assert "Traceback" not in loser[1]


def test_a_paused_vm_moves_and_stays_paused(home: Home) -> None:
    ask(home.instance("web").files.observer_socket, "stop")
    *_, outcome = home.records("migrate", "web", "--to", "local", "--verify")
    assert (outcome["status"], outcome["vm_runs_at"]) == ("completed", "destination")
    assert outcome["guest"] is None
    assert "not verified" in outcome["why"]
    observer = home.instance("web").files.observer_socket
    (state,) = ask(observer, "query-status")
    assert state["status"] == "paused"
    ask(observer, "cont")


@pytest.mark.parametrize("command", ["stop", "cont"])
def test_a_vm_that_is_paused_or_resumed_while_it_moves_is_left_so(home: Home, command: str) -> None:
    observer = home.instance("web").files.observer_socket
    if command == "cont":
        ask(observer, "stop")
    move = home.start("migrate", "web", "--to", "local", "--bandwidth", "24MiB/s", "--json")
    until_stage(move, "passes")
    ask(observer, command)
    *_, outcome = lines_of(finish(move).stdout)
    assert (outcome["status"], outcome["vm_runs_at"]) == ("completed", "destination")
    observer = home.instance("web").files.observer_socket
    (state,) = ask(observer, "query-status")
    assert state["status"] == ("paused" if command == "stop" else "running")
    ask(observer, "cont")


def test_verify_means_a_test_guest_and_says_so(home: Home) -> None:
    # A VM of ours without a test guest has nothing to verify.
    disk = home.folder / "empty.raw"
    disk.write_bytes(bytes(2**20))
    home.run(
        "other", f'[memory]\nsize = "64MiB"\n[[disk]]\npath = "{disk}"\n[qemu]\naccelerator = "tcg"'
    )
    try:
        *_, outcome = home.records("migrate", "other", "--to", "local", "--verify")
        assert outcome["status"] == "completed"
        assert "not verified" in outcome["why"]
    finally:
        home.call("stop", "other", "--force")
