"""Many questions to one QEMU: no more at once than it takes in, and none after its silence."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from vmferry.hypervisor.qemu.inquiry import Inquiry
from vmferry.hypervisor.qemu.qmp import QmpMute


async def test_few_questions_are_under_way_at_once() -> None:
    under_way = [0, 0]

    async def execute(command: str, arguments: Mapping[str, Any] | None) -> Any:
        under_way[0] += 1
        under_way[1] = max(under_way)
        await asyncio.sleep(0)
        under_way[0] -= 1

    inquiry = Inquiry(execute)
    await asyncio.gather(*(inquiry.execute("qom-get") for _ in range(500)))
    assert under_way == [0, 8]


async def test_a_qemu_that_does_not_answer_is_asked_no_more() -> None:
    asked: list[str] = []

    async def execute(command: str, arguments: Mapping[str, Any] | None) -> Any:
        asked.append(command)
        raise QmpMute(f"no answer to {command} within 3 s")

    inquiry = Inquiry(execute)
    for _ in range(3):
        with pytest.raises(QmpMute, match="no answer to query-kvm within 3 s"):
            await inquiry.execute("query-kvm")
    assert asked == ["query-kvm"]
