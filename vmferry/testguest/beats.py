"""What the numbered heartbeats tell: their records, the longest gap, the work done. Pure.

Two sides see one guest: merged by sequence number, the beats of source and destination are one
series, and a number that is missing shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERIOD_SECONDS = 0.002
RECORD_BYTES = 32
MAGIC = b"BEAT"

_Int64s = NDArray[np.int64]

# As guest/heartbeat.c writes it.
_RECORD = np.dtype(
    [
        ("magic", "<u4"),
        ("check", "<u4"),
        ("sequence", "<u8"),
        ("guest_ns", "<u8"),
        ("work", "<u8"),
    ]
)
# As it is kept: when it came, then the record.
_KEPT = np.dtype([("host_ns", "<u8"), ("record", _RECORD)])
KEPT_BYTES = _KEPT.itemsize


@dataclass(frozen=True, slots=True)
class Beats:
    """Beats of one side in order of arrival, or merged ones in order of sequence.

    `host_ns` is the host's monotonic clock, `guest_ns` the guest's, `work` the pages that the guest
    had written. `side` is a number into `sides` for each beat.
    """

    host_ns: _Int64s
    sequence: _Int64s
    guest_ns: _Int64s
    work: _Int64s
    side: NDArray[np.int8]
    sides: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sequence)

    def take(self, places: _Int64s | slice) -> Beats:
        """Some of the beats."""
        return Beats(
            self.host_ns[places],
            self.sequence[places],
            self.guest_ns[places],
            self.work[places],
            self.side[places],
            self.sides,
        )


@dataclass(frozen=True, slots=True)
class BeatReport:
    """The longest gap and what was lost.

    `gap_ms` is the longest time between two consecutive beats by the host's clock, less the period;
    `guest_clock_gap_ms` is what the guest's own clock says of the same two. `gap_from` and `gap_to`
    are the sides that saw them, `gap_at_ns` is the host's time of the first. None: fewer than two
    beats.
    """

    beats: int
    missing: int
    gap_ms: float | None
    guest_clock_gap_ms: float | None
    gap_at_ns: int | None
    gap_from: str | None
    gap_to: str | None


class Decoder:
    """Turns what a socket delivered into kept records, and finds its way after a broken one.

    Half a record may be the first or last thing a reader sees, when a client or a side went away in
    the middle of it.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes, host_ns: int) -> bytes:
        """The kept form of every record that is complete now."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        stamp = host_ns.to_bytes(8, "little")
        if len(data) == RECORD_BYTES and data.startswith(MAGIC) and _checks(data):
            return stamp + data  # nearly always: one beat, whole
        kept = bytearray()
        at = 0
        while len(data) - at >= RECORD_BYTES:
            record = data[at : at + RECORD_BYTES]
            if record.startswith(MAGIC) and _checks(record):
                kept += stamp + record
                at += RECORD_BYTES
            else:
                found = data.find(MAGIC, at + 1)
                # The first bytes of the next magic may be the last ones here.
                at = found if found >= 0 else max(at + 1, len(data) - len(MAGIC) + 1)
        self._rest = data[at:]
        return bytes(kept)


def _checks(record: bytes) -> bool:
    """The exclusive or of all 32-bit words is all ones."""
    number = int.from_bytes(record, "little")
    number ^= number >> 128
    number ^= number >> 64
    number ^= number >> 32
    return number & 0xFFFFFFFF == 0xFFFFFFFF


def unpack(kept: bytes | bytearray, side: str) -> Beats:
    """The beats in kept records of one side."""
    records = np.frombuffer(kept, _KEPT)
    beat = records["record"]
    return Beats(
        host_ns=records["host_ns"].astype(np.int64),
        sequence=beat["sequence"].astype(np.int64),
        guest_ns=beat["guest_ns"].astype(np.int64),
        work=beat["work"].astype(np.int64),
        side=np.zeros(len(records), np.int8),
        sides=(side,),
    )


def merge(*parts: Beats) -> Beats:
    """One series in order of sequence; of a number seen twice, the beat that came first."""
    sides: tuple[str, ...] = tuple(dict.fromkeys(name for part in parts for name in part.sides))
    if not parts:
        return unpack(b"", "")
    numbers = [
        np.array([sides.index(name) for name in part.sides], np.int8)[part.side] for part in parts
    ]
    joined = Beats(
        np.concatenate([part.host_ns for part in parts]),
        np.concatenate([part.sequence for part in parts]),
        np.concatenate([part.guest_ns for part in parts]),
        np.concatenate([part.work for part in parts]),
        np.concatenate(numbers),
        sides,
    )
    order = joined.take(np.lexsort((joined.host_ns, joined.sequence)))
    first = np.ones(len(order), bool)
    first[1:] = order.sequence[1:] != order.sequence[:-1]
    return order.take(np.flatnonzero(first))


def between(merged: Beats, start_ns: int, end_ns: int) -> Beats:
    """The beats of a window of the host's clock and one more at each end, so no gap is cut."""
    inside = np.flatnonzero((merged.host_ns >= start_ns) & (merged.host_ns <= end_ns))
    before = np.flatnonzero(merged.host_ns < start_ns)
    after = np.flatnonzero(merged.host_ns > end_ns)
    first = before[-1] if len(before) else (inside[0] if len(inside) else 0)
    last = after[0] if len(after) else len(merged) - 1
    return merged.take(slice(int(first), int(last) + 1))


def report(merged: Beats, period: float = PERIOD_SECONDS) -> BeatReport:
    """The longest gap of beats in order of sequence, and how many numbers are missing."""
    count = len(merged)
    if count < 2:
        return BeatReport(count, 0, None, None, None, None, None)
    gaps = np.diff(merged.host_ns)
    at = int(np.argmax(gaps))
    guest = int(merged.guest_ns[at + 1] - merged.guest_ns[at])
    return BeatReport(
        beats=count,
        missing=int(merged.sequence[-1] - merged.sequence[0]) + 1 - count,
        gap_ms=_less_period(int(gaps[at]), period),
        guest_clock_gap_ms=_less_period(guest, period),
        gap_at_ns=int(merged.host_ns[at]),
        gap_from=merged.sides[merged.side[at]],
        gap_to=merged.sides[merged.side[at + 1]],
    )


def work_rate(merged: Beats, start_ns: int, end_ns: int) -> float | None:
    """Pages written per second of the host's clock in a window; None where it is not covered."""
    if len(merged) < 2 or end_ns <= start_ns:
        return None
    order = np.argsort(merged.host_ns, kind="stable")
    times, work = merged.host_ns[order], np.maximum.accumulate(merged.work[order])
    if start_ns < times[0] or end_ns > times[-1]:
        return None
    # Relative times: a float cannot hold nanoseconds since boot to the nanosecond.
    first, last = np.interp([0, end_ns - start_ns], times - start_ns, work)
    return float(last - first) / ((end_ns - start_ns) / 1e9)


def _less_period(ns: int, period: float) -> float:
    return max(0.0, ns / 1e6 - period * 1e3)
