"""The X-ray's counts, against a plain count of single pages; they are exact whatever is sampled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmferry.precopy.xray import Row, XRayResult
from vmferry.stream.contents import Contents, Task
from vmferry.stream.items import Block, Pages
from vmferry.stream.xray import XRay
from vmferry.units import MIB

PAGE = 4096
BLOCKS = (Block("pc.ram", 40 * PAGE, PAGE), Block("vga.vram", 7 * PAGE, PAGE))
BYTES = {"zero": 9, "ordinary": 8 + PAGE, "xbzrle": 11}
RAM = 64 * MIB


@dataclass(frozen=True)
class Sent:
    """One page of a stream; `content` makes its bytes, or the length of its delta."""

    block: int
    page: int
    kind: Literal["zero", "ordinary", "xbzrle"]
    content: int

    @property
    def bytes(self) -> int:
        return BYTES[self.kind] + (self.content if self.kind == "xbzrle" else 0)


sent_pages = st.builds(
    lambda block, page, kind, content: Sent(block, page % (40 if block == 0 else 7), kind, content),
    st.integers(0, 1),
    st.integers(0, 39),
    st.sampled_from(["zero", "ordinary", "ordinary", "xbzrle"]),
    st.integers(1, 3),
)
streams = st.lists(sent_pages, min_size=1, max_size=200)


def runs(stream: list[Sent]) -> Iterator[Pages]:
    """As the reader gives them: what follows each other in one block and of one kind."""
    start = 0
    for i in range(1, len(stream) + 1):
        here = stream[start]
        if i < len(stream) and (stream[i].block, stream[i].kind) == (here.block, here.kind):
            continue
        run = stream[start:i]
        contents = [one.content for one in run]
        ordinary, xbzrle = here.kind == "ordinary", here.kind == "xbzrle"
        yield Pages(
            block=BLOCKS[here.block],
            kind=here.kind,
            offsets=np.array([one.page * PAGE for one in run], np.int64),
            stream_bytes=sum(one.bytes for one in run),
            data=np.stack([np.full(PAGE, c, np.uint8) for c in contents]) if ordinary else None,
            sizes=np.array(contents, np.int32) if xbzrle else None,
            encoded=tuple(bytes(c) for c in contents) if xbzrle else (),
        )
        start = i


def sweeps(stream: list[Sent]) -> list[int]:
    """Where each begins."""
    starts = [0]
    seen: set[tuple[int, int]] = set()
    for i, one in enumerate(stream):
        if (one.block, one.page) in seen:
            starts.append(i)
            seen = set()
        seen.add((one.block, one.page))
    return starts


def plain_rows(stream: list[Sent], starts: list[int]) -> tuple[Row, ...]:
    """Page by page, with every earlier version at hand."""
    rows: list[Counter[str]] = []
    last: dict[tuple[int, int], Sent] = {}
    for i, one in enumerate(stream):
        number = sum(start <= i for start in starts)
        while len(rows) < number:
            rows.append(Counter())
        before = last.get((one.block, one.page))
        rows[-1].update({one.kind: 1, "bytes": one.bytes, "first": before is None})
        if before is not None:
            rows[-1].update(resent=1, resent_bytes=one.bytes)
            if one.kind == "ordinary":
                same = before.kind == "ordinary" and before.content == one.content
                known = before.kind != "xbzrle"
                rows[-1].update(resent_ordinary=1, compared=known, same=same)
        last[one.block, one.page] = one
    return tuple(Row(n=i + 1, **row) for i, row in enumerate(rows))


def xray(stream: list[Sent], ram: int = RAM) -> XRayResult:
    found = XRay(ram, beside=False)
    for run in runs(stream):
        found.see(run)
    found.close()
    return found.result()


@given(streams)
def test_sweeps_are_counted_page_by_page(stream: list[Sent]) -> None:
    result = xray(stream)
    assert result.by == "sweep"
    assert result.rows == plain_rows(stream, sweeps(stream))
    assert result.sampled_share == 1.0


@given(streams, st.lists(st.tuples(st.integers(0, 220), st.integers(0, 220))))
def test_passes_are_exact_though_told_late_or_early(
    stream: list[Sent], marks: list[tuple[int, int]]
) -> None:
    """Each mark: where a pass began, and how many pages had been read when that was told."""
    found = XRay(RAM, beside=False)
    found.mark_pass(0)
    seen = 0
    untold = sorted(marks, key=lambda mark: mark[1])
    for run in runs(stream):
        while untold and untold[0][1] <= seen:
            found.mark_pass(untold.pop(0)[0])
        found.see(run)
        seen += len(run.offsets)
    for start, _ in untold:
        found.mark_pass(start)
    found.close()
    result = found.result()
    assert result.by == "pass"
    assert result.late_marks == 0
    assert result.rows == plain_rows(stream, [0, *(start for start, _ in marks if start)])


@given(streams)
def test_the_histogram_adds_up(stream: list[Sent]) -> None:
    result = xray(stream)
    times = Counter((one.block, one.page) for one in stream)
    assert sum(one.pages for one in result.repeats) == len(times)
    assert sum(one.sends for one in result.repeats) == len(stream)
    for one in result.repeats:
        assert one.pages == sum(one.low <= n <= one.high for n in times.values())
    assert result.distinct_resent == sum(n > 1 for n in times.values())


@given(streams, st.sampled_from([20 * PAGE, 100 * PAGE, RAM]))
def test_the_heat_map_adds_up(stream: list[Sent], ram: int) -> None:
    """Cells of one page and of many; columns of one sweep and of several."""
    heat = xray(stream, ram).heat
    assert len(heat.sends) in (0, len(heat.regions))
    starts = sweeps(stream)
    for region, cells in zip(heat.regions, heat.sends, strict=True):
        block = next(i for i, one in enumerate(BLOCKS) if one.name == region.block)
        assert len(cells) <= 64
        for column, count in enumerate(cells):
            first = column * heat.per_column
            start = starts[first]
            rest = starts[first + heat.per_column :]
            within = stream[start : rest[0] if rest else None]
            assert count == sum(
                one.block == block and region.start <= one.page * PAGE < region.end
                for one in within
            )


@given(streams)
def test_hot_regions_hold_what_they_say(stream: list[Sent]) -> None:
    result = xray(stream)
    assert sum(one.share for one in result.hot) <= 1.0 + 1e-9
    last: set[tuple[int, int]] = set()
    resent: Counter[tuple[int, int]] = Counter()
    for one in stream:
        if (one.block, one.page) in last:
            resent[one.block, one.page] += one.bytes
        last.add((one.block, one.page))
    assert bool(result.hot) == bool(resent)
    for region in result.hot:
        block = next(i for i, one in enumerate(BLOCKS) if one.name == region.block)
        inside = [
            count
            for (number, page), count in resent.items()
            if number == block and region.start <= page * PAGE < region.end
        ]
        assert region.resent_bytes == sum(inside)
        assert region.share == pytest.approx(sum(inside) / sum(resent.values()))


@given(streams)
def test_the_result_survives_json(stream: list[Sent]) -> None:
    result = xray(stream)
    assert XRayResult.from_json(result.to_json()) == result


@settings(max_examples=20)
@given(streams, st.lists(st.integers(0, 220), max_size=5))
def test_pages_are_counted_while_the_analyst_stands_still(
    stream: list[Sent], marks: list[int]
) -> None:
    """Nothing is looked into before the stream has ended: the stream never waited."""
    gate = threading.Event()
    look = Contents.look

    def slow(self: Contents, task: Task) -> None:
        assert gate.wait(60)
        look(self, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Contents, "look", slow)
        found = XRay(RAM)
        for _ in range(3):
            for run in runs(stream):
                found.see(run)
        for start in marks:
            found.mark_pass(start)
        before = found.result()
        gate.set()
        found.close()
    after = found.result()
    plain = plain_rows(stream * 3, [0, *(m for m in marks if m)] if marks else sweeps(stream * 3))
    for result in (before, after):
        assert [counts(row) for row in result.rows] == [counts(row) for row in plain]
    assert all(one.same <= two.same for one, two in zip(after.rows, plain, strict=True))
    ordinary = sum(one.kind == "ordinary" for one in stream) * 3
    assert after.sampled_share == 1.0 if not ordinary else 0.0 <= after.sampled_share <= 1.0
    assert sum(row.compared for row in before.rows) <= sum(row.compared for row in after.rows)


def counts(row: Row) -> tuple[int, ...]:
    return (row.zero, row.ordinary, row.xbzrle, row.first, row.resent, row.bytes, row.resent_bytes)


def test_a_busy_analyst_leaves_runs_out() -> None:
    """Far more pages than its buffers hold: what is left out is told, and all is counted."""
    gate = threading.Event()
    block = Block("pc.ram", 64 * MIB, PAGE)
    data = np.zeros((256, PAGE), np.uint8)
    data[:, 0] = 1

    def wait(self: Contents, task: Task) -> None:
        assert gate.wait(60)
        task.piece.settled = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Contents, "look", wait)
        found = XRay(64 * MIB)
        for start in range(0, 16384, 256):
            offsets = np.arange(start, start + 256, dtype=np.int64) * PAGE
            found.see(
                Pages(
                    block=block,
                    kind="ordinary",
                    offsets=offsets,
                    stream_bytes=4104 * 256,
                    data=data,
                )
            )
        gate.set()
        found.close()
    result = found.result()
    assert result.total.ordinary == result.total.first == 16384
    assert 0 < result.sampled_share < 0.02


def test_a_pass_that_is_told_far_too_late_is_said_to_be() -> None:
    """History is bounded: the sums stay right, and the row says from where it is known."""
    block = Block("pc.ram", 4 * MIB, PAGE)
    found = XRay(1 * MIB, beside=False)
    for start in range(0, 1024, 16):
        offsets = np.arange(start, start + 16, dtype=np.int64) * PAGE
        found.see(Pages(block=block, kind="zero", offsets=offsets, stream_bytes=16 * 9))
        found.result()  # counts what came so far, so that there are many pieces
    found.mark_pass(10)
    result = found.result()
    assert result.late_marks == 1
    assert result.total.zero == 1024
    assert [row.n for row in result.rows] == [1, 2]
    assert 10 < result.rows[0].zero < 1024


def test_more_rows_than_columns_share_columns() -> None:
    stream = [Sent(0, n % 2, "ordinary", 1) for n in range(400)]
    result = xray(stream)
    assert len(result.rows) == 200
    assert result.heat.per_column == 4
    assert sum(map(sum, result.heat.sends)) == 400


def test_a_block_that_no_machine_holds_is_an_error() -> None:
    from vmferry.errors import UsageError

    block = Block("pc.ram", 1 << 62, PAGE)
    with pytest.raises(UsageError, match=r"'pc\.ram' of \d+ bytes is too large"):
        XRay(RAM).see(
            Pages(block=block, kind="zero", offsets=np.zeros(1, np.int64), stream_bytes=9)
        )
