"""A migration of QEMU's as the controller sees it: polled replies and pushed events, in order.

QEMU keeps no history of passes, so each MIGRATION_PASS is followed by a reply of its own at once:
it is what tells exactly how much the pass before found dirty (precopy/passes.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from vmferry.hypervisor.base import SideError
from vmferry.hypervisor.qemu.qmp import QmpError, QmpGone
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.policy.base import (
    Abandon,
    Action,
    ActionResult,
    SetBandwidth,
    SetDowntimeLimit,
    Silence,
)
from vmferry.precopy.sample import Event, Sample

POLL_SECONDS = 0.25
# A few in a row before the source counts as mute; a policy's deadline does not wait for it.
_QUERY_SECONDS = 5.0


class EventInbox:
    """Takes the QMP events of both sides as they come; wakes whoever waits for one."""

    def __init__(self) -> None:
        self.raw: deque[tuple[str, Mapping[str, Any]]] = deque()
        self.arrived = asyncio.Event()

    def take(self, side: str, message: Mapping[str, Any]) -> None:
        self.raw.append((side, message))
        self.arrived.set()


class QemuMigration:
    """One `migrate` of a source, told through `inbox` and by polling."""

    def __init__(
        self, source: QemuSide, uri: str, inbox: EventInbox, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._source = source
        self._uri = uri
        self._inbox = inbox
        self._poll_seconds = poll_seconds
        self._started: tuple[float, float] | None = None
        self._next_poll = 0.0
        self._query: asyncio.Task[Sample] | None = None

    def now(self) -> float:
        return 0.0 if self._started is None else time.monotonic() - self._started[0]

    def _event(self, side: str, message: Mapping[str, Any]) -> Event:
        """The event with its own time stamp, which QEMU takes from the host's wall clock."""
        stamp = message.get("timestamp", {})
        at = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
        t = at - self._started[1] if self._started is not None else 0.0
        return Event(t, str(message.get("event")), dict(message.get("data", {})), side)

    async def start(self) -> None:
        self._started = (time.monotonic(), time.time())
        try:
            await self._source.execute("migrate", {"uri": self._uri})
        except QmpError as error:
            raise SideError(str(error)) from None

    async def receive(self, until: float | None) -> Sample | Event | Silence:
        while True:
            if self._inbox.raw:
                side, message = self._inbox.raw.popleft()
                if message.get("event") == "MIGRATION_PASS":
                    self._next_poll = self.now()
                return self._event(side, message)
            if self._query is not None and self._query.done():
                query, self._query = self._query, None
                self._next_poll = max(self._next_poll, self.now())
                with contextlib.suppress(QmpError):
                    return self._answer(query)
            now = self.now()
            if until is not None and now >= until:
                return Silence(now)
            if self._query is None and now >= self._next_poll:
                self._query = asyncio.create_task(self._ask())
                self._next_poll = now + self._poll_seconds
            await self._wait_for_news(until)

    async def perform(self, action: Action) -> ActionResult:
        try:
            match action:
                case SetDowntimeLimit(limit):
                    await self._source.execute("migrate-set-parameters", {"downtime-limit": limit})
                case SetBandwidth(bandwidth):
                    await self._source.execute(
                        "migrate-set-parameters", {"max-bandwidth": bandwidth}
                    )
                case Abandon():
                    await self._source.execute("migrate_cancel")
        except QmpError as error:
            return ActionResult(self.now(), action, str(error))
        return ActionResult(self.now(), action)

    def drain(self) -> list[Event]:
        """The events that came since the last `receive`."""
        raw = list(self._inbox.raw)
        self._inbox.raw.clear()
        return [self._event(side, message) for side, message in raw]

    def looked_at(self) -> Sample | None:
        """What the latest look at the source told of it: no further question while a VM stands."""
        raw = self._source.last_migration
        return Sample.from_reply(self.now(), raw) if raw is not None else None

    async def final_sample(self) -> Sample | None:
        """The figures of an ended migration; `completed` may be visible before they are."""
        for _ in range(50):
            try:
                sample = await self._ask()
            except QmpError:
                return None
            if sample.status != "completed" or sample.total_time_ms > 0:
                return sample
            await asyncio.sleep(0.01)
        return sample

    async def close(self) -> None:
        """Forget an unanswered question."""
        if self._query is not None:
            self._query.cancel()
            with contextlib.suppress(asyncio.CancelledError, QmpError):
                await self._query
            self._query = None

    async def _ask(self) -> Sample:
        reply = await self._source.execute("query-migrate", seconds=_QUERY_SECONDS)
        return Sample.from_reply(self.now(), reply)

    def _answer(self, query: asyncio.Task[Sample]) -> Sample:
        try:
            return query.result()
        except QmpGone as error:
            raise SideError(str(error)) from None

    async def _wait_for_news(self, until: float | None) -> None:
        ends = [self._next_poll] if self._query is None else []
        if until is not None:
            ends.append(until)
        arrived = asyncio.ensure_future(self._inbox.arrived.wait())
        waiting: set[asyncio.Future[Any]] = {arrived}
        if self._query is not None:
            waiting.add(self._query)
        timeout = max(0.0, min(ends) - self.now()) if ends else None
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        arrived.cancel()
        self._inbox.arrived.clear()
