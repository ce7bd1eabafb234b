"""Which process is meant: a pid that was taken over, a zombie and another boot are no match."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vmferry.host.process import ProcessId, boot_id
from vmferry.host.threads import thread_times

Child = subprocess.Popen[bytes]


@pytest.fixture
def child() -> Iterator[Child]:
    """A process that lives until it is killed."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


def zombie() -> Child:
    """A child that has ended and has not been waited for."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process


def test_it_is_alive_until_it_is_killed(child: Child) -> None:
    process = ProcessId.of(child.pid)
    assert process.alive() and not process.wait_dead(0)
    process.kill()
    assert process.wait_dead(60)
    assert not process.alive()
    assert child.wait() == -signal.SIGKILL


def test_it_survives_json(child: Child) -> None:
    process = ProcessId.of(child.pid)
    assert ProcessId.from_json(json.loads(json.dumps(process.to_json()))) == process


@pytest.mark.parametrize("other", [{"start_ticks": 1}, {"boot": "an earlier one"}])
def test_who_has_taken_its_pid_over_is_somebody_else(
    child: Child, other: dict[str, object]
) -> None:
    process = replace(ProcessId.of(child.pid), **other)  # type: ignore[arg-type]
    assert not process.alive()
    assert process.wait_dead(300)  # at once: it is dead
    process.kill()
    process.kill(signal.SIGTERM)
    assert child.poll() is None and ProcessId.of(child.pid).alive()


def test_a_pid_taken_over_between_the_look_and_the_signal_is_not_hit(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal goes to the process that was looked at, whoever has its number by then."""
    process = ProcessId.of(child.pid)
    looks, kill = ProcessId.alive, os.kill
    by_number: list[int] = []

    def look_and_lose(it: ProcessId) -> bool:
        """Says what was true a moment ago; by now the process is dead and its number free."""
        was = looks(it)
        kill(child.pid, signal.SIGKILL)
        child.wait()
        return was

    monkeypatch.setattr(ProcessId, "alive", look_and_lose)
    monkeypatch.setattr(os, "kill", lambda pid, sig: by_number.append(pid))
    process.kill()
    assert not by_number


def test_a_zombie_is_dead() -> None:
    process = zombie()
    with pytest.raises(ProcessLookupError):
        ProcessId.of(process.pid)
    process.wait()


def test_one_that_becomes_a_zombie_is_dead_before_anybody_waits_for_it(child: Child) -> None:
    process = ProcessId.of(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.alive() and process.wait_dead(300)
    process.kill()


def test_one_whose_first_thread_has_ended_lives_while_another_runs() -> None:
    program = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as started:
        process = ProcessId.of(started.pid)
        while "Z (zombie)" not in Path(f"/proc/{started.pid}/status").read_text():
            assert started.poll() is None
        assert process.alive()
        process.kill()
        assert process.wait_dead(10)


def test_a_stopped_process_lives(child: Child) -> None:
    process = ProcessId.of(child.pid)
    process.kill(signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    assert process.alive() and not process.wait_dead(0)
    process.kill()
    assert process.wait_dead(60)


def test_where_there_is_no_process() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(ProcessLookupError, match=str(ended.pid)):
        ProcessId.of(ended.pid)
    gone = ProcessId(ended.pid, 5, boot_id())
    assert not gone.alive() and gone.wait_dead(300) and gone.resident_bytes() is None
    gone.kill()


def test_a_grandchild_can_be_waited_for() -> None:
    """QEMU is no child of the command that recovers it."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess as s; print(s.Popen(['sleep', '300'], stdout=s.DEVNULL).pid)",
        ],
        stdout=subprocess.PIPE,
    )
    output, _ = parent.communicate()
    process = ProcessId.of(int(output))
    assert process.alive()
    process.kill()
    assert process.wait_dead(60)


@pytest.mark.parametrize("name", ["a b", "x) S 1 (y", "))((", "Z"])
def test_the_name_of_the_command_does_not_confuse_it(name: str, tmp_path: Path) -> None:
    command = tmp_path / name
    command.symlink_to("/bin/sleep")
    named = subprocess.Popen([command, "300"])
    try:
        process = ProcessId.of(named.pid)
        assert process.alive()
        assert 0 <= process.age() < ProcessId.of(os.getpid()).age() + 1
        assert process.start_ticks >= ProcessId.of(os.getpid()).start_ticks
    finally:
        named.kill()
        named.wait()


def test_what_it_has_in_memory() -> None:
    assert (ProcessId.of(os.getpid()).resident_bytes() or 0) > 1024 * 1024


def test_the_name_of_a_process_may_be_no_text() -> None:
    """QEMU takes it from `-name …,process=…`, and the kernel cuts it at 15 bytes."""
    rename = "open('/proc/self/comm', 'wb').write('verführerisché'.encode()[:15])"
    script = f"import sys, time; {rename}; print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            assert b"\xc3" in Path(f"/proc/{child.pid}/comm").read_bytes()
            assert ProcessId.of(child.pid).alive()
            assert [one.tid for one in thread_times(child.pid)] == [child.pid]
        finally:
            child.kill()
