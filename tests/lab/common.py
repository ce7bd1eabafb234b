"""Labs that several tests share: starting one for each test would take longer than the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from lab import lab as labs
from lab.lab import Lab
from lab.machine import Options


def shared_lab(hosts: int, options: Options) -> Iterator[Lab]:
    """A lab until the tests of a module are done, built first where that was never done."""
    said: list[str] = []
    lab = asyncio.run(labs.start(labs.own_name(), hosts, options, said.append, own=True))
    try:
        yield lab
    finally:
        labs.remove(lab.name)
