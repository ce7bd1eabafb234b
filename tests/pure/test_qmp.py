"""A QMP session that is cancelled: Ctrl-C must not be lost to an answer that comes with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from vmferry.hypervisor.qemu.qmp import Qmp


class Answering:
    """Stands for the library's client: answers when it is told to."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.runstate = type("Running", (), {"name": "RUNNING"})

    async def execute(self, command: str, arguments: Any) -> Any:
        return await self.answer


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancel_that_comes_with_the_answer_is_not_lost(turns: int) -> None:
    client: Any = Answering()
    asking = asyncio.create_task(Qmp(client, Path("x")).execute("query-status"))
    await asyncio.sleep(0.01)
    client.answer.set_result({})
    for _ in range(turns):
        await asyncio.sleep(0)
    if asking.cancel():
        with pytest.raises(asyncio.CancelledError):
            await asking
    else:
        assert await asking == {}
