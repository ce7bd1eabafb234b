"""The X-ray of streams that QEMU wrote: the counts are QEMU's, hot is where the guest writes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.qemu.testguest_vm import GuestVm, wait_for
from vmferry.cli.xray import read
from vmferry.precopy.advice import advise
from vmferry.precopy.xray import XRayResult
from vmferry.stream.delta import encoded_sizes
from vmferry.stream.items import Pages
from vmferry.stream.reader import StreamReader
from vmferry.units import MIB

PAGE = 4096
PASSES = 8
WORKING_SET = 48 * MIB
HOT_PER_CENT = 10
# A tenth of the pages takes nine tenths of the writes; each write changes one word.
WRITER = {
    "working_set": WORKING_SET,
    "write_rate": 24 * MIB,
    "hot_writes": 90,
    "hot_pages": HOT_PER_CENT,
    "content": "one-word",
    "cold": 24 * MIB,
    "untouched": 40 * MIB,
}
BANDWIDTH = 48 * MIB


@dataclass(frozen=True)
class Saved:
    """A migration into a file: where it is, QEMU's last figures, and what the X-ray found."""

    path: Path
    ram: dict[str, Any]
    xbzrle: dict[str, Any]
    result: XRayResult


def save(folder: Path, *capabilities: str) -> Saved:
    """Move a guest into a file in so many passes, or fewer where it converges before."""
    path = folder / "stream"
    with GuestVm(folder, **WRITER) as vm:
        states = [{"capability": name, "state": True} for name in capabilities]
        vm.ask("migrate-set-capabilities", capabilities=states)
        vm.ask("migrate-set-parameters", **{"max-bandwidth": BANDWIDTH, "downtime-limit": 1})
        vm.ask("migrate", uri=f"exec:cat>{path}")
        wait_for("passes", lambda: passes(vm) >= PASSES or completed(vm), vm)
        vm.ask("migrate-set-parameters", **{"downtime-limit": 60_000})
        wait_for("the end", lambda: completed(vm), vm)
        figures = vm.ask("query-migrate")
    return Saved(path, figures["ram"], figures.get("xbzrle-cache", {}), read(str(path)))


def passes(vm: GuestVm) -> int:
    return int(vm.ask("query-migrate").get("ram", {}).get("dirty-sync-count", 0))


def completed(vm: GuestVm) -> bool:
    figures = vm.ask("query-migrate")
    return bool(figures["status"] == "completed" and figures.get("total-time", 0) > 0)


@pytest.fixture(scope="module")
def plain() -> Iterator[Saved]:
    with tempfile.TemporaryDirectory(prefix="vf-", dir="/tmp") as folder:
        yield save(Path(folder))


@pytest.fixture(scope="module")
def with_xbzrle() -> Iterator[Saved]:
    with tempfile.TemporaryDirectory(prefix="vf-", dir="/tmp") as folder:
        yield save(Path(folder), "xbzrle")


def pages_of(path: Path) -> Iterator[Pages]:
    """All pages of a stream."""
    reader = StreamReader()
    with path.open("rb") as stream:
        while not reader.done and (data := stream.read(MIB)):
            for item in reader.feed(data):
                if isinstance(item, Pages):
                    yield item


def hot_offsets(saved: Saved) -> set[int]:
    """Where in pc.ram the hot pages of the writer lie: each has a mark and its number in it."""
    places: list[NDArray[np.int64]] = []
    heads: list[NDArray[np.uint64]] = []
    for pages in pages_of(saved.path):
        if pages.data is not None and pages.block.name == "pc.ram":
            places.append(pages.offsets)
            heads.append(pages.data[:, :16].copy().view(np.uint64))
    offsets, words = np.concatenate(places), np.concatenate(heads)
    marks, often = np.unique(words[:, 0], return_counts=True)
    # The working set is area 1.
    numbers = words[:, 1].astype(np.int64) - (1 << 56)
    hot = WORKING_SET // PAGE * HOT_PER_CENT // 100
    mine = (words[:, 0] == marks[often.argmax()]) & (numbers >= 0) & (numbers < hot)
    found = set(offsets[mine].tolist())
    assert len(found) == hot
    return found


