"""Pre-copy by QEMU's rules (migration/migration.c and ram.c of 7.2), in virtual time.

The migration thread is a generator: it yields the time at which it wants to go on, and `advance`
lets it. It looks at what is left once a rate-limit window (or every 50 ms of sending); below the
threshold, which is the speed of the last window times the downtime limit, it syncs the dirty
bitmap, which begins a pass; what is then still below the threshold is sent with the vCPUs stopped
and without a rate limit. Between `pre-switchover` and `device` it waits for `proceed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmferry.hypervisor.simulated.machine import Guest, Machine
from vmferry.hypervisor.simulated.memory import PAGE_SIZE, Memory
from vmferry.hypervisor.simulated.writer import Background, PageWriter
from vmferry.precopy.sample import ENDED

WINDOW_MS = 100
MAX_WAIT_SECONDS = 0.051
PAGES_A_LOOK = 64
HEADER_BYTES = 8
ZERO_PAGE_BYTES = HEADER_BYTES + 1
SECTION_BYTES = 18  # section start, end-of-section mark and footer: once an iteration
RATE_PERIOD_SECONDS = 1.0

Emit = Callable[[str, str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Sync:
    """One sync of the dirty bitmap: pass `n` begins at `t` with `dirty` pages.

    `left` is what the pass before had not sent, `new` what the sync added to it.
    """

    n: int
    t: float
    left: int
    new: int

    @property
    def dirty(self) -> int:
        return self.left + self.new


class Precopy:
    """One migration of one guest. `bandwidth` and `downtime_limit_ms` may be set at any time.

    `emit(side, name, data)` hears QMP's events as they happen, at time `now`.
    """

    def __init__(
        self,
        guest: Guest,
        machine: Machine,
        *,
        bandwidth: int = 0,
        downtime_limit_ms: int = 300,
        pause_before_switchover: bool = True,
        seed: int = 0,
        emit: Emit = lambda side, name, data: None,
    ) -> None:
        self.bandwidth = bandwidth
        self.downtime_limit_ms = downtime_limit_ms
        self.now = 0.0
        self.status = "none"
        self.vcpus_run = True
        self.syncs: list[Sync] = []
        # QEMU counts a sync when it begins, and tells of its pass when it is over.
        self._sync_count = 0
        self.sent_bytes = 0
        self.normal_pages = 0
        self.zero_pages = 0
        self.downtime_bytes = 0
        self.total_seconds = 0.0
        self.downtime_seconds = 0.0
        self._machine = machine
        self._pause = pause_before_switchover
        self._emit = emit
        self._memory = Memory(guest.layout())
        self._writers = _writers(guest, machine, np.random.default_rng(seed))
        self._written_until = 0.0
        self._thread = self._migrate()
        self._wake = math.inf
        self._horizon = 0.0
        self._halted = False
        self._ending: str | None = None
        self._error = ""
        self._setup_seconds = 0.0
        self._window = _Window(0, 0, 0)
        self._window_used = 0
        self._threshold = 0.0
        self._speed = 0.0
        self._page_speed = 0.0
        self._dirty_rate = 0
        self._rate_since = 0.0
        self._rate_pages = 0

    @property
    def dirty_pages(self) -> int:
        """Pages left to send."""
        return self._memory.dirty_pages

    @property
    def sent_pages(self) -> int:
        """Pages sent so far, zero pages among them."""
        return self.normal_pages + self.zero_pages

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def start(self) -> None:
        """Issue migrate, at time 0."""
        self._wake = self.now
        self.advance(self.now)

    def advance(self, until: float) -> None:
        """Let virtual time pass until `until`, or up to the thread's next step if that is earlier.

        What is sent may already be counted up to `until`.
        """
        if self._halted or self._wake > until:
            self.now = max(self.now, until)
            return
        self.now = max(self.now, self._wake)
        self._horizon = until
        if self._ending is not None:
            self._end(self._ending)
        else:
            self._wake = next(self._thread, math.inf)

    def run(self, until: float) -> None:
        """Let virtual time pass until `until` or the end of the migration."""
        while self.now < until and not self.ended:
            self.advance(until)

    def proceed(self) -> None:
        """Go on from pre-switchover (migrate-continue)."""
        if self.status == "pre-switchover":
            self._become("device")
            self._wake = self.now

    def cancel(self) -> None:
        """Give the migration up (migrate_cancel); the vCPUs run on."""
        if self.ended or self.status in {"none", "cancelling"}:
            return
        self._become("cancelling")
        self._ending = "cancelled"
        if self._wake == math.inf:
            self._wake = self.now

    def break_stream(self, error: str) -> None:
        """The destination is gone: the source sees it when it next sends or waits for it."""
        if not self.ended and self._ending is None:
            self._ending = "failed"
            self._error = error

    def halt(self) -> None:
        """The source is gone, in the middle of whatever it did."""
        self._halted = True

    # The migration thread. Each `yield` is a time to go on at.

    def _migrate(self) -> Iterator[float]:
        self._become("setup")
        self._start_window()  # setup is within the first window
        yield self.now + self._machine.setup_seconds
        self._sync_count = 1
        self._begin_pass()
        self._rate_since = self._setup_seconds = self.now
        self._become("active")
        while True:
            if not self._limit_reached():
                if self._left() < self._threshold:
                    yield from self._sync()
                if self._left() == 0 or self._left() < self._threshold:
                    break
                yield from self._iterate()
            self._update_counters()
            if self._limit_reached():
                rest_ms = self._window.start_ms + WINDOW_MS - int(self.now * 1000)
                yield self.now + max(rest_ms, 0) / 1000 + self._machine.wake_delay
        yield from self._complete()

    def _left(self) -> int:
        return self.dirty_pages * PAGE_SIZE

    def _limit_reached(self) -> bool:
        return 0 < self._window_bytes() < self._window_used

    def _window_bytes(self) -> int:
        return self.bandwidth * WINDOW_MS // 1000

    def _start_window(self) -> None:
        self._window = _Window(int(self.now * 1000), self.sent_bytes, self.sent_pages)
        self._window_used = 0

    def _update_counters(self) -> None:
        elapsed_ms = int(self.now * 1000) - self._window.start_ms
        if elapsed_ms < WINDOW_MS:
            return
        self._speed = (self.sent_bytes - self._window.sent_bytes) / elapsed_ms * 1000
        self._page_speed = (self.sent_pages - self._window.sent_pages) / elapsed_ms * 1000
        self._threshold = self._speed * self.downtime_limit_ms / 1000
        self._start_window()

    def _iterate(self) -> Iterator[float]:
        """Send until the window's bytes are used up, 50 ms have passed or nothing is left."""
        costs = self._costs_ahead()
        count = len(costs.bytes) - 1
        if self._window_bytes():
            rest = self._window_bytes() - self._window_used
            count = min(count, int(np.searchsorted(costs.bytes, rest, side="right")))
        late = int(np.searchsorted(costs.seconds, MAX_WAIT_SECONDS))
        count = min(count, math.ceil((late - 1) / PAGES_A_LOOK) * PAGES_A_LOOK + 1)
        yield from self._send(costs, count)
        self.sent_bytes += SECTION_BYTES
        self._window_used += SECTION_BYTES

    def _costs_ahead(self) -> _Costs:
        zero = self._memory.zero_ahead()
        machine = self._machine
        page_bytes = np.where(zero, ZERO_PAGE_BYTES, HEADER_BYTES + PAGE_SIZE)
        page_seconds = np.where(
            zero, 1 / machine.zero_pages_per_second, (HEADER_BYTES + PAGE_SIZE) / machine.uncapped
        )
        return _Costs(_sums(page_bytes), _sums(page_seconds), _sums(zero))

    def _send(self, costs: _Costs, count: int) -> Iterator[float]:
        """Send the next `count` pages, in as many steps as are looked at from outside."""
        start = self.now
        done = 0
        while done < count:
            until = self._horizon - start
            step = min(count, int(np.searchsorted(costs.seconds, until, side="right")) - 1)
            if step > done:
                self._count_sent(costs, done, step)
                done = step
            yield start + float(costs.seconds[min(done + 1, count)])

    def _count_sent(self, costs: _Costs, first: int, last: int) -> None:
        zero = int(costs.zero[last] - costs.zero[first])
        size = int(costs.bytes[last] - costs.bytes[first])
        self._memory.send(last - first)
        self.zero_pages += zero
        self.normal_pages += last - first - zero
        self.sent_bytes += size
        self._window_used += size
        if not self.vcpus_run:
            self.downtime_bytes += size

    def _sync(self) -> Iterator[float]:
        """Sync the dirty bitmap: a pass begins."""
        self._sync_count += 1
        self._write_until(self.now)
        pages = self._memory.written_pages
        seconds = self._machine.sync_seconds + pages * self._machine.sync_seconds_per_page
        end = self.now + seconds
        # The log is read page by page meanwhile: on average in the middle.
        yield self.now + seconds / 2
        self._write_until(self.now)
        left = self.dirty_pages
        new = self._memory.sync()
        yield end
        self._begin_pass(left, new)
        self._rate_pages += new
        elapsed = self.now - self._rate_since
        if elapsed > RATE_PERIOD_SECONDS:
            self._dirty_rate = int(self._rate_pages / elapsed)
            self._rate_since = self.now
            self._rate_pages = 0

    def _begin_pass(self, left: int = 0, new: int | None = None) -> None:
        added = self.dirty_pages if new is None else new
        self.syncs.append(Sync(len(self.syncs) + 1, self.now, left, added))
        self._emit("source", "MIGRATION_PASS", {"pass": len(self.syncs)})

    def _write_until(self, t: float) -> None:
        if self.vcpus_run:
            for writer in self._writers:
                self._memory.write(writer.written(self._written_until, t))
        self._written_until = t

    def _complete(self) -> Iterator[float]:
        """Stage 3: stop the vCPUs, sync once more, send the rest without a limit."""
        stopped_at = self.now
        yield self.now + self._machine.stop_seconds
        self._write_until(self.now)
        self.vcpus_run = False
        self._emit("source", "STOP", {})
        if self._pause:
            self._become("pre-switchover")
            yield math.inf
        yield from self._sync()
        costs = self._costs_ahead()
        yield from self._send(costs, len(costs.bytes) - 1)
        yield self.now + self._machine.device_seconds
        self._emit("destination", "MIGRATION", {"status": "completed"})
        yield self.now + self._machine.told_seconds
        self.total_seconds = self.now
        self.downtime_seconds = self.now - stopped_at
        self._become("completed")

    def _end(self, status: str) -> None:
        """What the thread does instead of its next step once the migration is given up."""
        self._wake = math.inf
        self._become(status)
        if not self.vcpus_run:
            self.vcpus_run = True
            self._emit("source", "RESUME", {})

    def _become(self, status: str) -> None:
        self.status = status
        self._emit("source", "MIGRATION", {"status": status})

    def reply(self) -> dict[str, Any]:
        """What query-migrate says now."""
        if self.status == "none":
            return {}
        if self.status in {"setup", "cancelled"}:
            return {"status": self.status}
        if self.status == "failed":
            return {"status": "failed", "error-desc": self._error}
        done = self.status == "completed"
        figures = (
            {"downtime": int(self.downtime_seconds * 1000)}
            if done
            else {"expected-downtime": self._expected_downtime_ms()}
        )
        return {
            "status": self.status,
            "setup-time": int(self._setup_seconds * 1000),
            "total-time": int((self.total_seconds if done else self.now) * 1000),
            **figures,
            "ram": {
                "total": self._memory.pages * PAGE_SIZE,
                "transferred": self.sent_bytes,
                "remaining": self._left(),
                "normal": self.normal_pages,
                "normal-bytes": self.normal_pages * PAGE_SIZE,
                "duplicate": self.zero_pages,
                "skipped": 0,
                "page-size": PAGE_SIZE,
                "dirty-sync-count": self._sync_count,
                "dirty-pages-rate": 0 if done else self._dirty_rate,
                "pages-per-second": int(self._page_speed),
                "mbps": self._speed * 8 / 1e6,
                "precopy-bytes": self.sent_bytes - self.downtime_bytes,
                "downtime-bytes": self.downtime_bytes,
                "postcopy-bytes": 0,
            },
        }

    def _expected_downtime_ms(self) -> int:
        if self._dirty_rate and self._speed:
            return int(self._left() / self._speed * 1000)
        return self.downtime_limit_ms


@dataclass(frozen=True, slots=True)
class _Window:
    """A rate-limit window: when it began and what had been sent by then."""

    start_ms: int
    sent_bytes: int
    sent_pages: int


@dataclass(frozen=True, slots=True)
class _Costs:
    """Of the pages left to send, in their order: running sums, from 0, of what each costs."""

    bytes: NDArray[np.int64]
    seconds: NDArray[np.float64]
    zero: NDArray[np.int64]


def _sums(values: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(([0], np.cumsum(values)))


def _writers(
    guest: Guest, machine: Machine, rng: np.random.Generator
) -> list[PageWriter | Background]:
    layout = guest.layout()
    static = layout.static_pages()
    pages = rng.choice(static, min(machine.background_pages, len(static)), replace=False)
    writers: list[PageWriter | Background] = [
        Background(pages, machine.background_writes_per_second, rng)
    ]
    if guest.writer is not None:
        rate = machine.unlimited_writes_per_second
        writers.append(
            PageWriter(guest.writer, layout.working_set_pages(), rate, guest.writer_age, rng)
        )
    return writers
