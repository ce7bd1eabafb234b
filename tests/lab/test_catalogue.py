"""Some of the catalogue for real: what is planted is found, and what is right is left alone.

All of it is `./dev bench catalogue`, which takes the better part of an hour.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench._catalogue_case import problems
from bench._catalogue_cases import CASES
from bench.catalogue import carry_out
from lab.machine import Options
from tests.lab.common import SharedHost, shared_host

# The first builds the lab where that was never done on this machine.
pytestmark = pytest.mark.timeout(1200)
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def shared() -> Iterator[SharedHost]:
    yield from shared_host(Options())


@pytest.mark.parametrize(
    "name",
    [
        "mq=on on a tap with one queue",
        "a guest that switched its queues off",
        "one iothread for eight disks and many queues",
        "a named CPU model",
        "nopvspin in the guest",
        "clocksource=hpet in the guest",
        "two queues for two vCPUs",
        "virtio-scsi with an iothread",
    ],
)
async def test_a_case_is_judged_as_it_should_be(shared: SharedHost, name: str) -> None:
    findings = await shared.run(lambda host: carry_out(host, BY_NAME[name]))
    assert problems(BY_NAME[name], findings) == []
