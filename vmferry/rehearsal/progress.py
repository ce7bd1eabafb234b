"""How far a rehearsal is, for the display."""

from __future__ import annotations

from dataclasses import replace

from vmferry.precopy.progress import Progress, Snapshot


class RehearsalProgress(Progress):
    """That of a migration, but for its end: a rehearsal is over when its answer is certain."""

    def snapshot(self) -> Snapshot:
        return replace(super().snapshot(), eta=None)
