"""What writes to guest memory: the page writer with the test guest's settings, and the background.

A writer is asked what it wrote between two times; it never runs ahead of the one who asks.
"""

from __future__ import annotations

import numpy as np

from vmferry.hypervisor.simulated.memory import PAGE_SIZE, Pages
from vmferry.testguest.settings import PageWriterSettings


class PageWriter:
    """Writes whole pages of a working set as the test guest's page writer does (guest/writer.c).

    `age` is how long the settings were in force at time 0: phases count from there.
    """

    def __init__(
        self,
        settings: PageWriterSettings,
        pages: Pages,
        unlimited_writes_per_second: float,
        age: float,
        rng: np.random.Generator,
    ) -> None:
        rate = (
            unlimited_writes_per_second * (1 - settings.read_share / 100)
            if settings.write_rate == "unlimited"
            else settings.write_rate / PAGE_SIZE
        )
        threads = settings.threads
        self._phases = _phases(settings.phases)
        self._age = age
        # Thread i of n owns the pages i, i + n, i + 2n …
        self._threads = [
            _Thread(pages[i::threads], rate / threads, settings, rng) for i in range(threads)
        ]

    def written(self, start: float, end: float) -> Pages:
        """The pages written from `start` to `end`, seconds since migrate; some more than once."""
        busy = self._busy(self._age + end) - self._busy(self._age + start)
        return np.concatenate([thread.written(busy) for thread in self._threads])

    def _busy(self, until: float) -> float:
        """Seconds of writing from the beginning of the first phase to `until`."""
        if not self._phases:
            return until
        cycles, rest = divmod(until, sum(length for _, length in self._phases))
        busy = cycles * sum(length for busy, length in self._phases if busy)
        for is_busy, length in self._phases:
            busy += min(rest, length) if is_busy else 0.0
            rest = max(0.0, rest - length)
        return busy


def _phases(text: str) -> list[tuple[bool, float]]:
    """Whether it writes and for how many seconds, from `busy:5,idle:3`."""
    parts = (part.split(":") for part in text.split(",") if part)
    return [(kind == "busy", float(seconds)) for kind, seconds in parts]


class _Thread:
    """One thread's share of the working set; hot pages first."""

    def __init__(
        self,
        pages: Pages,
        pages_per_second: float,
        settings: PageWriterSettings,
        rng: np.random.Generator,
    ) -> None:
        hot = max(1, len(pages) * settings.hot_pages // 100) if settings.hot_pages else 0
        self._rate = pages_per_second
        self._hot_share = settings.hot_writes / 100
        self._due = 0.0
        self._rng = rng
        kind = _Sequential if settings.order == "sequential" else _Random
        self._hot = kind(pages[:hot], rng)
        self._cold = kind(pages[hot:], rng)

    def written(self, busy_seconds: float) -> Pages:
        self._due += busy_seconds * self._rate
        count = int(self._due)
        self._due -= count
        hot = int(self._rng.binomial(count, self._hot_share)) if self._hot_share else 0
        return np.concatenate((self._hot.pick(hot), self._cold.pick(count - hot)))


class _Sequential:
    """One page after the other, and around, from a place that nobody knows."""

    def __init__(self, pages: Pages, rng: np.random.Generator) -> None:
        self._pages = pages
        self._next = int(rng.integers(max(len(pages), 1)))

    def pick(self, count: int) -> Pages:
        size = len(self._pages)
        if count == 0 or size == 0:
            return self._pages[:0]
        if count >= size:
            picked = self._pages
        else:
            picked = np.take(self._pages, range(self._next, self._next + count), mode="wrap")
        self._next = (self._next + count) % size
        return picked


class _Random:
    """Any page, each as likely as the others."""

    def __init__(self, pages: Pages, rng: np.random.Generator) -> None:
        self._pages = pages
        self._rng = rng

    def pick(self, count: int) -> Pages:
        size = len(self._pages)
        if count == 0 or size == 0:
            return self._pages[:0]
        if count > size:
            # Many writes a page: draw whether each page was met, not every write.
            missed = (1 - 1 / size) ** count
            return self._pages[self._rng.random(size) >= missed]
        return self._pages[self._rng.integers(0, size, count)]


class Background:
    """What an idle guest dirties: kernel and programs, a small set again and again."""

    def __init__(self, pages: Pages, writes_per_second: float, rng: np.random.Generator) -> None:
        self._random = _Random(pages, rng)
        self._rate = writes_per_second
        self._due = 0.0

    def written(self, start: float, end: float) -> Pages:
        """The pages written from `start` to `end`, seconds since migrate."""
        self._due += (end - start) * self._rate
        count = int(self._due)
        self._due -= count
        return self._random.pick(count)
