"""Where things are kept, and which process is meant."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vmferry.errors import UsageError
from vmferry.host.files import link_in_one_step, write_in_one_step
from vmferry.host.paths import instances_dir, runtime_dir, state_dir
from vmferry.host.process import ProcessId


def test_folders_are_ours_alone(own_folders: Path, tmp_path: Path) -> None:
    (own_folders / "vmferry").mkdir(mode=0o755)
    assert instances_dir() == own_folders / "vmferry" / "instances"
    assert state_dir() == tmp_path / "state" / "vmferry"
    for folder in (runtime_dir(), instances_dir(), state_dir()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_planted_link_is_refused(own_folders: Path, tmp_path: Path) -> None:
    (own_folders / "vmferry").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="belongs to somebody else"):
        runtime_dir()


def test_a_relative_xdg_path_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_dir() == tmp_path / ".local" / "state" / "vmferry"


def test_a_folder_that_cannot_be_made_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot make the folder"):
        state_dir()


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_in_one_step(file, "old")
    with file.open() as reader:
        write_in_one_step(file, "new")
        assert reader.read() == "old"
    assert file.read_text() == "new"
    link_in_one_step(tmp_path / "link", file)
    link_in_one_step(tmp_path / "link", tmp_path)
    assert (tmp_path / "link").readlink() == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "record.json"]


def test_a_process_is_known_by_pid_and_start() -> None:
    me = ProcessId.of(os.getpid())
    assert me.alive()
    assert ProcessId.from_json(me.to_json()) == me
    for other in (
        ProcessId(me.pid, me.start_ticks - 1, me.boot),
        ProcessId(me.pid, me.start_ticks, "another boot"),
    ):
        assert not other.alive()
        other.kill()
        assert other.wait_dead(0)
    assert not me.wait_dead(0)
    assert me.age() > 0
    assert (me.resident_bytes() or 0) > 2**20
