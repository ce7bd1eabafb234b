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
write_rate = "48MiB/s"
[qemu]
accelerator = "tcg"
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Home() as home:
        home.run("busy", SPECIFICATION)
        yield home
        home.call("stop", "busy")


def test_the_proposed_bandwidth_converges(home: Home) -> None:
    move = ("migrate", "busy", "--to", "local", "--downtime", "200ms")
    *_, abandoned = home.records(*move, "--bandwidth", "24MiB/s", "--deadline", "10s", status=4)
    (explained,) = home.records("explain", "last")
    assert explained["verdict"] == "does-not-converge"
    assert [cause["name"] for cause in explained["causes"]] == ["bandwidth-cap", "working-set"]
    # What explain says is what the abandoned move has said.
    assert "\n".join(explained["text"][1:]) in abandoned["why"]
    proposed = {one["change"]: one["to"] for one in explained["remedies"]}
    assert proposed["bandwidth"] > 24 * 1024**2

    *_, moved = home.records(
        *move, "--bandwidth", f"{round(proposed['bandwidth'])}B/s", "--deadline", "60s"
    )
    assert (moved["status"], moved["vm_runs_at"]) == ("completed", "destination")
    (explained,) = home.records("explain", moved["run"])
    assert explained["verdict"] == "converged"
