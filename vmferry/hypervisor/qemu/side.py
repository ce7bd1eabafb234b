"""One QEMU process as a side of a move: looked at and acted on over QMP, known by its process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmferry.host.process import ProcessId
from vmferry.hypervisor.base import DEAD, Process, SideError, SideView
from vmferry.hypervisor.qemu.qmp import EventHandler, Qmp, QmpError, QmpGone

LOOK_SECONDS = 1.0
ACT_SECONDS = 3.0
QUIT_SECONDS = 2.0
# The kernel needs a moment between closing a dead process's sockets and taking it off the list.
_DYING_SECONDS = 0.2


class QemuSide:
    """A source or a destination.

    `process` is None where it cannot be told (a socket that was forwarded from elsewhere). `ours`
    says that vmferry started it, so that it may be killed where it does not hear.
    """

    def __init__(
        self,
        path: Path,
        process: ProcessId | None,
        *,
        ours: bool,
        on_event: EventHandler = lambda message: None,
    ) -> None:
        self.path = path
        self.process = process
        self.ours = ours
        self._on_event = on_event
        self._qmp: Qmp | None = None
        self._opening = asyncio.Lock()
        # What query-migrate told when it was last looked at.
        self.last_migration: Mapping[str, Any] | None = None

    async def connect(self) -> None:
        """Open the session. Raises QmpGone or QmpMute, which says who holds the socket."""
        self._qmp = await Qmp.connect(self.path, on_event=self._on_event)

    async def close(self) -> None:
        if self._qmp is not None:
            await self._qmp.close()
            self._qmp = None

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, seconds: float = ACT_SECONDS
    ) -> Any:
        """Run a QMP command; a lost session is opened again first. Raises QmpError."""
        qmp = await self._ensure_open()
        return await qmp.execute(command, arguments, timeout=seconds)

    async def pass_descriptor(self, name: str, descriptor: int) -> None:
        """Give QEMU a copy of an open file, named `name`. Raises QmpError."""
        qmp = await self._ensure_open()
        await qmp.pass_descriptor(name, descriptor)

    async def _ensure_open(self) -> Qmp:
        async with self._opening:
            if self._qmp is None or self._qmp.closed:
                await self.close()
                self._qmp = await Qmp.connect(
                    self.path, timeout=LOOK_SECONDS, on_event=self._on_event
                )
            return self._qmp

    def alive(self) -> Process:
        if self.process is None:
            return Process.UNKNOWN
        return Process.ALIVE if self.process.alive() else Process.DEAD

    async def look(self) -> SideView:
        if self.alive() is Process.DEAD:
            return DEAD
        try:
            status, migration = await self._ask_both()
        except QmpGone:
            if self.process is not None:
                await asyncio.to_thread(self.process.wait_dead, _DYING_SECONDS)
            return DEAD if self.alive() is Process.DEAD else SideView(self.alive())
        except QmpError:
            return SideView(self.alive())
        return SideView(
            self.alive(),
            runstate=status["status"],
            migration=migration.get("status", "none"),
            sent=migration.get("ram", {}).get("transferred", 0),
        )

    async def _ask_both(self) -> tuple[dict[str, Any], dict[str, Any]]:
        # Both questions at once: the VM may stand still while we look.
        await self._ensure_open()
        status, migration = await asyncio.gather(
            self.execute("query-status", seconds=LOOK_SECONDS),
            self.execute("query-migrate", seconds=LOOK_SECONDS),
        )
        self.last_migration = migration
        return status, migration

    async def proceed(self) -> None:
        await self._act("migrate-continue", {"state": "pre-switchover"})

    async def cancel(self) -> None:
        await self._act("migrate_cancel")

    async def resume(self) -> None:
        await self._act("cont")
        loop = asyncio.get_running_loop()
        end = loop.time() + ACT_SECONDS
        while not (await self.look()).running:
            if loop.time() > end:
                raise SideError("it took cont, but does not run")
            await asyncio.sleep(0.01)

    async def destroy(self) -> None:
        if self.alive() is Process.DEAD:
            return
        with contextlib.suppress(QmpError):
            await self.execute("quit", seconds=QUIT_SECONDS)
        if self.process is None:
            return
        if await asyncio.to_thread(self.process.wait_dead, QUIT_SECONDS):
            return
        if not self.ours:
            raise SideError(f"process {self.process.pid} does not end when told to quit")
        self.process.kill()
        if not await asyncio.to_thread(self.process.wait_dead, ACT_SECONDS):
            raise SideError(f"process {self.process.pid} cannot be killed")

    async def _act(self, command: str, arguments: Mapping[str, Any] | None = None) -> None:
        try:
            await self.execute(command, arguments)
        except QmpError as error:
            raise SideError(str(error)) from None
