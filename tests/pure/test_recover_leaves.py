"""What `recover` cannot settle it does not touch: either side may be the one that has the VM."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vmferry.handover import Settled, Step
from vmferry.host.paths import instances_dir
from vmferry.host.process import ProcessId
from vmferry.hypervisor.base import Side
from vmferry.hypervisor.qemu.instance import Instance, load_instance
from vmferry.journal import Journal
from vmferry.move.parties import Parties, Party
from vmferry.recover import recover_run
from vmferry.settle import WallClock
from vmferry.vm.registry import Vm, create
from vmferry.vm.spec import VmSpec

SPEC = VmSpec.model_validate(
    {"name": "web", "memory": {"size": 1 << 26}, "boot": {"kernel": "/vmlinuz"}}
)


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for child in started:
        child.kill()
        child.wait()


def instance_of(name: str, children: list[subprocess.Popen[bytes]]) -> Instance:
    """One with a process that answers nothing."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    children.append(child)
    folder = instances_dir() / name
    folder.mkdir()
    process = ProcessId.of(child.pid)
    instance = Instance(name, "web", folder, process, "source", (7, 2, 0), SPEC)
    instance.save()
    return instance


@pytest.mark.parametrize(("final", "left"), [(False, True), (True, False)])
async def test_a_destination_that_may_have_the_vm_is_not_ended(
    final: bool,
    left: bool,
    children: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, destination = instance_of("a", children), instance_of("b", children)
    create(SPEC).set_current(source.folder)
    sides = [Party(str(one.folder), process=one.process.to_json()) for one in (source, destination)]
    parties = Parties("web", "", sides[0], sides[1])

    async def unknown(*_: Side, **__: object) -> Settled:
        return Settled("unknown", "the destination does not answer", final=final)

    monkeypatch.setattr("vmferry.recover.settle", unknown)
    with Journal.open() as journal:
        run = journal.begin("web", "fixed", {}, json.loads(json.dumps(parties.to_json())))
        journal.record(run, Step.INTENT)
        journal.record(run, Step.SOURCE_DEAD)
        await recover_run(journal, journal.run(run), WallClock())
    assert source.alive()
    assert destination.alive() is left
    assert (load_instance(destination.folder) is not None) is left


async def test_a_vm_that_was_started_anew_since_keeps_its_name(
    children: list[subprocess.Popen[bytes]],
) -> None:
    source, anew = instance_of("a", children), instance_of("c", children)
    children[0].kill()
    children[0].wait()
    create(SPEC).set_current(anew.folder)
    there = Party(str(source.folder), process=source.process.to_json())
    parties = Parties("web", "tcp:far:1", there, Party())
    with Journal.open() as journal:
        run = journal.begin("web", "fixed", {}, json.loads(json.dumps(parties.to_json())))
        journal.record(run, Step.SOURCE_DEAD)
        assert (await recover_run(journal, journal.run(run), WallClock())).status == "completed"
    assert anew.alive()
    assert Vm("web").current() == anew.folder
