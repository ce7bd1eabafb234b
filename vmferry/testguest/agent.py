"""Talks to the agent in the test guest: change the load, have every page verified."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError

from vmferry.errors import VmferryError
from vmferry.testguest.settings import PageWriterSettings

Area = Literal["working_set", "cold", "untouched", "disk"]
Fault = Literal["lost", "torn", "stale", "ahead"]


class AgentError(VmferryError):
    """The agent did not answer, or refused; the message says which and what it said."""


@dataclass(frozen=True, slots=True)
class BadPage:
    """One page or disk block that is not what it must be.

    `kind`: lost (not a page of ours, or zeros), torn (its checksum is wrong), stale (an older
    sequence than was written) or ahead (a newer one: the guest's own table is old).
    """

    area: Area
    page: int
    kind: Fault
    seen: int
    expected: int

    def __str__(self) -> str:
        what = "block" if self.area == "disk" else "page"
        numbers = f"sequence {self.seen}, expected {self.expected}"
        return f"{self.area} {what} {self.page}: {self.kind} ({numbers})"


@dataclass(frozen=True, slots=True)
class Verification:
    """Every page and every written disk block, checked with the writers paused.

    `faults` counts all that is wrong, also what writers and readers met since the last
    verification; `bad` names the first 1000. `disk_errors` are failed reads and writes.
    """

    pages: int
    disk_blocks: int
    faults: int
    disk_errors: int
    bad: tuple[BadPage, ...]

    @property
    def ok(self) -> bool:
        return self.faults == 0 and self.disk_errors == 0


class AgentClient:
    """One request at a time, each by a connection of its own: nobody else is locked out.

    `timeout` is in seconds and for each answer.
    """

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout
        # Requests carry numbers that earlier clients have not used, so that an answer which one of
        # them did not wait for is told apart.
        self._ids = itertools.count(int.from_bytes(os.urandom(5), "little"))

    def ping(self, timeout: float | None = None) -> None:
        """Return when the agent has answered. Raises AgentError."""
        self._ask("ping", {}, timeout)

    def status(self) -> dict[str, Any]:
        """Counters, the guest's clock and `settings`. Raises AgentError.

        `guest_ns`, `pages_written`, `pages_read`, `disk_blocks_written`, `disk_errors`, `faults`;
        `trouble` where the settings of the command line could not be met.
        """
        return self._ask("status", {}, None)

    def settings(self) -> PageWriterSettings:
        """The settings in force. Raises AgentError."""
        return PageWriterSettings.model_validate(self.status()["settings"])

    def set(self, **changes: object) -> PageWriterSettings:
        """Change settings while the writer runs; returns all of them. Raises AgentError.

        New pages are stamped before it returns: a large one takes seconds.
        """
        try:
            wanted = PageWriterSettings.model_validate({**self.settings().wire(), **changes})
        except ValidationError as error:
            reasons = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()
            )
            raise AgentError(f"these settings are not possible: {reasons}") from None
        answer = self._ask("set", {key: wanted.wire()[key] for key in changes}, 60.0)
        return PageWriterSettings.model_validate(answer["settings"])

    def verify(self, timeout: float = 120.0) -> Verification:
        """Have all pages and disk blocks checked. Raises AgentError."""
        answer = self._ask("verify", {}, timeout)
        return Verification(
            pages=answer["pages"],
            disk_blocks=answer["disk_blocks"],
            faults=answer["faults"],
            disk_errors=answer["disk_errors"],
            bad=tuple(BadPage(**page) for page in answer["bad"]),
        )

    def corrupt(self, page: int, kind: Literal["torn", "stale", "lost"]) -> None:
        """A test aid: spoil a page of the working set, to see that `verify` finds it."""
        self._ask("corrupt", {"page": page, "kind": kind}, None)

    def _ask(self, what: str, members: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        number = next(self._ids)
        # The first newline ends what an earlier client may have left half said.
        request = "\n" + json.dumps({"id": number, "do": what, **members}) + "\n"
        until = time.monotonic() + (timeout or self._timeout)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout or self._timeout)
                connection.connect(str(self._path))
                connection.sendall(request.encode())
                answer = _answer(connection, number, until)
        except TimeoutError:
            raise AgentError(
                f"the test guest's agent did not answer '{what}' in time ({self._path})",
                hint="is the VM running, and is no other client connected to this socket?",
            ) from None
        except OSError as error:
            raise AgentError(
                f"no connection to the test guest's agent: {self._path}: {error.strerror or error}"
            ) from None
        if not answer["ok"]:
            raise AgentError(f"the test guest refused '{what}': {answer['error']}")
        return answer


def _answer(connection: socket.socket, number: int, until: float) -> dict[str, Any]:
    """The answer to request `number`; what is meant for others or broken is passed over."""
    buffer = b""
    while True:
        connection.settimeout(max(0.001, until - time.monotonic()))
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("the VM closed the connection")
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            if isinstance(answer, dict) and answer.get("id") == number:
                return cast(dict[str, Any], answer)
