"""The map from one pass to the next, and what follows from it: does it converge?

A pass begins with V bytes dirty. QEMU sends until it thinks that what is left is below the
threshold, speed x downtime limit; u bytes are left over. Meanwhile the guest dirties W(T); of that,
the share u / working set hits pages that are still waiting, so the next pass begins with
    V' = u + W(T) x (1 - u / working set)
and QEMU switches over when V' is at most the threshold. V' rises with V and bends down, so there is
one size at which the passes hover. Below the threshold it is never reached: the migration
converges; above it, no number of passes helps.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmferry.precopy.curve import DirtyCurve

# QEMU compares with the threshold at the end of each window of its rate limit, 100 ms long, so on
# average half a window's worth less than the threshold is left over (BUFFER_DELAY, migration.c).
_HALF_WINDOW = 0.05
# A dirty bitmap sync of a few GiB; larger guests take longer.
_SYNC_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class PassMap:
    """One guest over one link. Bytes, bytes per second, seconds.

    `speed` counts bytes on the wire, `wire_share` how many of them a byte of memory takes (less
    than 1 with many zero pages).
    """

    curve: DirtyCurve
    working_set: float
    speed: float
    downtime_limit: float
    wire_share: float = 1.0

    @property
    def threshold(self) -> float:
        """What QEMU takes for small enough to switch over."""
        return self.speed * self.downtime_limit

    @property
    def left_over(self) -> float:
        """What is still unsent when QEMU ends a pass."""
        return max(self.threshold - self.speed * _HALF_WINDOW, self.threshold / 2)

    def pass_seconds(self, dirty: float) -> float:
        """How long a pass takes that begins with `dirty` bytes."""
        to_send = max(dirty - self.left_over, 0.0)
        return to_send * self.wire_share / self.speed + _SYNC_SECONDS

    def new(self, seconds: float) -> float:
        """What the sync after a pass of `seconds` finds newly dirty."""
        waiting = min(self.left_over / self.working_set, 1.0) if self.working_set > 0 else 1.0
        return self.curve(seconds) * (1 - waiting)

    def next_dirty(self, dirty: float) -> float:
        """What the next pass begins with, after one that begins with `dirty` bytes."""
        return min(self.left_over, dirty) + self.new(self.pass_seconds(dirty))

    @property
    def converges(self) -> bool:
        """Whether passes that begin at the threshold get smaller still."""
        return self.next_dirty(self.threshold) < self.threshold

    @property
    def hovers_at(self) -> float:
        """The dirty bytes that passes settle at, were there no switchover."""
        low, high = self.left_over, self.left_over + self.curve.plateau
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.next_dirty(middle) > middle else (low, middle)
        return high
