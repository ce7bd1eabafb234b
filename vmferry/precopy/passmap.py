"""The map from one pass to the next, and what follows from it: does it converge, and when?

A pass begins with V bytes dirty. QEMU sends until it thinks that what is left is below the
threshold, speed x downtime limit; u bytes are left over. Meanwhile the guest dirties W(T); of that,
the share u / working set hits pages that are still waiting, so the next pass begins with
    V' = u + W(T) x (1 - u / working set)
and QEMU switches over when V' is at most the threshold. V' rises with V and bends down, so there is
one size at which the passes hover. Below the threshold it is never reached: the migration
converges; above it, no number of passes helps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from vmferry.precopy.curve import DirtyCurve

# QEMU compares with the threshold at the end of each window of its rate limit, 100 ms long, so on
# average half a window's worth less than the threshold is left over (BUFFER_DELAY, migration.c).
_HALF_WINDOW = 0.05
# A dirty bitmap sync of a few GiB; larger guests take longer.
_SYNC_SECONDS = 0.005
_MOST_PASSES = 10_000
_FACTOR_LIMIT = 2.0**20


@dataclass(frozen=True, slots=True)
class Course:
    """How a migration goes on: seconds and bytes sent until its end, or None for never."""

    seconds: float
    bytes: float
    passes: int


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

    def course(self, left: float, elapsed: float = 0.0) -> Course | None:
        """From `left` bytes to send, `elapsed` seconds into a pass, to the end. None is never."""
        if not self.converges:
            return None
        seconds, sent, passes = 0.0, 0.0, 0
        while passes < _MOST_PASSES:
            this_pass = self.pass_seconds(left)
            seconds += this_pass
            sent += max(left - self.left_over, 0.0)
            left = min(self.left_over, left) + self.new(this_pass + elapsed)
            elapsed = 0.0
            passes += 1
            if left <= self.threshold:
                rest = left * self.wire_share
                return Course(seconds + rest / self.speed, (sent + left) * self.wire_share, passes)
        return None

    def least_speed(self) -> float | None:
        """The lowest speed that converges, all else equal. None where none does."""
        return _least(lambda speed: replace(self, speed=speed).converges, self.speed)

    def least_downtime_limit(self) -> float | None:
        """The lowest downtime limit that converges, all else equal. None where none does."""
        return _least(
            lambda limit: replace(self, downtime_limit=limit).converges, self.downtime_limit
        )


def _least(converges: Callable[[float], bool], value: float) -> float | None:
    """The root in one variable, from `value` upward: more never makes it worse."""
    low, high = 0.0, value
    while not converges(high):
        low, high = high, high * 2
        if high > value * _FACTOR_LIMIT:
            return None
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if converges(middle) else (middle, high)
    return high
