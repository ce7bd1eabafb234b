"""What hosts get of a checkout: kept, shared and swept without harm to other commands."""

from __future__ import annotations

import os
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import image as images
from lab import payload, places, python_parts
from lab.image import Image
from lab.tools import Toolbox
from vmferry.testguest.build import GuestImage


class Packer:
    """Stands in for what needs a built lab; tells how often it was asked, and may be held up."""

    def __init__(self) -> None:
        self.times = 0
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def install_code(self, root: Path, _: Toolbox) -> None:
        self.times += 1
        self.asked.set()
        images._sweep()  # as another command does that begins a build now
        assert self.go_on.wait(20)
        assert root.is_dir()
        (root / python_parts.CODE).mkdir(parents=True)
        (root / python_parts.CODE / "code.py").write_text("code")


@pytest.fixture
def packer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packer:
    guest = tmp_path / "guest"
    guest.mkdir()
    (guest / "kernel").touch()
    built = GuestImage(guest / "kernel", guest / "initrd", "6.1")
    packer = Packer()
    monkeypatch.setattr("lab.payload.testguest.build", lambda: built)
    monkeypatch.setattr(python_parts, "install_code", packer.install_code)
    return packer


def make() -> Path:
    return payload.make(Image(places.cache() / "image"), lambda _: None)


def test_is_made_once_and_a_build_beside_it_does_no_harm(packer: Packer) -> None:
    with tarfile.open(make()) as archive:
        assert f"{python_parts.CODE}/code.py" in archive.getnames()
    make()
    assert packer.times == 1


def test_who_waits_for_the_same_one_does_not_make_it_again(packer: Packer) -> None:
    packer.go_on.clear()
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(make) for _ in range(2)]
        assert packer.asked.wait(20)
        packer.go_on.set()
        assert both[0].result() == both[1].result()
    assert packer.times == 1


@pytest.mark.usefixtures("packer")
def test_those_of_other_checkouts_stay_for_a_while() -> None:
    """A host that is being started may not have it yet."""
    others = [places.cache() / f"vmferry-{number}.tar" for number in range(12)]
    for number, other in enumerate(others):
        other.touch()
        os.utime(other, (number, number))
    left = places.cache() / "packing-killed"
    left.mkdir()
    make()
    assert others[-1].exists() and not others[0].exists() and not left.exists()
    assert len(list(places.cache().glob("vmferry-*.tar"))) == payload._KEPT
