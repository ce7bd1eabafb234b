"""One QMP connection, on top of the qemu.qmp library: time-outs, events, plain errors.

A QMP socket serves one client; QEMU lets a second one hang without a greeting. So every call here
has a time-out, and a connect that gets no greeting says who holds the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError, EventListener, ExecuteError, Message, QMPClient, QMPError

CONNECT_SECONDS = 5.0
EXECUTE_SECONDS = 5.0

# As `ss -p` has it: users:(("python",pid=123,fd=9))
_SS_USER = re.compile(r'\("([^"]*)",pid=(\d+)')

# The library warns on the root logger's behalf about every lost connection; we report those.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
logging.getLogger("qemu.qmp").propagate = False


class QmpError(Exception):
    """QEMU refused, did not answer or is gone; the message is QEMU's own where it gave one."""


class QmpGone(QmpError):
    """The connection is closed: QEMU ended, or closed the socket."""


class QmpMute(QmpError):
    """No answer within the time-out."""


EventHandler = Callable[[Mapping[str, Any]], None]


class Qmp:
    """An open QMP session. Make it with `connect`."""

    def __init__(self, client: QMPClient, path: Path) -> None:
        self.path = path
        self._client = client
        # Several commands may be under way when QEMU ends; the library is closed by one at a time.
        self._closing = asyncio.Lock()

    @classmethod
    async def connect(
        cls, path: Path, timeout: float = CONNECT_SECONDS, on_event: EventHandler | None = None
    ) -> Qmp:
        """Connect and negotiate; `on_event` hears each event. Raises QmpGone or QmpMute."""
        client = QMPClient("vmferry")
        qmp = cls(client, path)
        if on_event is not None:
            qmp._hear(on_event)
        try:
            async with asyncio.timeout(timeout):
                await client.connect(str(path))
        except TimeoutError:
            await qmp.close()
            raise QmpMute(
                f"{path} accepts connections but does not greet within {timeout:g} s: "
                f"{_holder(path)}"
            ) from None
        except (ConnectError, QMPError, OSError) as error:
            raise QmpGone(f"cannot connect to {path}: {_root_cause(error)}") from None
        return qmp

    def _hear(self, on_event: EventHandler) -> None:
        # A filter that takes each event there and then spares a queue and its reading task.
        def take(message: Message) -> bool:
            on_event(message)
            return False

        self._client.register_listener(EventListener(event_filter=take))

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        timeout: float = EXECUTE_SECONDS,
    ) -> Any:
        """What QEMU returns for `command`. Raises QmpGone, QmpMute or QmpError."""
        arguments = dict(arguments) if arguments else None
        try:
            async with asyncio.timeout(timeout):
                return await self._client.execute(command, arguments)
        except TimeoutError:
            raise QmpMute(f"no answer to {command} within {timeout:g} s") from None
        except ExecuteError as error:
            raise QmpError(str(error)) from None
        except (QMPError, OSError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not self.closed:
                raise
            # The library keeps the reason until it is asked for it.
            await self.close()
            raise QmpGone(f"QEMU closed the connection during {command}") from None

    async def pass_descriptor(self, name: str, descriptor: int) -> None:
        """Give QEMU a copy of an open file, to be named `fd:name` (QMP getfd). Raises QmpError."""
        try:
            self._client.send_fd_scm(descriptor)
        except (QMPError, OSError) as error:
            raise QmpError(f"no file can be passed through {self.path}: {error}") from None
        await self.execute("getfd", {"fdname": name})

    @property
    def closed(self) -> bool:
        return self._client.runstate.name != "RUNNING"

    async def close(self) -> None:
        """End the session; QEMU goes on."""
        async with self._closing:
            with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._client.disconnect()


@contextlib.asynccontextmanager
async def session(path: Path, timeout: float = CONNECT_SECONDS) -> AsyncIterator[Qmp]:
    """A QMP session for one `async with`."""
    qmp = await Qmp.connect(path, timeout)
    try:
        yield qmp
    finally:
        await qmp.close()


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _holder(path: Path) -> str:
    """Who is connected to the socket, as far as this user may know."""
    unknown = "another client holds it"
    if shutil.which("ss") is None:
        return unknown
    done = subprocess.run(["ss", "-xpH"], capture_output=True, text=True, check=False)
    rows = [line.split() for line in done.stdout.splitlines()]
    peers = {row[7] for row in rows if len(row) > 7 and row[4] == str(path)}
    users = [row[8] for row in rows if len(row) > 8 and row[5] in peers]
    holders = {f"{name} (process {pid})" for text in users for name, pid in _SS_USER.findall(text)}
    return f"held by {', '.join(sorted(holders))}" if holders else unknown
