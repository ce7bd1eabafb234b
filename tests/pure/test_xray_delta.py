"""XBZRLE's encoded sizes, against a plain encoder that writes the bytes, and against a decoder."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vmferry.stream.delta import OVERFLOW, encoded_sizes

PAGE = 256


def encode(old: bytes, new: bytes) -> bytes | None:
    """The encoding as QEMU's xbzrle.c describes it, byte by byte; None: it does not fit."""
    out = bytearray()
    i = 0
    while i < len(new):
        if len(out) + 2 > len(new):
            return None
        begin = i
        while i < len(new) and old[i] == new[i]:
            i += 1
        if i == len(new):
            return bytes(out)
        out += uleb128(i - begin)
        if len(out) + 2 > len(new):
            return None
        begin = i
        while i < len(new) and old[i] != new[i]:
            i += 1
        out += uleb128(i - begin)
        if len(out) + i - begin > len(new):
            return None
        out += new[begin:i]
    return bytes(out)


def uleb128(number: int) -> bytes:
    assert number < 1 << 14
    return bytes([number]) if number < 1 << 7 else bytes([number & 0x7F | 0x80, number >> 7])


def plain_sizes(old: list[bytes], new: list[bytes]) -> list[int]:
    encodings = [encode(a, b) for a, b in zip(old, new, strict=True)]
    return [OVERFLOW if one is None else len(one) for one in encodings]


def fast_sizes(old: list[bytes], new: list[bytes]) -> list[int]:
    def rows(pages: list[bytes]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        return np.frombuffer(b"".join(pages), np.uint8).reshape(len(pages), -1)

    sizes: list[int] = encoded_sizes(rows(old), rows(new)).tolist()
    return sizes


# Runs of equal and of different bytes, of any length: random bytes alone would hardly be equal.
runs = st.lists(st.tuples(st.booleans(), st.integers(1, 140)), min_size=1, max_size=80)


def changed(old: bytes, parts: list[tuple[bool, int]]) -> bytes:
    """`old` with the parts inverted that say so."""
    new = bytearray(old)
    at = 0
    for differs, length in parts:
        if differs:
            new[at : at + length] = bytes(byte ^ 0xFF for byte in new[at : at + length])
        at += length
    return bytes(new[: len(old)])


@given(st.lists(st.tuples(st.binary(min_size=PAGE, max_size=PAGE), runs), min_size=1, max_size=40))
def test_sizes_are_those_of_the_encoder(pages: list[tuple[bytes, list[tuple[bool, int]]]]) -> None:
    old = [page for page, _ in pages]
    new = [changed(page, parts) for page, parts in pages]
    assert fast_sizes(old, new) == plain_sizes(old, new)


@given(st.integers(0, 2**32), st.floats(0.0, 1.0), st.integers(3900, 4096))
def test_sizes_of_whole_pages(seed: int, share: float, equal_from: int) -> None:
    """Pages of 4 KiB with many short runs: about as long as a page, where overflow is decided."""
    old = bytes(4096)
    new = (np.random.default_rng(seed).random(4096) < share).astype(np.uint8)
    new[equal_from:] = 0
    assert fast_sizes([old], [new.tobytes()]) == plain_sizes([old], [new.tobytes()])


def test_the_borders() -> None:
    """An encoding that just fits; the same with equal bytes after it; and one byte too many."""
    old = bytes(PAGE)
    fits = b"\1" * (PAGE - 3) + bytes(3)
    cases = [
        bytes(PAGE),
        b"\1" * PAGE,
        b"\1" * (PAGE - 5) + bytes(5),
        b"\1" * (PAGE - 4) + bytes(4),
        fits,
        bytes(3) + b"\1" * (PAGE - 3),
        bytes(2) + b"\1" * (PAGE - 2),
        bytes(PAGE - 1) + b"\1",
    ]
    sizes = fast_sizes([old] * len(cases), cases)
    assert sizes == plain_sizes([old] * len(cases), cases)
    assert sizes == [0, OVERFLOW, PAGE - 2, OVERFLOW, OVERFLOW, PAGE, OVERFLOW, 4]


def test_no_page_has_no_size() -> None:
    none = np.empty((0, PAGE), np.uint8)
    assert encoded_sizes(none, none).tolist() == []
