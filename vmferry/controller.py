"""The loop of a migration: inputs -> policy -> actions -> driver; a listener hears all of it.

It knows no hypervisor and no policy by name, and it ends where the VM would change hands: that is
the handover's business (settle.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vmferry.hypervisor.base import Migration, SideError
from vmferry.policy.base import Abandon, ActionResult, Decision, Input, Policy
from vmferry.precopy.sample import ENDED, Event, Sample


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the loop ended.

    `ready`: the source stands at switchover. `ended`: QEMU ended the migration by itself, with
    `status`. `abandoned`: the policy gave up. `cancelled`: the user did. `lost`: the source is gone
    or refused to begin. `refused`: a condition of the move does not hold, so it was not begun.
    """

    kind: Literal["ready", "ended", "abandoned", "cancelled", "lost", "refused"]
    status: str = ""
    why: str = ""


class Controller:
    """Runs one migration under one policy."""

    def __init__(
        self, migration: Migration, policy: Policy, listen: Callable[[Input], None]
    ) -> None:
        self._migration = migration
        self._policy = policy
        self._listen = listen
        self._cancelled = asyncio.Event()
        self._why = ""

    def cancel(self, why: str) -> None:
        """Have `run` end as soon as it can, with the VM at the source."""
        self._why = why
        self._cancelled.set()

    async def run(self) -> Ending:
        """Run until the VM is about to change hands, or will not. Raises nothing for a side."""
        decision = self._policy.start()
        for action in decision.actions:
            result = await self._migration.perform(action)
            self._listen(result)
            if result.error is not None:
                return Ending("lost", why=f"the source refuses {action}: {result.error}")
        try:
            await self._migration.start()
            return await self._loop(decision)
        except SideError as error:
            return Ending("lost", why=str(error))

    async def _loop(self, decision: Decision) -> Ending:
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        try:
            while True:
                receiving = asyncio.ensure_future(self._migration.receive(decision.wake_at))
                await asyncio.wait({receiving, cancelled}, return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done():
                    receiving.cancel()
                    with contextlib.suppress(asyncio.CancelledError, SideError):
                        await receiving
                    return Ending("cancelled", why=self._why)
                step = await self._feed(receiving.result())
                over = isinstance(step, Ending) and step.kind != "ready"
                if self._cancelled.is_set() and not over:
                    # At switchover too: nothing has been handed over yet.
                    return Ending("cancelled", why=self._why)
                if isinstance(step, Ending):
                    return step
                decision = step
        finally:
            cancelled.cancel()

    async def _feed(self, item: Input) -> Decision | Ending:
        """One input to the listener and the policy, and what follows from it."""
        inputs: deque[Input] = deque([item])
        decision = Decision()
        while inputs:
            item = inputs.popleft()
            self._listen(item)
            ending = _ending(item)
            if ending is not None:
                return ending
            decision = self._policy.receive(item)
            for action in decision.actions:
                if isinstance(action, Abandon):
                    self._listen(ActionResult(self._migration.now(), action))
                    return Ending("abandoned", why=action.why)
                inputs.append(await self._migration.perform(action))
        return decision


def _ending(item: Input) -> Ending | None:
    if isinstance(item, Sample):
        status, why = item.status, item.error or ""
    elif isinstance(item, Event) and item.name == "MIGRATION" and item.side == "source":
        status, why = str(item.data.get("status")), ""
    else:
        return None
    if status == "pre-switchover":
        return Ending("ready", status)
    return Ending("ended", status, why) if status in ENDED else None
