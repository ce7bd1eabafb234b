"""The state at each dirty bitmap sync, from the samples on either side of it.

Between two syncs, pages left + pages sent is constant (called `known` here): every page sent is one
page less to send. So one sample anywhere inside a pass tells `known` exactly, and the step of
`known` from one pass to the next is exactly the number of pages that the sync found newly dirty
(QEMU's num_dirty_pages_period, migration/ram.c).

How many pages had been sent at the moment of a sync lies between the samples on either side of it.
Two things narrow that down: QEMU's `expected-downtime` times its speed is what the last sync left
dirty, to one millisecond's worth; and at the end `downtime-bytes` is what was sent after the last
sync. Where neither helps, the count is interpolated in time. A sample from before the switchover,
when the vCPUs stand, is exact for the syncs on both sides of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from vmferry.precopy.sample import Sample

# The vCPUs have stopped and QEMU waits for `migrate-continue`.
STANDING = "pre-switchover"
# A RAM page on the wire is a header of 8 bytes and the page itself.
_PAGE_HEADER = 8
# QEMU measures its speed, and with it the expected downtime, in windows of 100 ms, and looks at the
# clock at most 50 ms later.
_UPDATE_SECONDS = 0.16


@dataclass(frozen=True, slots=True)
class Sync:
    """The counters at one sync; `slack` and `zero_slack` tell how far off `sent`, `zero` may be.

    `t` in seconds, `transferred` in bytes, the rest in pages.
    """

    n: int
    t: float
    t_exact: bool
    sent: int
    slack: float
    zero: int
    zero_slack: int
    transferred: int
    known: int
    known_exact: bool

    @property
    def dirty(self) -> int:
        """Pages to send when the sync was done."""
        return self.known - self.sent


class Gap:
    """The stretch between the last sample of earlier passes and the first of the latest pass.

    Holds one sync or more: passes shorter than the polling have no sample of their own.
    """

    def __init__(self, before: Sample, first: Sample, previous: Sync | None) -> None:
        self.before = before
        self.first = first
        self.last = first
        self.known = pages_known(first)
        self.known_exact = True
        self._previous = previous
        # Bounds of what the latest sync left dirty, in pages.
        self._dirty_low, self._dirty_high = 0.0, inf
        if previous is not None and self._is_new(first, previous):
            self._narrow(first)

    @property
    def n(self) -> int:
        """The number of the latest pass."""
        return self.first.sync_count

    @property
    def _completed(self) -> bool:
        # `completed` may be visible before its figures are.
        return self.last.status == "completed" and self.last.total_time_ms > 0

    def extend(self, sample: Sample) -> None:
        """Take another sample of the latest pass."""
        # Counters are read one by one while the migration thread counts: a torn sum is too low.
        self.known = max(self.known, pages_known(sample))
        self.last = sample
        if sample.mbps != self.first.mbps or sample.t - self.first.t > _UPDATE_SECONDS:
            self._narrow(sample)

    def syncs(self, marks: Mapping[int, float]) -> list[Sync]:
        """The syncs of this gap in order, `marks` being the event times by pass number."""
        a, b = self.before, self.first
        low, high = self._sent_bounds()
        end = self.last.total_time_ms / 1000
        exact_time = marks.get(self.n)
        if self.n == 1:
            t, sent = exact_time if exact_time is not None else a.t, 0
        elif exact_time is not None:
            t = exact_time
            sent = min(max(self._sent_at(t), low), high)
        elif self._completed and self.last.downtime_ms is not None:
            # The last sync comes right after the vCPUs stopped.
            t = max(end - self.last.downtime_ms / 1000, a.t)
            sent = (low + high) // 2
        elif high - low < b.sent_pages - a.sent_pages:
            sent = (low + high) // 2
            t = a.t + (b.t - a.t) * _share(sent, a.sent_pages, b.sent_pages)
        else:
            count = self.n - a.sync_count
            t = a.t + (b.t - a.t) * count / (count + 1)
            sent = round(a.sent_pages + (b.sent_pages - a.sent_pages) * count / (count + 1))
        sent = min(sent, self.known)
        result: list[Sync] = []
        # No more can have been sent when a pass ended than was known in it.
        ceiling = self._previous.known if self._previous else 0
        for n, time in self._times(t, marks):
            if n == self.n:
                result.append(self._latest(t, n in marks, min(sent, ceiling), high - low))
            else:
                result.append(self._unseen(n, time, n in marks, t, sent, ceiling))
            ceiling = result[-1].known
        return result

    def _sent_at(self, t: float) -> int:
        """Pages sent by time t, in proportion; at most what QEMU's speed allows until then.

        QEMU sends in bursts, and a sample that its sync's event called for has seen the next one.
        """
        a, b = self.before, self.first
        part = _share(t, a.t, b.t)
        if a.mbps > 0 and b.transferred > a.transferred:
            by_speed = (t - a.t) * a.mbps * 1e6 / 8 / (b.transferred - a.transferred)
            part = min(part, max(by_speed, 0.0))
        return a.sent_pages + round((b.sent_pages - a.sent_pages) * part)

    def _times(self, last_t: float, marks: Mapping[int, float]) -> list[tuple[int, float]]:
        """The syncs and their times; those without an event are evenly spread."""
        # The sync before the last one decides the switchover: no time to speak of lies in between.
        last = self.n - 1 if self._completed else self.n
        known = {**marks, self.n: last_t}
        known.setdefault(last, last_t)
        known.setdefault(1, self.before.t)
        times: list[tuple[int, float]] = []
        since = self.before.t
        for n in range(self.before.sync_count + 1, self.n + 1):
            t = known.get(n)
            if t is None:
                later = min(m for m in known if n < m <= self.n)
                t = since + (known[later] - since) / (later - n + 1)
            times.append((n, t))
            since = t
        return times

    def _latest(self, t: float, t_exact: bool, sent: int, slack: int) -> Sync:
        return Sync(
            n=self.n,
            t=t,
            t_exact=t_exact,
            sent=sent,
            slack=slack,
            zero=self._zero_at(sent),
            zero_slack=self._zeros if slack else 0,
            transferred=self._transferred_at(self.n, sent),
            known=self.known,
            known_exact=self.known_exact,
        )

    def _unseen(
        self, n: int, t: float, t_exact: bool, latest_t: float, latest_sent: int, ceiling: int
    ) -> Sync:
        """A sync whose pass has no sample: sent and found dirty as if at constant rates."""
        a = self.before
        if n == 1:
            sent = 0
        elif n == self.n - 1 and self._completed:
            # The sync before the last one decides the switchover: nothing is sent in between.
            sent = min(latest_sent, ceiling)
        else:
            part = _share(t, a.t, latest_t)
            sent = min(a.sent_pages + round((latest_sent - a.sent_pages) * part), ceiling)
        since, known = a.t, min(a.total // a.page_size, self.known)
        if self._previous is not None:
            since, known = self._previous.t, self._previous.known
        known += round((self.known - known) * _share(t, since, latest_t))
        if n == self.n - 1:
            known = max(known, latest_sent)
        return Sync(
            n=n,
            t=t,
            t_exact=t_exact,
            sent=sent,
            slack=self.first.sent_pages - a.sent_pages if n > 1 else 0,
            zero=self._zero_at(sent),
            zero_slack=self._zeros if n > 1 else 0,
            transferred=self._transferred_at(n, sent),
            known=known,
            known_exact=False,
        )

    def _sent_bounds(self) -> tuple[int, int]:
        """The least and the most that may have been sent when the latest pass began, in pages."""
        low, high = self.before.sent_pages, self.first.sent_pages
        if self.n == 1:
            return 0, 0
        # QEMU sends nothing from the sync that decides the switchover to the one that follows.
        for sample in (self.before, self.last):
            if sample.status == STANDING:
                return sample.sent_pages, sample.sent_pages
        if self._completed and self.last.downtime_bytes > 0:
            pages = self.last.downtime_bytes // (self.last.page_size + _PAGE_HEADER)
            most = min(max(self.last.sent_pages - pages, low), high)
            # Zero pages, of 9 bytes each, hide in downtime-bytes: as many as there were at most.
            return max(low, most - self._zeros), most
        least = max(low, round(self.known - self._dirty_high) if self._dirty_high < inf else low)
        most = min(high, round(self.known - self._dirty_low))
        return (least, most) if least <= most else (low, high)

    @property
    def _zeros(self) -> int:
        return self.first.zero_pages - self.before.zero_pages

    def _zero_at(self, sent: int) -> int:
        part = _share(sent, self.before.sent_pages, self.first.sent_pages)
        return min(self.before.zero_pages + round(self._zeros * part), sent)

    def _transferred_at(self, n: int, sent: int) -> int:
        a, b = self.before, self.first
        if n == 1:
            return 0
        if self._completed and self.last.downtime_bytes > 0 and n >= self.n - 1:
            # QEMU itself counts apart what it sent before the vCPUs stopped.
            return min(max(self.last.precopy_bytes, a.transferred), b.transferred)
        part = _share(sent, a.sent_pages, b.sent_pages)
        return a.transferred + round((b.transferred - a.transferred) * part)

    def _is_new(self, sample: Sample, previous: Sync) -> bool:
        """Whether a first sample's expected-downtime is surely of the latest sync.

        A changed speed means that QEMU computed it anew since the sample before, but that may have
        been before the sync still: then it fits what the previous sync left.
        """
        if sample.mbps == self.before.mbps or previous.n != self.n - 1:
            return False
        low, high = _expected_dirty(sample)
        return high < previous.dirty - previous.slack or low > previous.dirty + previous.slack

    def _narrow(self, sample: Sample) -> None:
        if sample.dirty_pages_rate == 0 or sample.expected_downtime_ms is None:
            return  # QEMU has not computed it yet: it shows the limit
        low, high = _expected_dirty(sample)
        low, high = max(low, self._dirty_low), min(high, self._dirty_high)
        if low <= high:
            self._dirty_low, self._dirty_high = low, high


def pages_known(sample: Sample) -> int:
    """Pages sent so far and pages left."""
    return sample.remaining // sample.page_size + sample.sent_pages


def _expected_dirty(sample: Sample) -> tuple[float, float]:
    """Bounds in pages, of what the last sync left: QEMU divides it by its speed, rounded down."""
    pages_per_ms = sample.mbps * 1e6 / 8 / 1000 / sample.page_size
    expected = sample.expected_downtime_ms or 0
    return expected * pages_per_ms, (expected + 1) * pages_per_ms


def _share(x: float, low: float, high: float) -> float:
    """How far x is on the way from low to high, 0 to 1."""
    return min(max((x - low) / (high - low), 0.0), 1.0) if high > low else 0.0
