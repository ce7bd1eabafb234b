"""Tells the sink where passes began: QEMU knows it, its stream does not say so."""

from __future__ import annotations

from vmferry.precopy.passes import PassTracker


class Marks:
    """Where each pass began, once each, in pages sent before it."""

    def __init__(self) -> None:
        self._known = 1

    def new(self, tracker: PassTracker) -> list[int]:
        """The begins of the passes that are new in `tracker`; the first pass begins at none."""
        current = tracker.current
        records = [*tracker.passes, *([current] if current is not None else [])]
        begins = []
        sent = 0
        for record in records:
            if record.n > self._known:
                begins.append(sent)
                self._known = record.n
            sent += record.sent_pages
        return begins
