"""What the page writer leaves in guest memory, seen from outside the guest."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.qemu.testguest_vm import GuestVm

MIB = 1024**2
PAGES = 8 * MIB // 4096
SEQUENCE = 2

Words = NDArray[np.uint64]


def working_set(vm: GuestVm) -> tuple[NDArray[np.int64], Words]:
    """Guest page frame and words of each page of the working set, in order of its numbers."""
    dump = vm.folder / "memory"
    vm.ask("pmemsave", val=0, size=255 * MIB, filename=str(dump))
    memory = np.fromfile(dump, np.uint64).reshape(-1, 512)
    dump.unlink()
    numbers = memory[:, 1]
    ours = np.flatnonzero((numbers >> 56 == 1) & (numbers & ((1 << 56) - 1) < PAGES))
    magics, counts = np.unique(memory[ours, 0], return_counts=True)
    frames = ours[memory[ours, 0] == magics[np.argmax(counts)]]
    frames = frames[np.argsort(numbers[frames], kind="stable")]
    assert list(numbers[frames] & ((1 << 56) - 1)) == list(range(PAGES))
    return frames, memory[frames]


def compressed(pages: Words) -> float:
    """Part of its size that a page takes when it is compressed, on average."""
    sample = [page.tobytes() for page in pages[:: len(pages) // 50]]
    return sum(len(zlib.compress(page, 1)) for page in sample) / (4096 * len(sample))


def test_what_is_written_is_what_was_asked_for(own_folders: Path) -> None:
    settings = {"working_set": 8 * MIB, "write_rate": 0, "content": "text"}
    with GuestVm(own_folders / "vm", **settings) as vm:
        frames, text = working_set(vm)
        # Page numbers follow guest physical addresses, the order in which QEMU sends.
        assert (np.diff(frames) > 0).all()
        assert compressed(text) < 0.4

        vm.agent.set(content="one-word", write_rate="4MiB/s", order="sequential")
        vm.guest_seconds_pass(1)
        vm.agent.set(write_rate=0)
        _, changed = working_set(vm)
        writes = (changed[:, SEQUENCE] - text[:, SEQUENCE]).astype(np.int64)
        # One word of content for each write; sequence and checksum are two more.
        words = (changed != text).sum(axis=1)
        assert writes.sum() > 500
        assert writes.max() - writes.min() <= 1  # sequential: all in turn
        assert (words <= writes + 2).all()
        assert (words[writes > 0] >= 2).all()

        vm.agent.set(content="same", write_rate="unlimited")
        before = vm.agent.status()["pages_written"]
        vm.guest_seconds_pass(0.5)
        vm.agent.set(write_rate=0)
        _, same = working_set(vm)
        assert vm.agent.status()["pages_written"] > before + PAGES
        assert (same == changed).all()

        vm.agent.set(
            content="random", order="random", hot_writes=80, hot_pages=20, write_rate="unlimited"
        )
        vm.guest_seconds_pass(1)
        vm.agent.set(write_rate=0)
        _, random = working_set(vm)
        assert compressed(random) > 0.95
        writes = (random[:, SEQUENCE] - same[:, SEQUENCE]).astype(np.int64)
        hot = writes[: PAGES // 5].sum() / writes.sum()
        assert hot == pytest.approx(0.8, abs=0.02)
        assert vm.agent.verify().ok
