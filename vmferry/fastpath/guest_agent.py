"""Runs one program in a guest by QEMU's guest agent (QEMU: docs/interop/qemu-ga-ref)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_LONGEST_LINE = 32 << 20
_POLL_SECONDS = 0.1
# An agent that lives greets at once, however long the program takes that it is then given.
GREETING_SECONDS = 3.0
_SYNC_MARK = b"\xff"
_FORBIDDEN = (
    "it may not start programs; in the guest, allow guest-exec and guest-exec-status "
    "(block-rpcs in the configuration of qemu-ga) or run guest_audit.py by hand"
)


class AgentError(Exception):
    """The agent cannot be reached, refuses, or the program failed; the message says which."""


async def run_by_agent(path: Path, words: Sequence[str], text: str) -> str:
    """Standard output of a program in the guest that gets `text` on its standard input.

    Raises AgentError. The caller limits the program's time; an agent that does not greet is given
    up sooner: QEMU holds the socket open whether an agent lives behind it or not.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=_LONGEST_LINE)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise AgentError(f"it cannot be reached: {said}") from None
    agent = _Agent(reader, writer)
    try:
        await _greet(agent)
        return await _run(agent, words, text)
    except (OSError, ValueError, EOFError) as error:
        raise AgentError(f"the connection broke: {error}") from None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _greet(agent: _Agent) -> None:
    try:
        async with asyncio.timeout(GREETING_SECONDS):
            await agent.synchronise()
    except TimeoutError:
        raise AgentError(
            f"it does not answer within {GREETING_SECONDS:g} s: is qemu-guest-agent running in the "
            "guest, is the VM not paused, and does nobody else (libvirt) hold its socket?"
        ) from None


class _Agent:
    """A session: one command, one answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def synchronise(self) -> None:
        """Pass over what is left of a former client, in both directions. Raises EOFError."""
        mark = secrets.randbits(31)
        # The agent drops a half command of somebody else's at 0xFF, and sends one before its reply.
        self._writer.write(_SYNC_MARK)
        self._send("guest-sync-delimited", {"id": mark})
        while True:
            with contextlib.suppress(asyncio.LimitOverrunError):
                await self._reader.readuntil(_SYNC_MARK)
            if (await self._answer()).get("return") == mark:
                return

    async def execute(self, command: str, arguments: dict[str, Any]) -> Any:
        """The command's result. Raises AgentError with the agent's words, EOFError, ValueError."""
        self._send(command, arguments)
        answer = await self._answer()
        if "error" in answer:
            raise AgentError(_refusal(command, answer["error"]))
        return answer.get("return")

    def _send(self, command: str, arguments: dict[str, Any]) -> None:
        line = json.dumps({"execute": command, "arguments": arguments})
        self._writer.write(line.encode() + b"\n")

    async def _answer(self) -> dict[str, Any]:
        await self._writer.drain()
        line = (await self._reader.readline()).lstrip(_SYNC_MARK)
        if not line.endswith(b"\n"):
            raise EOFError("it was closed at the other end")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError(f"the answer is no object: {line[:80]!r}")
        return answer


def _refusal(command: str, error: Any) -> str:
    kind = error.get("class") if isinstance(error, dict) else None
    said = str(error.get("desc", error) if isinstance(error, dict) else error)[:300]
    if kind in ("CommandNotFound", "CommandDisabled") or "disabled" in said:
        return _FORBIDDEN
    return f"{command} failed: {said}"


async def _run(agent: _Agent, words: Sequence[str], text: str) -> str:
    started = await agent.execute(
        "guest-exec",
        {
            "path": words[0],
            "arg": list(words[1:]),
            "input-data": base64.b64encode(text.encode()).decode(),
            "capture-output": True,
        },
    )
    pid = started.get("pid") if isinstance(started, dict) else None
    while True:
        status = await agent.execute("guest-exec-status", {"pid": pid})
        if not isinstance(status, dict):
            raise AgentError(f"guest-exec-status gave {str(status)[:80]}")
        if status.get("exited"):
            break
        await asyncio.sleep(_POLL_SECONDS)
    if status.get("exitcode") != 0:
        how = f"ended with {status.get('exitcode', status.get('signal'))}"
        raise AgentError(f"{words[0]} in the guest {how}: {_decoded(status, 'err-data')[-600:]}")
    return _decoded(status, "out-data")


def _decoded(status: dict[str, Any], key: str) -> str:
    try:
        return base64.b64decode(str(status.get(key, ""))).decode(errors="replace").strip()
    except binascii.Error:
        return ""