def test_counts_are_those_of_qemu(plain: Saved) -> None:
    total = plain.result.total
    assert total.zero == plain.ram["duplicate"]
    assert total.ordinary == plain.ram["normal"]
    assert total.xbzrle == 0
    # Every page of RAM was sent, and what was left untouched is zero.
    assert total.first * PAGE == plain.ram["total"]
    assert plain.result.rows[0].zero >= 40 * MIB // PAGE
    assert plain.result.sampled_share == 1.0


def test_sweeps_are_about_as_many_as_passes(plain: Saved) -> None:
    assert plain.result.by == "sweep"
    assert PASSES / 2 < len(plain.result.rows) <= plain.ram["dirty-sync-count"]


def test_hot_regions_are_the_writers_hot_pages(plain: Saved) -> None:
    hot = hot_offsets(plain)
    regions = [one for one in plain.result.hot if one.block == "pc.ram"]
    inside = [offset for offset in hot if any(one.start <= offset < one.end for one in regions)]
    assert len(inside) >= 0.9 * len(hot)
    # They are not all of memory: cold pages of the working set are ten times as many.
    hottest = max(regions, key=lambda one: one.resent_bytes)
    assert hottest.size <= 2 * len(hot) * PAGE
    assert hottest.share >= 0.3


def test_one_changed_word_makes_a_short_delta(plain: Saved) -> None:
    delta = plain.result.delta
    assert delta is not None
    assert delta.ratio < 0.1
    assert any(line.startswith("XBZRLE would cut the bytes") for line in advise(plain.result))


def test_xbzrle_pages_are_those_of_qemu(with_xbzrle: Saved) -> None:
    total = with_xbzrle.result.total
    assert 0 < total.xbzrle <= with_xbzrle.xbzrle["pages"]
    sent = [one for one in pages_of(with_xbzrle.path) if one.kind == "xbzrle"]
    # QEMU counts all of a page but the eight bytes of its offset, and pages that it skipped too.
    bytes_ = sum(one.stream_bytes - 8 * len(one.offsets) for one in sent)
    assert bytes_ == with_xbzrle.xbzrle["bytes"]
    assert total.zero == with_xbzrle.ram["duplicate"]
    assert with_xbzrle.result.delta is None


def test_deltas_have_the_sizes_of_qemus_encoder(with_xbzrle: Saved) -> None:
    """Each XBZRLE page is decoded onto the version before, and encoded again."""
    versions: dict[tuple[str, int], NDArray[np.uint8]] = {}
    compared = 0
    for pages in pages_of(with_xbzrle.path):
        for i, offset in enumerate(pages.offsets.tolist()):
            key = (pages.block.name, offset)
            if pages.data is not None:
                versions[key] = pages.data[i].copy()
            elif pages.kind == "zero":
                versions[key] = np.zeros(PAGE, np.uint8)
            else:
                old = versions[key]
                versions[key] = new = decoded(old, pages.encoded[i])
                assert encoded_sizes(old[None], new[None]).tolist() == [len(pages.encoded[i])]
                compared += 1
    assert compared == with_xbzrle.result.total.xbzrle


def decoded(old: NDArray[np.uint8], delta: bytes) -> NDArray[np.uint8]:
    """The page that a delta makes of its earlier version."""
    page, at, place = old.copy(), 0, 0
    while at < len(delta):
        equal, at = uleb128(delta, at)
        different, at = uleb128(delta, at)
        place += equal
        page[place : place + different] = np.frombuffer(delta[at : at + different], np.uint8)
        place, at = place + different, at + different
    return page


def uleb128(data: bytes, at: int) -> tuple[int, int]:
    """A number of one or two bytes, and where it ends."""
    if data[at] < 0x80:
        return data[at], at + 1
    return data[at] & 0x7F | data[at + 1] << 7, at + 2
