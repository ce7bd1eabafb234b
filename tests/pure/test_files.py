"""Files that are replaced in one step, also where a writer is killed in the middle of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vmferry.host.files import link_in_one_step, write_in_one_step

# Killed when the draft is written and not yet in place.
KILLED = """
import os, signal, sys
from pathlib import Path
from vmferry.host import files
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
files.write_in_one_step(Path(sys.argv[1]), "half")
"""


def test_the_next_write_takes_away_what_a_killed_one_left(tmp_path: Path) -> None:
    file = tmp_path / "lock.json"
    write_in_one_step(file, "before")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert killed.returncode == -9
    assert file.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2
    write_in_one_step(file, "after")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["after"]


def test_a_link_is_replaced_whatever_lies_in_the_way_of_its_draft(tmp_path: Path) -> None:
    link = tmp_path / "current"
    link_in_one_step(link, tmp_path / "one")
    (tmp_path / ".current.draft").symlink_to(tmp_path / "left")
    link_in_one_step(link, tmp_path / "two")
    assert link.readlink() == tmp_path / "two"
    assert list(tmp_path.iterdir()) == [link]
