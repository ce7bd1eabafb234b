"""Many questions to one QEMU over one QMP connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from vmferry.hypervisor.qemu.qmp import QmpMute

Execute = Callable[[str, Mapping[str, Any] | None], Awaitable[Any]]

# As many as QEMU takes in before it has answered. While it stands still more would fill the socket,
# and a full one cannot be closed in order.
_AT_ONCE = 8


class Inquiry:
    """Asks as many at once as QEMU takes in; after one that had no answer it asks no more, since
    each would wait as long."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._mute: str | None = None

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """What QEMU answers. Raises QmpError."""
        async with self._places:
            if self._mute is not None:
                raise QmpMute(self._mute)
            try:
                return await self._execute(command, arguments)
            except QmpMute as error:
                self._mute = str(error)
                raise
