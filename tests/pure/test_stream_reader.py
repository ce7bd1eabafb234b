"""The stream reader says the same as the plain one, of any stream and however it is cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plain_stream import plain_events
from tests.stream_encoder import Encoder, Row, small_stream, target_page_bits
from tests.stream_fast import fast_events
from vmferry.stream.items import Blocks, EndOfIteration, Pages, Stage3, StreamError
from vmferry.stream.reader import StreamReader

SMALL = small_stream()
# What the first page of begun() takes, which names its block.
FIRST_ZERO = 8 + 7 + 1
FIRST_DELTA = 8 + 7 + 3 + 3


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes in pieces that begin at these places."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


places = st.lists(st.integers(0, 1 << 20), max_size=12)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, int]:
    """A stream as QEMU could write it, and its page size."""
    page_size = draw(st.sampled_from([4096, 4096, 1024, 8192, 65536]))
    e = Encoder(page_size, ram_id=draw(st.integers(0, 2**32 - 1)))
    bits = page_size.bit_length() - 1
    if draw(st.booleans()):
        e.configuration(*([target_page_bits(bits)] if draw(st.booleans()) else []))
    for command in draw(st.lists(st.sampled_from([1, 2]), max_size=2)):
        e.command(command, bytes(4 * (command == 2)))
    postcopy = draw(st.booleans())
    if postcopy:
        e.advise(page_size | 1 << 21)
    e.start()
    names = draw(st.lists(st.binary(min_size=1, max_size=255), min_size=1, max_size=4, unique=True))
    sizes = {name: draw(st.integers(1, 600)) * page_size for name in names}
    rows: list[Row] = []
    for name in names:
        huge = postcopy and draw(st.booleans())
        rows.append((name, sizes[name], 1 << 21) if huge else (name, sizes[name]))
    e.blocks(*rows)
    e.close_section()
    for last in [False] * draw(st.integers(0, 3)) + [True]:
        if last:
            e.end()
        else:
            e.part()
        for _ in range(draw(st.integers(0, 5))):
            run(draw, e, names, sizes)
        e.close_section()
    e.devices()
    return bytes(e.out), page_size


def run(draw: st.DrawFn, e: Encoder, names: list[bytes], sizes: dict[bytes, int]) -> None:
    """Pages of mostly one kind, mostly one after the other."""
    name = draw(st.sampled_from(names))
    pages = sizes[name] // e.page_size
    kind = draw(st.sampled_from(["zero", "ordinary", "xbzrle"]))
    length = draw(st.integers(1, 300 if kind == "zero" else 40))
    start, step = draw(st.integers(0, pages - 1)), draw(st.integers(1, 3))
    for number in range(length):
        offset = (start + number * step) % pages * e.page_size
        if kind == "zero":
            e.zero(name, offset)
        elif kind == "ordinary":
            e.ordinary(name, offset, bytes([number % 256]) * e.page_size)
        else:
            e.xbzrle(name, offset, bytes(range(1 + number % 50)))


@settings(max_examples=150)
@given(streams(), places)
def test_any_stream_is_read_as_the_plain_reader_reads_it(
    stream: tuple[bytes, int], places: list[int]
) -> None:
    data, page_size = stream
    expected = plain_events(data, page_size)
    assert expected[-1][0] == "done"
    assert fast_events([data], page_size) == expected
    assert fast_events(cut(data, places), page_size) == expected


@pytest.mark.parametrize("size", [1, 2, 8, 9, 4095, 4096, 4104, 4105])
def test_chunks_of_one_size_make_no_difference(size: int) -> None:
    chunks = [SMALL[at : at + size] for at in range(0, len(SMALL), size)]
    assert fast_events(chunks) == plain_events(SMALL)


mutations = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "insert", "delete", "repeat"]),
        st.one_of(st.integers(0, 250), st.integers(0, len(SMALL))),
        st.one_of(
            st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 126, 255]), st.integers(0, 255)
        ),
    ),
    max_size=4,
)


def mutated(data: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    out = bytearray(data)
    for how, at, value in changes:
        at %= max(1, len(out))
        if how == "set" and out:
            out[at] = value
        elif how == "flip" and out:
            out[at] ^= value
        elif how == "insert":
            out[at:at] = bytes([value])
        elif how == "delete":
            del out[at : at + value]
        else:
            out[at:at] = out[at : at + 9 * value]
    return bytes(out)


@settings(max_examples=400)
@given(mutations, st.integers(0, len(SMALL)) | st.none(), places)
def test_a_broken_stream_is_broken_where_the_plain_reader_says(
    changes: list[tuple[str, int, int]], length: int | None, places: list[int]
) -> None:
    data = mutated(SMALL, changes)[:length]
    assert fast_events(cut(data, places)) == plain_events(data)


@settings(max_examples=200)
@given(st.binary(max_size=300), st.integers(0, 60), places)
def test_random_bytes_are_an_error_or_cut(tail: bytes, head: int, places: list[int]) -> None:
    data = SMALL[:head] + tail
    assert fast_events(cut(data, places)) == plain_events(data)


def test_items_of_a_stream_in_order() -> None:
    reader = StreamReader()
    items = list(reader.feed(SMALL))
    blocks = items[0]
    assert isinstance(blocks, Blocks)
    assert [block.name for block in blocks.blocks] == ["pc.ram", "0000:00:01.0/vga.vram"]
    kinds = [item.kind for item in items if isinstance(item, Pages)][:8]
    run = ["zero", "ordinary", "zero", "ordinary", "zero"]
    assert kinds == [*run, "xbzrle", "zero", "zero"]
    assert sum(isinstance(item, EndOfIteration) for item in items) == 5
    stage3 = [at for at, item in enumerate(items) if isinstance(item, Stage3)]
    assert len(stage3) == 1
    assert [type(item) for item in items[stage3[0] + 1 :]] == [Pages, EndOfIteration]
    counts = reader.counts
    assert (counts.zero, counts.ordinary, counts.xbzrle) == (3 * 25, 3 * 16 + 1, 3 * 2)
    assert reader.done
    reader.close()
    assert SMALL[reader.offset] == 0x04


def test_ordinary_pages_are_a_view_of_what_was_fed() -> None:
    memory = bytearray(SMALL)
    run = next(
        i for i in StreamReader().feed(memory) if isinstance(i, Pages) and i.data is not None
    )
    assert run.data is not None
    assert np.shares_memory(run.data, np.frombuffer(memory, np.uint8))


def begun(*blocks: Row) -> Encoder:
    e = Encoder()
    e.start()
    e.blocks(*(blocks or ((b"pc.ram", 8 * 4096),)))
    e.close_section()
    e.part()
    return e


def test_a_run_of_deltas_may_be_cut_anywhere() -> None:
    e = begun()
    for page in range(8):
        e.xbzrle(b"pc.ram", page * 4096, bytes(range(1, 2 + page)))
    data = bytes(e.out)
    expected = plain_events(data)
    for at in range(len(data)):
        assert fast_events([data[:at], data[at:]]) == expected


def test_ram_that_has_ended_does_not_go_on() -> None:
    e = begun()
    e.close_section()
    e.end()
    e.close_section()
    at = len(e.out)
    e.part()
    assert_wrong(bytes(e.out), "section 2, which is not under way", at)


def beyond(e: Encoder) -> None:
    e.zero(b"pc.ram", 8 * 4096)


def beyond_in_a_run(e: Encoder) -> None:
    for page in range(9):
        e.zero(b"pc.ram", page * 4096)


def filled(e: Encoder) -> None:
    e.zero(b"pc.ram", 0)
    e.out[-1] = 0xFF


def filled_in_a_run(e: Encoder) -> None:
    for page in range(4):
        e.zero(b"pc.ram", page * 4096)
    e.out[-10] = 0xFF


def wrong_footer(e: Encoder) -> None:
    e.close_section()
    e.out[-1] ^= 1


def long_delta(e: Encoder) -> None:
    e.xbzrle(b"pc.ram", 0, bytes(4097))


def long_delta_in_a_run(e: Encoder) -> None:
    e.xbzrle(b"pc.ram", 0, b"\1\1\1")
    long_delta(e)


def no_delta_in_a_run(e: Encoder) -> None:
    e.xbzrle(b"pc.ram", 0, b"\1\1\1")
    e.xbzrle(b"pc.ram", 0, b"")


def other_encoding(e: Encoder) -> None:
    e.xbzrle(b"pc.ram", 0, b"\1\1\1")
    e.out[-6] = 2


@pytest.mark.parametrize(
    ("write", "said", "after"),
    [
        (beyond, "a page at 0x8000 of 'pc.ram'", 0),
        (beyond_in_a_run, "a page at 0x8000 of 'pc.ram'", FIRST_ZERO + 7 * 9),
        (filled, "filled with 0xff", 0),
        (filled_in_a_run, "filled with 0xff", FIRST_ZERO + 9),
        (wrong_footer, "the footer of section 3 after section 2", 8),
        (long_delta, "an XBZRLE page of 4097 bytes", 0),
        (long_delta_in_a_run, "an XBZRLE page of 4097 bytes", FIRST_DELTA),
        (no_delta_in_a_run, "an XBZRLE page of 0 bytes", FIRST_DELTA),
        (other_encoding, "encoding 2", 0),
        (lambda e: e.zero(b"vga", 0), "'vga', which is no RAM block", 0),
        (lambda e: e.word(0x22), "continues no block", 0),
        (lambda e: e.word(0x80), "RDMA", 0),
        (lambda e: e.word(0x128), "compress", 0),
        (lambda e: e.word(0x200), "multifd", 0),
        (lambda e: e.word(0x1000 | 0x0A), "0x100a is no page", 0),
        (lambda e: e.word(0x8000 | 0x04), "a second list", 0),
    ],
)
def test_what_cannot_be_read_inside_ram_is_named_with_its_offset(
    write: Callable[[Encoder], None], said: str, after: int
) -> None:
    e = begun()
    at = len(e.out)
    write(e)
    assert_wrong(bytes(e.out), said, at + after)


@pytest.mark.parametrize(
    ("data", "said", "at"),
    [
        (b"\x11\x22\x33\x44\0\0\0\1", "a further channel of multifd", 0),
        (b"#!/bin/sh\n", "begins with 0x23212f62", 0),
        (b"QEVM\0\0\0\2", "version 2", 0),
        (b"QEVM\0\0\0\3\x09", "0x09 begins no section", 8),
        (b"QEVM\0\0\0\3\x02\0\0\0\2", "section 2, which is not under way", 8),
        (b"QEVM\0\0\0\3\x04", "before the end of RAM", 8),
        (b"QEVM\0\0\0\3\x00", "before the end of RAM", 8),
        (b"QEVM\0\0\0\3\x08\0\x08\0\4", "post-copy", 8),
        (b"QEVM\0\0\0\3\x08\0\x0a\0\0", "COLO", 8),
        (b"QEVM\0\0\0\3\x08\0\x63\0\0", "unknown command 99", 8),
        (b"QEVM\0\0\0\3\x08\0\x02\0\5", "command 2 with 5 bytes", 8),
        (b"QEVM\0\0\0\3\x08\0\x0b\0\0", "announced where it cannot begin", 8),
        (b"QEVM\0\0\0\3\x07\xff\0\0\0", "a name of 4278190080 bytes", 8),
        (b"QEVM\0\0\0\3\x07\0\0\0\0\x05\1x\0\0\0\1", "unknown part of the configuration, 'x'", 13),
    ],
)
def test_what_cannot_be_read_outside_ram_is_named_with_its_offset(
    data: bytes, said: str, at: int
) -> None:
    assert_wrong(data, said, at)


def assert_wrong(data: bytes, said: str, at: int) -> None:
    reader = StreamReader()
    with pytest.raises(StreamError, match=said) as caught:
        list(reader.feed(data))
    assert caught.value.offset == at
    assert f"byte {at}:" in caught.value.message
    with pytest.raises(StreamError, match=said):
        list(reader.feed(b"more"))
    with pytest.raises(StreamError, match=said):
        reader.close()
    assert plain_events(data)[-1] == ("wrong", at)


@pytest.mark.parametrize(("name", "version"), [(b"dirty-bitmap", 1), (b"ram", 5)])
def test_other_sections_with_parts_are_unknown(name: bytes, version: int) -> None:
    e = Encoder()
    e.start(name, version)
    assert_wrong(bytes(e.out), "dirty-bitmap" if version == 1 else "version 5", at=8)


def test_a_stream_that_ends_too_early_says_where() -> None:
    reader = StreamReader()
    list(reader.feed(SMALL[:5000]))
    with pytest.raises(StreamError, match="it ends here, inside a record") as caught:
        reader.close()
    assert caught.value.offset == reader.offset < 5000
    whole = begun()
    reader = StreamReader()
    list(reader.feed(bytes(whole.out)))
    with pytest.raises(StreamError, match="before the device state"):
        reader.close()


@pytest.mark.parametrize("size", [0, 512, 4097, 1 << 17])
def test_a_page_size_that_no_target_has_is_refused(size: int) -> None:
    with pytest.raises(StreamError, match=f"pages of {size} bytes"):
        StreamReader(size)


def test_what_follows_the_device_state_is_not_looked_at() -> None:
    reader = StreamReader()
    list(reader.feed(SMALL))
    end = reader.offset
    assert list(reader.feed(b"\xff" * 10000)) == []
    assert reader.offset == end
