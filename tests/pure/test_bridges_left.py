"""A bridge that vmferry made is offered for removal whenever an instance has gone for good."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from vmferry.handover import Settled
from vmferry.host.paths import instances_dir
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.instance import Instance
from vmferry.hypervisor.qemu.lifecycle import start_vm
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.move.parties import Parties, Party, tidy
from vmferry.vm.registry import create
from vmferry.vm.spec import VmSpec

NIC = {"kind": "bridge", "bridge": "vmf-test", "create_bridge": True}
SPEC = VmSpec.model_validate(
    {"name": "web", "memory": {"size": 1 << 26}, "boot": {"kernel": "/vmlinuz"}, "nic": [NIC]}
)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr("vmferry.hypervisor.qemu.networks.remove_unused_bridge", found.append)
    return found


def ended(name: str) -> Instance:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = ProcessId.of(child.pid)
        child.kill()
    folder = instances_dir() / name
    folder.mkdir()
    instance = Instance(name, "web", folder, process, "source", (7, 2, 0), SPEC)
    instance.save()
    return instance


async def test_source_of_a_vm_that_went_to_another_host(offered: list[str]) -> None:
    source = ended("a")
    create(SPEC).set_current(source.folder)
    party = Party(str(source.folder), process=source.process.to_json())
    parties = Parties("web", "tcp:other:4444", party, Party())
    side = QemuSide(source.files.control_socket, source.process, ours=True, on_event=print)
    await tidy(parties, Settled("destination", ""), side, None)
    assert offered == ["vmf-test"]


def test_ended_instance_in_whose_place_another_is_started(
    offered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    create(SPEC).set_current(ended("a").folder)
    new = Instance(
        "b",
        "web",
        instances_dir() / "b",
        ProcessId(1, 1, ""),
        "source",
        (7, 2, 0),
        SPEC.model_copy(update={"nic": ()}),
    )

    async def launch(_: VmSpec) -> Instance:
        return new

    monkeypatch.setattr("vmferry.hypervisor.qemu.lifecycle.launch", launch)
    asyncio.run(start_vm(new.spec))
    assert offered == ["vmf-test"]
