"""`./dev lab` as a user has it: up, again, run, down; interrupted; nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import process
from vmferry.host import paths

pytestmark = pytest.mark.timeout(1200)

COMMAND = (sys.executable, "-P", "-m", "lab")


def _lab(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], input=stdin, capture_output=True, text=True)


def _left() -> list[str]:
    """What a lab left: processes, and files but for locks."""
    folder = paths.runtime_dir() / "labs"
    found = [str(one) for one in process.of_folder(folder)]
    for root in (folder, paths.state_dir() / "labs"):
        found += [str(path) for path in root.rglob("*") if not path.name.startswith(".")]
    return found


def test_a_lab_from_up_to_down(tmp_path: Path) -> None:
    up = _lab("up")
    assert up.returncode == 0, up.stderr
    again = _lab("up")
    assert again.returncode == 0 and "up already" in again.stderr
    other = _lab("up", "--hosts", "2")
    assert other.returncode == 2 and "other options" in other.stderr

    done = _lab("run", "a", "-c", "cat; echo no >&2; exit 41", stdin="from here")
    assert (done.returncode, done.stdout, done.stderr) == (41, "from here", "no\n")
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/env python3\nimport sys\nprint(sys.argv[1:])\n")
    assert _lab("run", "a", str(script), "x", "-y").stdout == "['x', '-y']\n"
    assert _lab("run", "a", "-", stdin="echo $((6 * 7))").stdout == "42\n"
    late = _lab("run", "--timeout", "1s", "a", "-c", "sleep 100")
    assert late.returncode == 124 and "ended after" in late.stderr
    assert "no host 'b'" in _lab("run", "b", "-c", "true").stderr

    status = _lab("status").stdout
    assert "192.168.77.11" in status and "up for" in status
    for path in (paths.runtime_dir() / "labs" / "lab" / "a").glob("*.sock"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert _lab("down").returncode == 0
    assert _left() == []
    assert _lab("down").returncode == 0
    assert "no lab is up" in _lab("run", "a", "-c", "true").stderr


@pytest.mark.parametrize("seconds", [1.0, 2.0])
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_up_leaves_nothing(seconds: float, sig: signal.Signals) -> None:
    assert _lab("build").returncode == 0
    with subprocess.Popen([*COMMAND, "up"], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as up:
        time.sleep(seconds)
        up.send_signal(sig)
        told, _ = up.communicate()
    # It may have been faster than the signal.
    if told:
        assert _lab("down").returncode == 0
    else:
        assert up.returncode == 130
    assert _left() == []


def test_killed_up_is_cleared_by_the_next_command() -> None:
    assert _lab("build").returncode == 0
    with subprocess.Popen([*COMMAND, "up"], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as up:
        while not _left() and up.poll() is None:
            time.sleep(0.05)
        os.kill(up.pid, signal.SIGKILL)
        up.communicate()
    assert _lab("down").returncode == 0
    assert _left() == []


def test_dead_host_is_told_and_up_starts_another() -> None:
    assert _lab("up").returncode == 0
    for one in process.of_folder(paths.runtime_dir() / "labs"):
        one.kill()
        one.wait_dead(10.0)
    assert "has ended" in _lab("status").stdout
    dead = _lab("run", "a", "-c", "true")
    assert dead.returncode == 255 and "host a has ended" in dead.stderr
    assert _lab("up").returncode == 0
    assert _lab("run", "a", "-c", "echo well").stdout == "well\n"
    assert _lab("down").returncode == 0
    assert _left() == []
