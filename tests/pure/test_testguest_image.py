"""The archive and the module order of the test guest's RAM disk."""

from __future__ import annotations

import lzma
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.testguest import build as builder
from vmferry.testguest import cpio
from vmferry.testguest.modules import ModuleTree
from vmferry.testguest.packages import BuildError

NAMES = st.text("abcxyz-_.", min_size=1, max_size=9).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def read(archive: bytes) -> list[tuple[str, int, bytes]]:
    """Path, mode and data of each entry, by the format's own description."""
    entries: list[tuple[str, int, bytes]] = []
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        data_at = (at + 110 + name_size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert archive[data_at:].strip(b"\0") == b""
            return entries
        entries.append((name[:-1].decode(), fields[1], archive[data_at : data_at + size]))
        at = (data_at + size + 3) // 4 * 4


@given(files=st.dictionaries(PATHS.map("f/".__add__), st.binary(max_size=70), max_size=6))
def test_what_is_packed_can_be_read(files: dict[str, bytes]) -> None:
    entries = read(cpio.pack(files, {"l/link": "there"}, frozenset(list(files)[:1])))
    regular = {path: data for path, mode, data in entries if stat.S_ISREG(mode)}
    assert regular == files
    assert [(p, d) for p, m, d in entries if stat.S_ISLNK(m)] == [("l/link", b"there")]
    executable = [path for path, mode, _ in entries if stat.S_ISREG(mode) and mode & 0o111]
    assert executable == list(files)[:1]
    # The kernel unpacks in order: a folder must come before what is in it.
    seen = {""}
    for path, mode, _ in entries:
        assert path.rpartition("/")[0] in seen
        if stat.S_ISDIR(mode):
            seen.add(path)


def module(depends: str) -> bytes:
    return b"ELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"


def test_a_module_comes_after_all_that_it_needs(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "virtio-ring.ko").write_bytes(module(""))
    (tmp_path / "virtio.ko.xz").write_bytes(lzma.compress(module("virtio_ring")))
    (tmp_path / "deep" / "virtio_net.ko").write_bytes(module("virtio,virtio_ring,built_in"))
    tree = ModuleTree(tmp_path)
    assert tree.load_order("virtio_net", "virtio", "absent") == [
        "virtio_ring",
        "virtio",
        "virtio_net",
    ]
    assert tree.contents("virtio") == module("virtio_ring")


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(BuildError, match="x86_64; this machine is riscv64"):
        builder.build()
