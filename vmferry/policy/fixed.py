"""The plain algorithm: the limits as given, no steering, abandon at the deadline.

Source: QEMU's own pre-copy (migration/migration.c, migration_iteration_run) decides all the rest.
"""

from __future__ import annotations

from vmferry.policy.base import (
    Abandon,
    ActionResult,
    Decision,
    Input,
    Limits,
    SetBandwidth,
    SetDowntimeLimit,
)
from vmferry.precopy.sample import Event, Sample, has_ended
from vmferry.units import format_duration

# A refused or lost cancel is asked for again: a deadline is a promise.
RETRY_SECONDS = 1.0


class Fixed:
    """Sets the limits once and waits."""

    name = "fixed"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._wake_at = limits.deadline

    def start(self) -> Decision:
        limits = self._limits
        return Decision(
            (SetDowntimeLimit(limits.downtime_limit_ms), SetBandwidth(limits.bandwidth)),
            self._wake_at,
        )

    def receive(self, item: Input) -> Decision:
        deadline = self._limits.deadline
        if isinstance(item, Sample | Event) and has_ended(item):
            self._wake_at = None  # nothing is left to abandon
        if deadline is None or self._wake_at is None or item.t < self._wake_at:
            return Decision((), self._wake_at)
        if isinstance(item, ActionResult):
            return Decision((), self._wake_at)
        self._wake_at = item.t + RETRY_SECONDS
        why = f"the deadline of {format_duration(deadline)} passed"
        return Decision((Abandon(why),), self._wake_at)
