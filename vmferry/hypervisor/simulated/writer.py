"""What writes to guest memory: the page writer with the test guest's settings, and the background.

A writer is asked what it wrote between two times; it never runs ahead of the one who asks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vmferry.hypervisor.simulated.memory import PAGE_SIZE, Pages

Order = Literal["random", "sequential"]


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """The page writer's settings. Bytes, bytes per second (None is as fast as it can), per cent.

    `hot_writes` per cent of the writes go to the first `hot_pages` per cent of the working set.
    `phases` are seconds of writing and of rest in turn, from `phase_offset` seconds into them at
    the time that migrate is issued; none is writing all the time.
    """

    working_set: int
    write_rate: float | None = None
    hot_writes: float = 0.0
    hot_pages: float = 0.0
    order: Order = "random"
    phases: tuple[float, ...] = ()
    phase_offset: float = 0.0
    threads: int = 1


class PageWriter:
    """Writes whole pages of a working set, by settings."""

    def __init__(
        self,
        settings: WriterSettings,
        pages: Pages,
        unlimited_writes_per_second: float,
        rng: np.random.Generator,
    ) -> None:
        rate = settings.write_rate
        each = unlimited_writes_per_second if rate is None else rate / PAGE_SIZE / settings.threads
        self._settings = settings
        self._threads = [
            _Thread(share, each, settings, rng) for share in np.array_split(pages, settings.threads)
        ]

    def written(self, start: float, end: float) -> Pages:
        """The pages written from `start` to `end`, seconds since migrate; some more than once."""
        busy = self._busy(end) - self._busy(start)
        return np.concatenate([thread.written(busy) for thread in self._threads])

    def _busy(self, until: float) -> float:
        """Seconds of writing from the start of the phases to `until`."""
        phases = self._settings.phases
        if not phases:
            return until
        period = math.fsum(phases)
        busy_in_period = math.fsum(phases[::2])
        whole, rest = divmod(until + self._settings.phase_offset, period)
        busy = whole * busy_in_period
        for index, length in enumerate(phases):
            part = min(rest, length)
            busy += part if index % 2 == 0 else 0.0
            rest -= part
        return busy


class _Thread:
    """One thread's share of the working set; hot pages first."""

    def __init__(
        self,
        pages: Pages,
        pages_per_second: float,
        settings: WriterSettings,
        rng: np.random.Generator,
    ) -> None:
        hot = round(len(pages) * settings.hot_pages / 100) if settings.hot_writes else 0
        self._rate = pages_per_second
        self._hot_share = settings.hot_writes / 100 if hot else 0.0
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
    """One page after the other, and around."""

    def __init__(self, pages: Pages, _: np.random.Generator) -> None:
        self._pages = pages
        self._next = 0

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
