"""What a stream says before its pages: page sizes, addresses, capabilities, the switchover."""

from __future__ import annotations

import pytest

from tests.plain_stream import plain_events
from tests.stream_encoder import Encoder, capabilities, target_page_bits
from tests.stream_fast import fast_events
from vmferry.stream.items import Block, Blocks, Pages, Stage3, StreamError
from vmferry.stream.reader import StreamReader

HUGE = 1 << 21


def read(e: Encoder) -> list[object]:
    """The items, which must be those of the plain reader, also byte by byte."""
    data = bytes(e.out)
    assert fast_events([data]) == fast_events([bytes([b]) for b in data]) == plain_events(data)
    return list(StreamReader().feed(data))


def blocks_of(e: Encoder) -> tuple[Block, ...]:
    first = read(e)[0]
    assert isinstance(first, Blocks)
    return first.blocks


def test_a_name_may_have_255_bytes_and_need_be_no_text() -> None:
    long, odd = b"n" * 255, b"\xff\xfe"
    e = Encoder()
    e.start()
    e.blocks((long, 4096), (odd, 4096))
    e.close_section()
    e.part()
    e.zero(odd, 0)
    e.zero(long, 0)
    assert [block.name for block in blocks_of(e)] == ["n" * 255, "\\xff\\xfe"]
    assert [i.block.name for i in read(e) if isinstance(i, Pages)] == ["\\xff\\xfe", "n" * 255]


@pytest.mark.parametrize("bits", [10, 14, 16])
def test_the_configuration_may_say_the_page_size(bits: int) -> None:
    size = 1 << bits
    e = Encoder(size)
    e.configuration(target_page_bits(bits))
    e.start()
    e.blocks((b"mach-virt.ram", 4 * size))
    e.close_section()
    e.part()
    for page in range(4):
        e.ordinary(b"mach-virt.ram", page * size, bytes([page]) * size)
    items = read(e)
    assert items[0] == Blocks((Block("mach-virt.ram", 4 * size, size),))
    pages = items[-1]
    assert isinstance(pages, Pages)
    assert pages.data is not None
    assert pages.data.shape == (4, size)
    assert pages.data[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("last_is_huge", [False, True])
def test_with_post_copy_blocks_of_huge_pages_say_so(last_is_huge: bool) -> None:
    e = Encoder()
    e.advise(4096 | HUGE)
    e.start()
    plain, huge = (b"pc.bios", 4096), (b"pc.ram", 2 * HUGE, HUGE)
    e.blocks(*((plain, huge) if last_is_huge else (huge, plain)))
    e.close_section()
    backing = {block.name: block.backing_page_size for block in blocks_of(e)}
    assert backing == {"pc.bios": None, "pc.ram": HUGE}


def test_with_ignore_shared_each_block_has_its_address() -> None:
    e = Encoder()
    e.configuration(capabilities(b"x-ignore-shared"))
    e.start()
    e.blocks((b"pc.ram", 8192, 0), (b"vga", 4096, 0xFD000000))
    e.close_section()
    assert [(b.size, b.backing_page_size) for b in blocks_of(e)] == [(8192, None), (4096, None)]


@pytest.mark.parametrize("last_is_huge", [False, True])
def test_page_sizes_and_addresses_together(last_is_huge: bool) -> None:
    e = Encoder()
    e.configuration(capabilities(b"x-ignore-shared"))
    e.advise(4096 | HUGE)
    e.start()
    e.word(2 * HUGE + 8192 | 0x04)
    rows = {b"a": (4096, 0), b"b": (2 * HUGE, HUGE, 0), b"c": (4096, 0x10000)}
    names = b"acb" if last_is_huge else b"abc"
    for name in (bytes([letter]) for letter in names):
        e.out += b"\1" + name + b"".join(word.to_bytes(8, "big") for word in rows[name])
    e.close_section()
    backing = {block.name: block.backing_page_size for block in blocks_of(e)}
    assert backing == {"a": None, "b": HUGE, "c": None}


@pytest.mark.parametrize(
    ("name", "said"),
    [(b"mapped-ram", "pages are at fixed places"), (b"x-new", "'x-new', whose stream is not")],
)
def test_capabilities_that_change_the_stream_are_refused(name: bytes, said: str) -> None:
    e = Encoder()
    e.configuration()
    at = len(e.out)
    e.out += capabilities(name)
    assert_wrong_at(bytes(e.out), at, said)


@pytest.mark.parametrize(
    ("blocks", "total"),
    [
        ([(b"", 4096)], 4096),
        ([(b"a", 4096), (b"a", 4096)], 8192),
        ([(b"a", 8192)], 4096),
        ([(b"a", 100)], 4096),
        ([], 0),
    ],
)
def test_a_list_of_blocks_that_is_none(blocks: list[tuple[bytes, int]], total: int) -> None:
    e = Encoder()
    e.start()
    e.word(total | 0x04)
    for name, size in blocks:
        e.out += bytes([len(name)]) + name + size.to_bytes(8, "big")
    assert plain_events(bytes(e.out))[-1][0] == "wrong"
    assert fast_events([bytes(e.out)]) == plain_events(bytes(e.out))


def test_the_announced_switchover_begins_stage_3() -> None:
    e = Encoder()
    e.start()
    e.blocks((b"pc.ram", 4096))
    e.close_section()
    at = len(e.out)
    e.command(11)
    e.end()
    e.zero(b"pc.ram", 0)
    e.close_section()
    e.devices()
    stage3 = [item for item in read(e) if isinstance(item, Stage3)]
    assert [item.offset for item in stage3] == [at]


def test_commands_stand_only_where_they_can_be_meant() -> None:
    e = Encoder()
    e.start()
    e.blocks((b"pc.ram", 4096))
    e.close_section()
    before = bytes(e.out)
    e.advise(4096)
    assert_wrong_at(bytes(e.out), len(before), "announced after RAM has begun")
    e.out = bytearray(before)
    e.command(11)
    announced = bytes(e.out)
    e.command(11)
    assert_wrong_at(bytes(e.out), len(announced), "where it cannot begin")


def test_parts_of_the_configuration_belong_right_behind_it() -> None:
    e = Encoder()
    e.configuration()
    e.command(1)
    at = len(e.out)
    e.out += target_page_bits(14)
    assert_wrong_at(bytes(e.out), at, "0x05 begins no section")


def assert_wrong_at(data: bytes, at: int, said: str) -> None:
    with pytest.raises(StreamError, match=said) as caught:
        list(StreamReader().feed(data))
    assert caught.value.offset == at
    assert plain_events(data)[-1] == ("wrong", at)
