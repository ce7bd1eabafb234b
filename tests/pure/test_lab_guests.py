"""`labguest`: which guests there are, and that no two have one address."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.inside import guests


def test_only_guests_that_run_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guests, "FOLDER", tmp_path)
    folders = [tmp_path / name for name in ("runs", "ended", "run")]
    words = [sys.executable, "-c", "input()", f"{folders[0]}/qmp.sock"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as one:
        for folder, pid in zip(folders, (one.pid, 2**22 + 1, one.pid), strict=True):
            folder.mkdir()
            (folder / "pid").write_text(str(pid))
        assert guests.main(["list"]) == 0
        one.communicate(b"\n")
    assert capsys.readouterr().out == "runs\n"


@pytest.mark.parametrize(("one", "other"), [("g1001", "g2000"), ("abcd", "dbca")])
def test_no_two_names_have_one_address(one: str, other: str) -> None:
    lines = [
        guests.Guest(name).command(guests.parse(["start", name, "--queues", "1"]))
        for name in (one, other)
    ]
    cards = [word for line in lines for word in line if word.startswith("virtio-net-pci")]
    assert len(set(cards)) == 2
