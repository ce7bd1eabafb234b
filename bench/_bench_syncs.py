"""QEMU's own word on each sync of the dirty bitmap: its trace events, as ground truth.

`migration_bitmap_sync_end` tells the pages found newly dirty, but adds them up until more than a
second has gone by since it last began anew (migration/ram.c, migration_bitmap_sync).
`migrate_pending` tells what is left to send, at the head of each round of the migration thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

TRACED = ("migrate_pending", "migration_bitmap_sync_start", "migration_bitmap_sync_end")
PERIOD_SECONDS = 1.0
# QEMU compares whole milliseconds, and reads its clock a little after the event.
UNSURE_SECONDS = 0.003
PAGE = 4096
_LINE = re.compile(r"\d+@(\d+\.\d+):(\w+)(.*)")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class TracedSync:
    """One sync. `t` is seconds since 1970, `new` and `dirty` are pages.

    `new` is None where it cannot be told whether QEMU had begun to count anew, `dirty` where QEMU
    did not look before it went on sending.
    """

    t: float
    new: int | None
    dirty: int | None


class _Counter:
    """Takes the sums of `migration_bitmap_sync_end` apart."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._latest = 0.0
        self._sum = 0
        self._sure = True

    def begin(self, t: float) -> None:
        """The first sync begins: QEMU counts from here on."""
        if self._since is None:
            self._since = t

    def new(self, t: float, figure: int) -> int | None:
        """The pages that the sync that ended at `t` found, where that can be told."""
        if figure < self._sum:  # so it began anew after the sync before
            self._since, self._sum, self._sure = self._latest, 0, True
        new = figure - self._sum if self._sure else None
        past = t - (self._since or t) - PERIOD_SECONDS
        self._sum, self._latest = figure, t
        if abs(past) < UNSURE_SECONDS:
            self._sure = False
        elif past > 0:
            self._since, self._sum = t, 0
        return new


def read_syncs(lines: Iterable[str]) -> list[TracedSync]:
    """The syncs of one migration, from the log that QEMU writes with `-trace` for TRACED."""
    syncs: list[TracedSync] = []
    counter = _Counter()
    for t, name, figure in _parse(lines):
        if name == "migration_bitmap_sync_start":
            counter.begin(t)
        elif name == "migration_bitmap_sync_end":
            syncs.append(TracedSync(t, counter.new(t, figure), None))
        elif syncs and syncs[-1].dirty is None:
            syncs[-1] = replace(syncs[-1], dirty=figure // PAGE)
    if len(syncs) > 1 and syncs[-1].dirty is None:
        # The switchover's: no look follows it, and nothing was sent since the sync before.
        before, last = syncs[-2:]
        if before.dirty is not None and last.new is not None:
            syncs[-1] = replace(last, dirty=before.dirty + last.new)
    return syncs


def _parse(lines: Iterable[str]) -> Iterable[tuple[float, str, int]]:
    for text in lines:
        match = _LINE.match(text)
        if match is not None and match[2] in TRACED:
            number = _NUMBER.search(match[3])
            yield float(match[1]), match[2], int(number[0]) if number else 0
