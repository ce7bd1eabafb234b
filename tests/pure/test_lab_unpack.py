"""Packages are unpacked, or it is said why not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab import debian
from lab.errors import LabError

_CONTROL = (
    "Package: big\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example>\nDescription: b\n"
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """One with more in it than a pipe holds."""
    root = tmp_path / "big"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(_CONTROL)
    (root / "data").write_bytes(bytes(4 * 2**20))
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", root, tmp_path / "big.deb"],
        check=True,
        capture_output=True,
    )
    return tmp_path / "big.deb"


def test_unpacked(package: Path, tmp_path: Path) -> None:
    debian.unpack([package], tmp_path / "root")
    assert (tmp_path / "root/data").stat().st_size == 4 * 2**20


@pytest.mark.timeout(30)
def test_unpacker_that_ends_early_is_told_and_not_waited_for(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "tar").write_text("#!/bin/sh\necho no >&2\nexit 2\n")
    (programs / "tar").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    with pytest.raises(LabError, match=r"cannot unpack big\.deb"):
        debian._unpack_one(package, tmp_path)
