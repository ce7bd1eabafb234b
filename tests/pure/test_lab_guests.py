"""`labguest`: which guests there are, and that no two have one address."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.inside import guests
from tests.bystander import process_with


def test_only_guests_that_run_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guests, "FOLDER", tmp_path)
    folders = [tmp_path / name for name in ("runs", "ended", "run")]
    with process_with(f"{folders[0]}/qmp.sock") as running:
        for folder, pid in zip(folders, (running, 2**22 + 1, running), strict=True):
            folder.mkdir()
            (folder / "pid").write_text(str(pid))
        assert guests.main(["list"]) == 0
    assert capsys.readouterr().out == "runs\n"


@pytest.mark.parametrize(("one", "other"), [("g1001", "g2000"), ("abcd", "dbca")])
def test_no_two_names_have_one_address(one: str, other: str) -> None:
    lines = [
        guests.Guest(name).command(guests.parse(["start", name, "--queues", "1"]))
        for name in (one, other)
    ]
    cards = [word for line in lines for word in line if word.startswith("virtio-net-pci")]
    assert len(set(cards)) == 2
