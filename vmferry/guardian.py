"""The process that owns one move, or one rehearsal, from its first step to its last.

It alone holds the control sockets of both sides; the command that starts it only shows what it
says and relays Ctrl-C. So the move does not hang on the command: where that dies, the guardian
undoes a move that has not begun to switch over, and finishes one that has. Where the guardian
dies, the command (or `vmferry recover`) settles by the same table.

It reads its request, and later `cancel`, as lines on standard input; the end of the input means
that the command is dead. It writes one JSON object a line to standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from vmferry.errors import VmferryError
from vmferry.host.process import ProcessId
from vmferry.journal import Journal
from vmferry.move.run import MoveRun, Request
from vmferry.rehearsal.request import RehearsalRequest
from vmferry.rehearsal.run import RehearsalRun

_COLLECT_AFTER = 20_000


class Telling:
    """Lines to the command, never waiting for it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._backlog = b""
        os.set_blocking(descriptor, False)

    def tell(self, line: str) -> None:
        self._backlog += line.encode() + b"\n"
        with contextlib.suppress(BlockingIOError):
            try:
                written = os.write(self._descriptor, self._backlog)
            except BrokenPipeError:
                written = len(self._backlog)
            self._backlog = self._backlog[written:]

    async def finish(self, seconds: float = 5.0) -> None:
        """Give a slow reader a last chance to take what is left."""
        end = time.monotonic() + seconds
        while self._backlog and time.monotonic() < end:
            await asyncio.sleep(0.01)
            self.tell("{}")


async def guard(request: Mapping[str, Any], telling: Telling, reader: asyncio.StreamReader) -> None:
    """Run what is asked for, and have it undone when the command says so or is gone."""
    with Journal.open() as journal:
        move: MoveRun | RehearsalRun
        if "rehearse" in request:
            move = RehearsalRun(RehearsalRequest.from_json(request), journal, telling.tell)
        else:
            move = MoveRun(Request.from_json(request), journal, telling.tell)
        listening = asyncio.create_task(_listen(reader, move))
        try:
            outcome = await move.run()
            telling.tell(json.dumps(outcome.to_json()))
        finally:
            listening.cancel()


async def _listen(reader: asyncio.StreamReader, move: MoveRun | RehearsalRun) -> None:
    while line := await reader.readline():
        if line.strip() == b"cancel":
            move.cancel("cancelled by the user")
    move.cancel("the vmferry command ended")


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    telling = Telling(sys.stdout.fileno())
    request = json.loads(await reader.readline())
    telling.tell(json.dumps({"guardian": ProcessId.of(os.getpid()).to_json()}))
    try:
        await guard(request, telling, reader)
    except VmferryError as error:
        refusal = {"error": error.message, "hint": error.hint, "exit_status": error.exit_status}
        telling.tell(json.dumps(refusal))
    await telling.finish()


def _collect_seldom() -> None:
    """Have Python look for garbage less often, and not in what is loaded now: that takes ten
    milliseconds of a core each time, perhaps in the switchover."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


if __name__ == "__main__":
    # Ctrl-C goes to the command, which relays it; the guardian has the last word.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _collect_seldom()
    asyncio.run(_main())
