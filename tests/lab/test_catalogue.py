"""Some of the catalogue for real: what is planted is found, and what is right is left alone.

All of it is `./dev bench catalogue`, which takes the better part of an hour.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench._catalogue_bundle import bundles, together
from bench._catalogue_case import Case, problems
from bench._catalogue_cases import CASES
from bench.catalogue import carry_out
from lab.machine import Options
from tests.lab.common import SharedHost, shared_host

# The first builds the lab where that was never done on this machine.
pytestmark = pytest.mark.timeout(1200)
NAMES = (
    "mq=on on a tap with one queue",
    "a guest that switched its queues off",
    "one iothread for eight disks and many queues",
    "a named CPU model",
    "nopvspin in the guest",
    "clocksource=hpet in the guest",
    "two queues for two vCPUs",
    "virtio-scsi with an iothread",
)


@pytest.fixture(scope="module")
def shared() -> Iterator[SharedHost]:
    yield from shared_host(Options())


@pytest.mark.parametrize(
    "bundle",
    bundles([case for case in CASES if case.name in NAMES]),
    ids=lambda bundle: "; ".join(case.name for case in bundle),
)
async def test_cases_are_judged_as_they_should_be(
    shared: SharedHost, bundle: tuple[Case, ...]
) -> None:
    findings = await shared.run(lambda host: carry_out(host, together(bundle)))
    assert {case.name: problems(case, findings) for case in bundle} == {
        case.name: [] for case in bundle
    }


def test_all_names_are_in_the_catalogue() -> None:
    assert {*NAMES} <= {case.name for case in CASES}
