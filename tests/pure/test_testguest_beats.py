"""Heartbeats: decoding whatever a socket delivers, merging two sides, gaps and work."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.testguest.beats import (
    MAGIC,
    Beats,
    Decoder,
    between,
    merge,
    report,
    unpack,
    work_rate,
)

MS = 1_000_000
PERIOD = 2 * MS


def record(sequence: int, guest_ns: int = 0, work: int = 0) -> bytes:
    """A beat as the guest writes it."""
    check = 0xFFFFFFFF ^ int.from_bytes(MAGIC, "little")
    for value in (sequence, guest_ns, work):
        check ^= (value & 0xFFFFFFFF) ^ (value >> 32)
    return MAGIC + struct.pack("<IQQQ", check, sequence, guest_ns, work)


def decode(pieces: list[bytes]) -> Beats:
    decoder = Decoder()
    kept = b"".join(decoder.feed(piece, 7 + place) for place, piece in enumerate(pieces))
    return unpack(kept, "source")


def beats(*times: tuple[int, int], side: str = "source") -> Beats:
    """Beats from (sequence, host milliseconds); the guest writes 100 pages a beat."""
    host = np.array([ms * MS for _, ms in times], np.int64)
    sequence = np.array([number for number, _ in times], np.int64)
    return Beats(
        host, sequence, sequence * PERIOD, sequence * 100, np.zeros(len(times), np.int8), (side,)
    )


@given(
    values=st.lists(
        st.tuples(*[st.integers(0, 2**63 - 1)] * 3).filter(lambda v: MAGIC not in record(*v)[4:]),
        max_size=8,
    ),
    cuts=st.lists(st.integers(0, 300), max_size=12),
)
def test_records_survive_any_cutting(values: list[tuple[int, int, int]], cuts: list[int]) -> None:
    stream = b"".join(record(*value) for value in values)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    found = decode(pieces)
    assert list(zip(found.sequence, found.guest_ns, found.work, strict=True)) == values


@given(
    garbage=st.binary(max_size=70).filter(lambda data: MAGIC[:1] not in data),
    half=st.integers(0, 31),
    cut=st.integers(1, 200),
)
def test_what_follows_a_broken_record_is_found(garbage: bytes, half: int, cut: int) -> None:
    stream = record(4)[half:] + record(5) + garbage + record(6)[:half] + record(7) + record(8)
    found = decode([stream[at : at + cut] for at in range(0, len(stream), cut)])
    expected = [5, 7, 8] if half else [4, 5, 7, 8]
    assert list(found.sequence) == expected


def test_a_changed_bit_is_noticed() -> None:
    broken = bytearray(record(5, 6, 7))
    broken[17] ^= 1
    assert list(decode([bytes(broken) + record(6)]).sequence) == [6]


def test_beats_are_stamped_when_they_are_whole() -> None:
    first, second = record(1), record(2)
    found = decode([first[:10], first[10:] + second])
    assert list(found.host_ns) == [8, 8]


EVENTS = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 500)), max_size=40)


@given(source=EVENTS, destination=EVENTS)
def test_merging_keeps_each_number_once_and_its_first_arrival(
    source: list[tuple[int, int]], destination: list[tuple[int, int]]
) -> None:
    one, other = beats(*source), beats(*destination, side="destination")
    merged = merge(one, other)
    assert list(merged.sequence) == sorted({number for number, _ in source + destination})
    for number, host_ns, side in zip(merged.sequence, merged.host_ns, merged.side, strict=True):
        arrivals = [ms * MS for n, ms in source + destination if n == number]
        assert host_ns == min(arrivals)
        origin = source if merged.sides[side] == "source" else destination
        assert (number, host_ns // MS) in origin
    again = merge(merged, other, one)
    assert list(again.host_ns) == list(merged.host_ns)
    assert merge(other, one).sequence.tolist() == merged.sequence.tolist()


@given(
    intervals=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    handover=st.integers(0, 60),
    lost=st.sets(st.integers(1, 59), max_size=10),
)
def test_the_gap_is_the_longest_interval_whoever_saw_it(
    intervals: list[int], handover: int, lost: set[int]
) -> None:
    times = np.cumsum([100, *intervals]).tolist()
    heard = [(n, ms) for n, ms in enumerate(times) if n not in lost or n in (0, len(times) - 1)]
    merged = merge(
        beats(*[beat for beat in heard if beat[0] >= handover], side="destination"),
        beats(*[beat for beat in heard if beat[0] < handover]),
    )
    found = report(merged, period=0.002)
    longest = max(b[1] - a[1] for a, b in itertools.pairwise(heard))
    assert found.gap_ms == pytest.approx(max(0, longest - 2))
    assert found.beats == len(heard)
    assert found.missing == len(times) - len(heard)
    assert found.gap_at_ns in [ms * MS for _, ms in heard]


def test_a_stall_of_the_reader_is_one_gap_and_no_beat_is_missing() -> None:
    found = report(beats((1, 0), (2, 2), (3, 300), (4, 300), (5, 300), (6, 302)))
    assert (found.gap_ms, found.gap_at_ns, found.missing) == (296, 2 * MS, 0)


def test_the_gap_names_its_sides_and_the_guests_own_clock() -> None:
    source, destination = beats((1, 0), (2, 2)), beats((3, 90), (4, 92), side="destination")
    found = report(merge(source, destination))
    assert (found.gap_from, found.gap_to) == ("source", "destination")
    assert found.gap_ms == 86
    assert found.guest_clock_gap_ms == 0  # its clock stood still: one period between 2 and 3


def test_too_few_beats_tell_nothing() -> None:
    assert report(merge()).gap_ms is None
    assert report(merge(beats((1, 5)))).gap_ms is None
    assert work_rate(beats((1, 5)), 0, 10 * MS) is None


@given(
    start=st.integers(0, 200),
    length=st.integers(1, 200),
    base=st.integers(0, 10**12),
)
def test_a_steady_writer_has_the_same_rate_in_every_window(
    start: int, length: int, base: int
) -> None:
    steady = beats(*[(n, base + 2 * n) for n in range(100)])
    window = ((base + start) * MS, (base + start + length) * MS)
    rate = work_rate(steady, *window)
    if start + length > 198:
        assert rate is None
    else:
        assert rate == pytest.approx(50_000, rel=1e-6)


@given(
    intervals=st.lists(st.integers(0, 50), min_size=1, max_size=40),
    window=st.tuples(st.integers(0, 2000), st.integers(0, 2000)).map(sorted),
)
def test_a_window_keeps_every_interval_that_touches_it(
    intervals: list[int], window: list[int]
) -> None:
    times = np.cumsum([0, *intervals]).tolist()
    all_beats = beats(*enumerate(times))
    kept = between(all_beats, window[0] * MS, window[1] * MS)
    pairs = [
        (a, b) for a, b in itertools.pairwise(times) if b >= window[0] and a <= window[1] and b > a
    ]
    longest = max((b - a for a, b in pairs), default=0)
    found = report(kept, period=0)
    assert (found.gap_ms or 0) >= longest
    assert len(kept) <= len(all_beats)
