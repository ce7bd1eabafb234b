"""Streams made from a fuzzer's bytes: mostly right, so that it gets deep, and wrong anywhere."""

from __future__ import annotations

from tests.stream_encoder import Encoder, Row

PAGE = 1024
BLOCKS: tuple[Row, ...] = ((b"pc.ram", 64 * PAGE), (b"v", 4 * PAGE), (b"n" * 255, 512 * PAGE))


def stream_of(program: bytes) -> bytes:
    """Each byte is an order: four bits say what, four how much; some take the bytes behind them."""
    e = Encoder(PAGE)
    e.start()
    e.blocks(*BLOCKS)
    e.close_section()
    e.part()
    name, size = BLOCKS[0][:2]
    place = 0
    orders = iter(program)
    for order in orders:
        what, much = order & 0x0F, order >> 4
        if what < 9:
            # A run, of up to 61 pages of zeros or 8 others.
            for _ in range(1 + (much * 4 if what < 4 else much // 2)):
                if what < 4:
                    e.zero(name, place)
                elif what < 7:
                    e.ordinary(name, place, bytes([order]) * PAGE)
                else:
                    e.xbzrle(name, place, bytes(1 + much))
                place = (place + (1 + what % 2) * PAGE) % size
        elif what == 9:
            name, size = BLOCKS[much % len(BLOCKS)][:2]
            place = much * PAGE % size
        elif what == 10:
            e.close_section()
            e.part()
        elif what == 11:
            e.out += bytes(next(orders, 0) for _ in range(much))
        elif what == 12:
            e.word(int.from_bytes(bytes(next(orders, 0) for _ in range(3)), "big"))
        elif what == 13:
            e.close_section()
            e.command(much, bytes(next(orders, 0) % 17))
            e.part()
        elif what == 14 and much:
            del e.out[-much:]
        elif what == 15 and much and e.out:
            e.out[-1 - next(orders, 0) % len(e.out)] ^= 1 << much % 8
    e.close_section()
    e.end()
    e.close_section()
    e.devices()
    return bytes(e.out)
