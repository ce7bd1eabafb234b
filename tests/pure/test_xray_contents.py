"""What is learned from single pages: the hash, the sample of earlier versions, compressibility."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vmferry.stream.compressibility import LEVELS, Compressibility, compressors
from vmferry.stream.pagehash import PageHash, mixed
from vmferry.stream.sampling import Versions

PAGE = 4096


def pages(count: int, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, PAGE), dtype=np.uint8)


def plain_hash(page: bytes, keys: NDArray[np.uint32]) -> int:
    """NH with Python's own numbers."""
    words = [int.from_bytes(page[i : i + 4], "little") for i in range(0, len(page), 4)]
    sums = [(word + int(key)) % 2**32 for word, key in zip(words, keys, strict=True)]
    return sum(low * high for low, high in zip(sums[::2], sums[1::2], strict=True)) % 2**64


def test_the_hash_is_nh() -> None:
    hashed = PageHash(PAGE)
    some = pages(70)
    plain = [plain_hash(page.tobytes(), hashed._keys) for page in some]
    assert hashed(some).tolist() == plain


@given(st.integers(0, PAGE - 1), st.integers(1, 255))
def test_a_changed_byte_changes_the_hash(place: int, by: int) -> None:
    both = np.zeros((2, PAGE), np.uint8)
    both[1, place] ^= by
    first, second = PageHash(PAGE)(both)
    assert first != second


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_numbers_that_change_their_signs_change_the_hash(width: int) -> None:
    """A sum of words times odd numbers, modulo 2^64, would not see any two of these."""
    some = np.repeat(pages(1), 200, axis=0)
    for i in range(1, 200):
        some[i, width - 1 : i * 2 * width : width] ^= 0x80
    assert len(set(PageHash(PAGE)(some).tolist())) == 200


def test_moved_words_change_the_hash() -> None:
    (page,) = pages(1)
    moved = np.stack([np.roll(page, 4 * i) for i in range(1024)])
    assert len(set(PageHash(PAGE)(moved).tolist())) == 1024


def exchange(
    versions: Versions, numbers: list[int], send: int, data: NDArray[np.uint8]
) -> tuple[list[int], NDArray[np.uint8]]:
    sends = np.full(len(numbers), send, np.uint32)
    found, before = versions.exchange(np.array(numbers), sends, data)
    return found.tolist(), before


def test_versions_are_those_of_the_send_before() -> None:
    versions = Versions(PAGE, 100 * PAGE, share=1.0)
    first, second = pages(3, 1), pages(3, 2)
    assert exchange(versions, [5, 6, 7], 1, first)[0] == []
    found, before = exchange(versions, [5, 6, 7], 2, second)
    assert found == [0, 1, 2]
    assert (before == first).all()
    # Of send 3 nothing was seen.
    assert exchange(versions, [5, 6, 7], 4, first)[0] == []


def test_a_sampled_page_is_always_sampled() -> None:
    versions = Versions(PAGE, 10_000 * PAGE, share=1 / 4)
    numbers = list(range(2000))
    data = np.zeros((2000, PAGE), np.uint8)
    exchange(versions, numbers, 1, data)
    sampled = exchange(versions, numbers, 2, data)[0]
    assert 400 < len(sampled) < 600
    for send in (3, 4):
        assert exchange(versions, numbers, send, data)[0] == sampled


def test_the_share_falls_until_the_budget_holds() -> None:
    budget = 50 * PAGE
    versions = Versions(PAGE, budget, share=1.0)
    numbers = list(range(3000))
    data = np.zeros((3000, PAGE), np.uint8)
    exchange(versions, numbers, 1, data)
    found = exchange(versions, numbers, 2, data)[0]
    assert versions.share in (1 / 64, 1 / 128)
    # Those that are left are those that the share says, not those that came first.
    limit = int(2**64 * versions.share)
    assert found == np.flatnonzero(mixed(np.arange(3000)) < limit).tolist()
    assert versions.nbytes <= budget


def packed(data: NDArray[np.uint8]) -> Compressibility:
    measured = Compressibility(PAGE, compressors())
    for start in range(0, len(data), 100):
        measured.take(data[start : start + 100])
    measured.finish()
    return measured


def test_ratios_are_those_of_the_content() -> None:
    half = pages(1280)
    half[:, 2048:] = 0
    measured = packed(half)
    for level in LEVELS:
        assert measured.ratio(level) == pytest.approx(2.0, rel=0.02)
        assert measured.seconds[level] > 0


def test_what_was_measured_stands_for_all() -> None:
    measured = packed(np.zeros((1280 * 10, PAGE), np.uint8))
    assert measured.measured % (128 * PAGE) == 0
    assert measured.measured * 8 == measured.plain
    assert measured.plain / (1280 * 10 * PAGE) == pytest.approx(1.0, abs=0.4)


def test_a_few_pages_are_measured_too() -> None:
    measured = packed(pages(3))
    assert measured.measured == 3 * PAGE
    assert measured.ratio(1) == pytest.approx(1.0, abs=0.01)


def test_nothing_has_no_ratio() -> None:
    assert packed(pages(0)).ratio(1) is None
