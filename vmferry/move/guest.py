"""Watches the test guest through a move: its heartbeats on both sides, its work, its pages.

A guest without heartbeats is moved all the same; then there is nothing to tell of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vmferry.errors import VmferryError
from vmferry.hypervisor.qemu.instance import InstanceFiles
from vmferry.precopy.outcome import GuestRecord, Place
from vmferry.testguest.agent import AgentClient, Verification
from vmferry.testguest.heartbeat import (
    Beats,
    HeartbeatReader,
    between,
    merge,
    report,
    work_rate,
)

# Of work before and after the move: long enough for 500 beats.
BASELINE_SECONDS = 1.0
_LINE_SECONDS = 0.1
# Fifty beats.
_WAKE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Work:
    """Page writes per second before, during and after the move; None is "cannot be told"."""

    before: float | None = None
    during: float | None = None
    after: float | None = None

    @property
    def loss_percent(self) -> float | None:
        """Of the work before, what was lost during the move."""
        if not self.before or self.during is None:
            return None
        return round(100 * (1 - self.during / self.before), 1)


class GuestWatch:
    """Follows the heartbeats of both sides. `line` takes lines of the recorded trace."""

    def __init__(self, line: Callable[[Mapping[str, Any]], None]) -> None:
        self.problems: list[str] = []
        self._line = line
        self._readers: dict[str, HeartbeatReader] = {}
        self._files: dict[str, InstanceFiles] = {}
        self._told: dict[str, int] = {}
        self._told_at = 0.0
        self._began_ns = self._ended_ns = 0
        self._verification: Verification | None = None

    def follow(self, side: str, files: InstanceFiles) -> None:
        """Listen to a side, where nobody else does."""
        self._files[side] = files
        reader = HeartbeatReader(files.heartbeat_socket, side)
        try:
            reader.start()
        except VmferryError as error:
            self.problems.append(error.message)
            return
        self._readers[side] = reader

    async def baseline(self) -> None:
        """Watch the guest at work for a moment before anything disturbs it."""
        if self._readers:
            await self._wake("source")
            await asyncio.sleep(BASELINE_SECONDS)

    async def _wake(self, side: str) -> None:
        """Listen anew to a side that is mute.

        Where a listener died while the VM stood still, QEMU holds a beat back for ever, and would
        send it along with the VM. The next one that hangs up in order makes QEMU drop it.
        """
        await asyncio.sleep(_WAKE_SECONDS)
        reader = self._readers.get(side)
        if reader is not None and not reader.count:
            del self._readers[side]
            await asyncio.to_thread(reader.stop)
            self.follow(side, self._files[side])

    def begin(self) -> None:
        """Call when the migration is issued."""
        self._began_ns = time.monotonic_ns()
        self._told = {side: max(0, reader.count - 1) for side, reader in self._readers.items()}

    def poll(self) -> None:
        """Write lines on the beats since the last ones, at most ten times a second."""
        t = (time.monotonic_ns() - self._began_ns) / 1e9
        if not self._began_ns or t - self._told_at < _LINE_SECONDS:
            return
        self._told_at = t
        for side, reader in self._readers.items():
            start = self._told.get(side, 0)
            fresh = reader.beats(start)
            if len(fresh) < 2:
                continue
            # The last of these is the first of the next, so that no gap falls between lines.
            self._told[side] = start + len(fresh) - 1
            gap = report(fresh).gap_ms
            self._line(
                {
                    "t": round(t, 6),
                    "guest": {
                        "side": side,
                        "beats": len(fresh) - 1,
                        "max_gap_ms": round(gap, 3) if gap is not None else None,
                        "work": int(fresh.work[-1]),
                    },
                }
            )

    async def finish(self, place: Place) -> None:
        """Watch the guest at work for a moment where it is now."""
        self._ended_ns = time.monotonic_ns()
        if not self._readers or place not in ("source", "destination"):
            return
        while time.monotonic_ns() < self._ended_ns + BASELINE_SECONDS * 1e9:
            await asyncio.sleep(_LINE_SECONDS)
            self.poll()

    async def verify(self, place: Place, *, runs: bool) -> None:
        """Have the guest check all its pages where it is now."""
        if place not in ("source", "destination"):
            return
        if place not in self._files:
            self.problems.append("its pages were not verified: only a test guest can do that")
        elif not runs:
            self.problems.append("its pages were not verified: it is paused")
        else:
            try:
                agent = AgentClient(self._files[place].agent_socket)
                self._verification = await asyncio.to_thread(agent.verify)
            except VmferryError as error:
                self.problems.append(f"its pages could not be verified: {error.message}")

    def stop(self) -> None:
        """Stop listening."""
        for reader in self._readers.values():
            reader.stop()

    def record(self) -> GuestRecord | None:
        """What the beats of both sides told, from just before the move to its end."""
        merged = self._merged()
        told = report(between(merged, self._began_ns, self._ended_ns + int(1e9)))
        if told.gap_ms is None or told.guest_clock_gap_ms is None or told.gap_at_ns is None:
            return None
        checked = self._verification
        return GuestRecord(
            gap_ms=round(told.gap_ms, 3),
            gap_at_ms=round((told.gap_at_ns - self._began_ns) / 1e6, 3),
            guest_clock_gap_ms=round(told.guest_clock_gap_ms, 3),
            beats=told.beats,
            missing_beats=told.missing,
            verified=checked.ok if checked is not None else None,
            verified_pages=checked.pages if checked is not None else None,
            lost_pages=checked.faults if checked is not None else None,
        )

    def work(self) -> Work:
        """Its page writes per second around the move."""
        merged = self._merged()
        if not len(merged) or not self._began_ns:
            return Work()
        second = int(BASELINE_SECONDS * 1e9)
        first, last = int(merged.host_ns.min()), int(merged.host_ns.max())
        return Work(
            _rounded(work_rate(merged, max(first, self._began_ns - second), self._began_ns)),
            _rounded(work_rate(merged, self._began_ns, self._ended_ns)),
            _rounded(work_rate(merged, self._ended_ns, min(last, self._ended_ns + second))),
        )

    def _merged(self) -> Beats:
        return merge(*(reader.beats() for reader in self._readers.values()))


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)
