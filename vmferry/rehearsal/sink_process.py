"""The owner's end of a sink: starts it, tells it of passes, hears its result, ends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any

from vmferry.host.process import ProcessId
from vmferry.hypervisor import base
from vmferry.hypervisor.base import DEAD, SideError, SideView
from vmferry.rehearsal.stream_end import StreamEnd

_READY_SECONDS = 20.0
_END_SECONDS = 10.0
# The result holds the X-ray of a whole guest.
_LINE_BYTES = 64 * 1024 * 1024


class SinkDied(Exception):
    """The sink ended before it was ready; the message is what it wrote to its standard error."""


class SinkSide:
    """A sink as the other side of a move (hypervisor.base.Side): it can only be ended.

    `process` is None where there is none any more.
    """

    def __init__(self, process: ProcessId | None) -> None:
        self.process = process

    async def look(self) -> SideView:
        alive = self.process is not None and self.process.alive()
        return SideView(base.Process.ALIVE) if alive else DEAD

    async def proceed(self) -> None:
        raise SideError("a sink takes no VM")

    async def cancel(self) -> None:
        raise SideError("a sink cancels nothing")

    async def resume(self) -> None:
        raise SideError("a sink has no VM")

    async def destroy(self) -> None:
        """Kill it; the kernel hangs up for it."""
        if self.process is not None:
            self.process.kill()
            if not await asyncio.to_thread(self.process.wait_dead, _END_SECONDS):
                raise SideError(f"the sink, process {self.process.pid}, cannot be killed")


class SinkProcess(SinkSide):
    """A sink that this process started. Make it with `start`, and see it off with `finish`."""

    def __init__(self, child: Process, process: ProcessId) -> None:
        super().__init__(process)
        self._child = child
        self._hearing = asyncio.create_task(self._hear())
        self._complaints = asyncio.create_task(_all_of(child.stderr))
        self._ready = asyncio.Event()
        self._end: StreamEnd | None = None

    @classmethod
    async def start(cls) -> tuple[SinkProcess, socket.socket]:
        """A sink, and the connected socket whose stream it will read: nobody else can connect.

        Raises SinkDied.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with its:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "vmferry.rehearsal.sink", str(its.fileno())),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                pass_fds=(its.fileno(),),
                limit=_LINE_BYTES,
            )
        try:
            sink = cls(child, ProcessId.of(child.pid))
            await sink._wait_ready()
        except BaseException:
            ours.close()
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
            raise
        return sink, ours

    def mark(self, sent_pages: int) -> None:
        """A pass began when QEMU had sent so many pages."""
        if self._child.stdin is not None and not self._child.stdin.is_closing():
            self._child.stdin.write(json.dumps({"sent_pages": sent_pages}).encode() + b"\n")

    async def destroy(self) -> None:
        """Have it hang up and tell its result; one that does not end is killed."""
        if self._child.stdin is not None:
            self._child.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await asyncio.shield(self._hearing)
        except TimeoutError:
            await super().destroy()
        await self._child.wait()

    async def finish(self) -> StreamEnd | None:
        """End it, if that is still to do, and return what it told; None where it died mutely."""
        with contextlib.suppress(SideError):
            await self.destroy()
        await self._hearing
        return self._end

    async def said(self) -> str:
        """What it wrote to its standard error; call after `finish`."""
        return (await self._complaints).decode(errors="replace").strip()

    async def _wait_ready(self) -> None:
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait(
            {ready, self._hearing}, timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        ready.cancel()
        if not self._ready.is_set():
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()
            said = await self.said()
            raise SinkDied(f"the sink did not start: {said}")

    async def _hear(self) -> None:
        assert self._child.stdout is not None
        with contextlib.suppress(ValueError):  # a word that was cut off by its death
            async for line in self._child.stdout:
                said: dict[str, Any] = json.loads(line)
                if "ready" in said:
                    self._ready.set()
                else:
                    self._end = StreamEnd.from_json(said["end"])
        await self._child.wait()


async def _all_of(stream: asyncio.StreamReader | None) -> bytes:
    return await stream.read() if stream is not None else b""
