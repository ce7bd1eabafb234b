"""Labs that several tests share: starting one for each test would take longer than the tests."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar
from unittest.mock import patch

from lab import lab as labs
from lab.errors import LabError
from lab.host import Host
from lab.lab import Lab
from lab.machine import Options

T = TypeVar("T")
_HOSTS = 3
_ENDS_WITHIN = 3.0
Prepare = Callable[[Host], Awaitable[None]]


async def _unprepared(_: Host) -> None:
    pass


class SharedHost:
    """The host of a lab that the tests of a module use in turn."""

    def __init__(self, options: Options, prepare: Prepare) -> None:
        self._options = options
        self._prepare = prepare
        self._lab: Lab | None = None
        # A lab that is started in a test is not that test's own.
        self._environment = dict(os.environ)

    async def run(self, body: Callable[[Host], Awaitable[T]]) -> T:
        """What `body` returns. Where the host itself ended meanwhile, it is run on a new one, at
        most twice: the emulator's SVM loses one now and then (docs/lab.md)."""
        for _ in range(_HOSTS - 1):
            host = await self._host()
            try:
                return await body(host)
            except LabError as error:
                if not host.qemu.wait_dead(_ENDS_WITHIN):
                    raise
                sys.stderr.write(f"once more on another host: {error.message}\n")
                self.end()
        return await body(await self._host())

    async def _host(self) -> Host:
        if self._lab is None:
            with patch.dict(os.environ, self._environment, clear=True):
                self._lab = await labs.start(labs.own_name(), 1, self._options, print, own=True)
            await self._prepare(self._lab.hosts[0])
        return self._lab.hosts[0]

    def end(self) -> None:
        """End the lab where there is one."""
        if self._lab is not None:
            with patch.dict(os.environ, self._environment, clear=True):
                labs.remove(self._lab.name)
        self._lab = None


def shared_host(options: Options, prepare: Prepare = _unprepared) -> Iterator[SharedHost]:
    """A fixture's body. The lab is built first where that was never done on this machine."""
    shared = SharedHost(options, prepare)
    try:
        yield shared
    finally:
        shared.end()


def shared_lab(hosts: int, options: Options) -> Iterator[Lab]:
    """A fixture's body: a lab until the tests of a module are done."""
    lab = asyncio.run(labs.start(labs.own_name(), hosts, options, print, own=True))
    try:
        yield lab
    finally:
        labs.remove(lab.name)
