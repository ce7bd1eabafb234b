"""What each pass of a migration sent and found dirty: QEMU keeps no such history.

A field that is not known to within 1 % (or one page) is named in the record's `estimated`; times
are exact where QEMU's MIGRATION_PASS events gave them. The passes add up to QEMU's own totals.
The last pass of a completed migration is the switchover: its sync happens when the vCPUs stand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

from vmferry.precopy.outcome import PassRecord
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.syncs import Gap, Sync

_TOLERANCE = 0.01


class PassTracker:
    """Builds the passes of one migration from its samples and MIGRATION_PASS events.

    Without events (a recording) the times of syncs are inferred from the samples around them.
    """

    def __init__(self) -> None:
        self._marks: dict[int, float] = {}
        self._settled: list[PassRecord] = []
        self._before_last: Sync | None = None
        self._last: Sync | None = None
        self._gap: Gap | None = None
        self._end: float | None = None
        self._completed_at: float | None = None

    @property
    def number(self) -> int:
        """The latest pass that QEMU has begun, 0 before the first."""
        return max(self._gap.n if self._gap else 0, max(self._marks, default=0))

    @property
    def ended(self) -> bool:
        """Whether the last figures of the migration have come."""
        return self._end is not None

    @property
    def passes(self) -> tuple[PassRecord, ...]:
        """The finished passes that a later sample bounds; all of them after the end.

        The last one may still become more exact.
        """
        latest = self._latest_records()
        return tuple(self._settled + (latest if self.ended else latest[:-1]))

    @property
    def current(self) -> PassRecord | None:
        """The pass of the latest sample, up to it. None before the first and after the end."""
        latest = self._latest_records()
        return latest[-1] if latest and not self.ended else None

    def receive(self, item: Sample | Event) -> None:
        """Take the next input, in the order of time."""
        if self.ended:
            return
        if isinstance(item, Event):
            self._receive_event(item)
        elif item.total > 0 and item.sync_count > 0:
            self._receive_sample(item)
        elif item.status in ("cancelled", "failed"):
            self._end_without_figures(item.t)

    def _receive_event(self, event: Event) -> None:
        if event.side != "source":
            return
        if event.name == "MIGRATION_PASS":
            self._marks.setdefault(int(event.data["pass"]), event.t)
        elif event.name == "MIGRATION":
            status = event.data.get("status")
            if status == "completed":
                self._completed_at = event.t
            elif status in ("cancelled", "failed"):
                self._end_without_figures(event.t)

    def _receive_sample(self, sample: Sample) -> None:
        gap = self._gap
        if gap is None:
            start = Sample(t=0.0, status="setup", total=sample.total, page_size=sample.page_size)
            self._gap = Gap(start, sample, None)
        elif sample.sync_count < gap.n or sample.sent_pages < gap.last.sent_pages:
            return  # an older reply that came late
        elif sample.sync_count > gap.n:
            self._settle()
            self._gap = Gap(gap.last, sample, self._last)
        else:
            gap.extend(sample)
        # `completed` may be visible before its figures are.
        if sample.status == "completed" and sample.total_time_ms > 0:
            total_time = sample.total_time_ms / 1000
            self._end = total_time if self._completed_at is None else self._completed_at
        elif sample.status in ("cancelled", "failed"):
            self._end_without_figures(sample.t)

    def _end_without_figures(self, t: float) -> None:
        """A cancelled or failed migration shows no figures any more: the last ones stand."""
        self._end = t
        if self._gap is not None and self.number > self._gap.n:
            last = dataclasses.replace(self._gap.last, t=t, sync_count=self.number)
            self._settle()
            self._gap = Gap(self._gap.last, last, self._last)
            self._gap.known_exact = False

    def _settle(self) -> None:
        """Keep what no later sample can make more exact."""
        assert self._gap is not None
        self._settled += self._latest_records()[:-1]
        *_, self._before_last, self._last = (
            self._before_last,
            self._last,
            *self._gap.syncs(self._marks),
        )

    def _latest_records(self) -> list[PassRecord]:
        """The passes from the last settled sync on; the last of them is not over yet."""
        gap = self._gap
        if gap is None:
            return []
        syncs = gap.syncs(self._marks)
        if self._last is not None:
            syncs.insert(0, self._last)
        end = Sync(
            n=gap.n + 1,
            t=gap.last.t if self._end is None else self._end,
            t_exact=True,
            sent=gap.last.sent_pages,
            slack=0,
            zero=gap.last.zero_pages,
            zero_slack=0,
            transferred=gap.last.transferred,
            known=gap.known,
            known_exact=gap.known_exact,
        )
        before = self._before_last
        records = []
        for sync, following in pairwise([*syncs, end]):
            records.append(_record(before, sync, following, gap.last.page_size))
            before = sync
        if self.ended and gap.last.status == "completed":
            records[-1] = dataclasses.replace(records[-1], switchover=True)
        return records


def dirty_at_syncs(tracker: PassTracker) -> list[int]:
    """What each sync but the first, as far as there were any, left to send; in bytes."""
    current = tracker.current
    records = [*tracker.passes, *([current] if current is not None else [])]
    return [record.dirty_bytes for record in records if record.n > 1]


def resent_bytes(passes: Sequence[PassRecord]) -> int:
    """Of the bytes sent, those that were not the first copy of their page."""
    if not passes:
        return 0
    after_first = sum(record.sent_bytes for record in passes[1:])
    # What pass 1 left over goes out for the first time later.
    return max(after_first - passes[0].left_bytes, 0)


def _record(before: Sync | None, sync: Sync, following: Sync, page_size: int) -> PassRecord:
    sent, zero = following.sent - sync.sent, following.zero - sync.zero
    new = sync.known - (before.known if before else 0)
    left = max(sync.known - following.sent, 0)
    slack = sync.slack + following.slack
    new_exact = sync.known_exact and (before is None or before.known_exact)
    sent_exact = _exact(sent, slack)
    exact = {
        "start_ms": sync.t_exact,
        "duration_ms": sync.t_exact and following.t_exact,
        "sent_bytes": sent_exact,
        "sent_pages": sent_exact,
        "zero_pages": _exact(zero, sync.zero_slack + following.zero_slack),
        "dirty_bytes": sync.known_exact and _exact(sync.dirty, sync.slack),
        "new_bytes": new_exact,
        "left_bytes": sync.known_exact and _exact(left, following.slack),
    }
    return PassRecord(
        n=sync.n,
        start_ms=sync.t * 1000,
        duration_ms=max(following.t - sync.t, 0.0) * 1000,
        sent_bytes=following.transferred - sync.transferred,
        sent_pages=sent,
        zero_pages=zero,
        dirty_bytes=sync.dirty * page_size,
        new_bytes=max(new, 0) * page_size,
        left_bytes=left * page_size,
        estimated=tuple(name for name, is_exact in exact.items() if not is_exact),
    )


def _exact(value: int, slack: float) -> bool:
    return slack <= max(1.0, _TOLERANCE * value)
