"""Runs scripts in a host: the agent's client for asyncio, with time limits and plain errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.inside.client import AgentLost, Conversation, Ended, OnOutput, free_port

PATIENCE = 30.0
PORTS = 8


class ScriptFailed(LabError):
    """A script ended otherwise than with 0; `result` has all of it."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True, slots=True)
class Result:
    """How a script ended. `status` is as a shell tells it: 128 + N where signal N ended it.

    `late`: it was ended since its time was over. `seconds` by this machine's clock.
    """

    where: str
    status: int
    stdout: bytes
    stderr: bytes
    late: bool
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == 0 and not self.late

    @property
    def text(self) -> str:
        """Standard output as text, without the line end at its end."""
        return self.stdout.decode(errors="replace").rstrip("\n")

    @property
    def complaint(self) -> str:
        """Standard error as text; standard output where there is none."""
        return (self.stderr or self.stdout).decode(errors="replace").rstrip("\n")

    def check(self) -> Result:
        """Itself. Raises ScriptFailed where the script did not end with 0."""
        if self.ok:
            return self
        how = "was too late" if self.late else f"ended with status {self.status}"
        raise ScriptFailed(f"a script on {self.where} {how}: {self.complaint[-2000:]}", self)


class Agent:
    """The agent of one machine, by its sockets: as many scripts at once as there are.

    `last_words` tells how the machine ended; nothing while it runs.
    """

    def __init__(
        self, name: str, sockets: Sequence[Path], last_words: Callable[[], str] = lambda: ""
    ) -> None:
        self.name = name
        self._sockets = list(sockets)
        self._last_words = last_words

    async def run(
        self,
        script: str | Sequence[str],
        *,
        arguments: Sequence[str] = (),
        stdin: bytes = b"",
        timeout: float = 60.0,
        patience: float = PATIENCE,
        on_output: OnOutput | None = None,
        seed: bytes = b"",
    ) -> Result:
        """Run a script, or a command where `script` is a sequence of words, and wait for its end.

        A script is bash's unless its first line names an interpreter. After `timeout` seconds it is
        killed, with the processes it started in the foreground. `on_output` hears each piece as it
        comes. A `seed` renews the machine's random numbers first. Cancelled, it kills the script.
        Raises LabError where the agent does not answer.
        """
        request: dict[str, Any] = {"seconds": timeout, "seed": seed.hex()}
        if isinstance(script, str):
            request |= {"script": script, "words": list(arguments)}
        else:
            request |= {"words": [*script, *arguments]}
        pieces: tuple[list[bytes], list[bytes]] = ([], [])

        def take(data: bytes, of_errors: bool) -> None:
            pieces[of_errors].append(data)
            if on_output is not None:
                on_output(data, of_errors)

        start = time.monotonic()
        ended = await self._talk(request, stdin, take, patience)
        return Result(
            where=self.name,
            status=ended.status if ended.status >= 0 else 128 - ended.status,
            stdout=b"".join(pieces[0]),
            stderr=b"".join(pieces[1]),
            late=ended.late,
            seconds=time.monotonic() - start,
        )

    async def _talk(
        self, request: dict[str, Any], stdin: bytes, take: OnOutput, patience: float
    ) -> Ended:
        conversation: Conversation | None = None
        stopped = False

        def talk() -> Ended:
            nonlocal conversation
            with free_port(self._sockets, patience) as path:
                conversation = Conversation(path)
                if stopped:
                    raise AgentLost("cancelled")
                return conversation.run(request, stdin=stdin, on_output=take, patience=patience)

        thread = asyncio.ensure_future(asyncio.to_thread(talk))
        try:
            return await asyncio.shield(thread)
        except AgentLost as error:
            raise self._lost(error) from None
        except asyncio.CancelledError:
            stopped = True
            if conversation is not None:
                conversation.stop()
            # The port is given back only when the thread has ended.
            await asyncio.wait([thread], timeout=5.0)
            if thread.done() and not thread.cancelled():
                thread.exception()
            raise

    def converse(
        self,
        request: dict[str, Any],
        stdin: Callable[[], bytes],
        take: OnOutput,
        started: Callable[[Conversation], None],
    ) -> Ended:
        """One request whose input comes as it goes, such as a terminal's. Raises LabError."""
        try:
            with free_port(self._sockets, PATIENCE) as path:
                conversation = Conversation(path)
                started(conversation)
                return conversation.run(request, stdin=stdin, on_output=take, patience=PATIENCE)
        except AgentLost as error:
            raise self._lost(error) from None

    def _lost(self, error: AgentLost) -> LabError:
        if told := self._last_words():
            return LabError(f"{self.name} has ended: {told}", hint="`./dev lab up` starts another")
        return LabError(
            f"the agent of {self.name} is lost: {error}",
            hint="`./dev lab status` tells whether it runs; its console is in the file named there",
        )
