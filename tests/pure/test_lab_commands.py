"""`./dev lab` without a lab, or asked for what cannot be: words and exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import lab as labs
from lab import places, record
from lab.machine import Options
from lab.record import Record
from tests.bystander import process_with
from vmferry.host.process import ProcessId


def _lab(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "lab", *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "a", "-c", "true"], "no lab is up"),
        (["shell", "a"], "no lab is up"),
        (["put", "a", "nothing"], "no lab is up"),
        (["link", "5Mb"], "may be bits or bytes"),
        (["link", "5Mbit", "delay"], "no lab is up"),
        (["link", "5Mbit", "2ms", "3ms"], "link RATE"),
        (["up", "--memory", "much"], "is not a size"),
        (["up", "--hosts", "3"], "invalid choice"),
        (["launch"], "invalid choice"),
        ([], "COMMAND"),
    ],
)
def test_what_is_wrong_is_told(words: list[str], told: str) -> None:
    done = _lab(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_down_of_nothing_is_fine() -> None:
    done = _lab("down")
    assert (done.returncode, done.stderr) == (0, "lab: no lab was up\n")


def test_status_of_nothing(own_folders: Path) -> None:
    done = _lab("status")
    assert done.returncode == 0
    assert done.stdout == "built: no\nno lab is up\n"


def _dead_process() -> ProcessId:
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = ProcessId.of(process.pid)
        process.kill()
    return identity


def _record(name: str, owner: ProcessId | None) -> Record:
    places.runtime(name).mkdir()
    places.state(name).mkdir()
    made = Record(name, Options(vtd=True), (_dead_process(),), ready=True, owner=owner)
    made.save()
    return made


def test_record_is_read_as_it_was_written() -> None:
    made = _record("lab", record.own_process())
    read = record.load("lab")
    assert read is not None
    assert read.options.to_json() == made.options.to_json()
    assert (read.hosts, read.ready, read.owner) == (made.hosts, made.ready, made.owner)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"name": 1}', "null"])
def test_damaged_record_is_told_and_down_removes_it(text: str) -> None:
    _record("lab", None)
    (places.runtime("lab") / "lab.json").write_text(text)
    done = _lab("status")
    assert done.returncode == 255
    assert "cannot be read" in done.stderr and "Traceback" not in done.stderr
    assert _lab("down").returncode == 0
    assert places.names() == []


def test_lab_of_a_dead_owner_is_swept_and_of_a_living_one_is_not() -> None:
    _record("own-1", _dead_process())
    _record("own-2", record.own_process())
    _record("lab", None)
    labs.sweep()
    assert places.names() == ["lab", "own-2"]


def _disks(name: str, *, age: float) -> Path:
    folder = places.state(name)
    folder.mkdir()
    (folder / "a.qcow2").touch()
    os.utime(folder, (time.time() - age, time.time() - age))
    return folder


def test_disks_whose_record_went_with_the_boot_are_swept() -> None:
    old, young = _disks("own-1", age=3600), _disks("own-2", age=1)
    common, used = _disks("lab", age=3600), _disks("own-3", age=3600)
    words = ["-name", "guest=x", f"file={used}/a.qcow2"]
    with process_with(*words):
        labs.sweep()
    assert [path.exists() for path in (old, young, common, used)] == [False, True, True, True]


def test_lab_whose_hosts_ended_says_so() -> None:
    _record("lab", None)
    assert "has ended" in _lab("status").stdout
    done = _lab("run", "a", "-c", "true")
    assert done.returncode == 255
    assert "Traceback" not in done.stderr
    assert json.loads((places.runtime("lab") / "lab.json").read_text())["format"] == 1
