"""A remedy that `vmferry explain` proposes is true: applied, the same guest's move converges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.qemu.home import Home

SPECIFICATION = """
[memory]
size = "160MiB"
[boot]
kernel = "testguest"
[testguest]
working_set = "16MiB"
write_rate = "unlimited"
[qemu]
accelerator = "tcg"
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Home() as home:
        home.run("busy", SPECIFICATION)
        yield home
        home.call("stop", "busy")


def test_the_proposed_downtime_limit_converges(home: Home) -> None:
    # So that it hovers on a busy machine too, it writes as fast as it can, and all of its memory.
    move = ("migrate", "busy", "--to", "local", "--bandwidth", "24MiB/s")
    *_, abandoned = home.records(*move, "--downtime", "50ms", "--deadline", "12s", status=4)
    (explained,) = home.records("explain", "last")
    assert explained["verdict"] == "does-not-converge"
    assert {cause["name"] for cause in explained["causes"]} >= {"bandwidth-cap", "working-set"}
    # What explain says is what the abandoned move has said.
    assert "\n".join(explained["text"][1:]) in abandoned["why"]
    proposed = {one["change"]: one["to"] for one in explained["remedies"]}
    assert 50 < proposed["downtime"] < 2000

    limit = f"{round(proposed['downtime'])}ms"
    *_, moved = home.records(*move, "--downtime", limit, "--deadline", "60s")
    assert (moved["status"], moved["vm_runs_at"]) == ("completed", "destination")
    (explained,) = home.records("explain", moved["run"])
    assert explained["verdict"] == "converged"
