"""A VM that runs is not overlooked where the runtime folder is another one, or has gone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bystander import process_with
from vmferry.errors import UsageError
from vmferry.host.paths import instances_dir
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.instance import Instance
from vmferry.hypervisor.qemu.lifecycle import StillRunsError, start_vm, stop_vm
from vmferry.hypervisor.qemu.look import look_at
from vmferry.vm.registry import Vm, create
from vmferry.vm.spec import VmSpec

SPEC = VmSpec.model_validate(
    {"name": "web", "memory": {"size": 1 << 26}, "boot": {"kernel": "/vmlinuz"}}
)


@pytest.fixture
def running() -> Iterator[Instance]:
    """The current instance of a VM, with a process that has the words of its QEMU."""
    folder = instances_dir() / "a"
    folder.mkdir()
    words = ["-name", f"guest={SPEC.name},debug-threads=on", f"path={folder}/control.sock"]
    with process_with(*words) as pid:
        process = ProcessId.of(pid)
        instance = Instance("a", SPEC.name, folder, process, "source", (7, 2, 0), SPEC)
        instance.save()
        create(SPEC).set_current(folder)
        yield instance


@pytest.fixture
def no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def launch(_: VmSpec) -> Instance:
        raise AssertionError("a second one was started")

    monkeypatch.setattr("vmferry.hypervisor.qemu.lifecycle.launch", launch)


@pytest.mark.usefixtures("no_launch")
def test_of_another_login(
    running: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmferry.hypervisor.qemu.lifecycle._QUIT_SECONDS", 0.1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(UsageError, match="already runs"):
        asyncio.run(start_vm(SPEC))
    said = asyncio.run(stop_vm(SPEC.name, force=True))
    assert not running.alive(), said
    assert Vm(SPEC.name).current() is None


@pytest.mark.usefixtures("no_launch")
def test_whose_folder_has_gone(running: Instance) -> None:
    shutil.rmtree(running.folder)
    assert asyncio.run(look_at(Vm(SPEC.name))).state == "silent"
    with pytest.raises(UsageError, match="already runs"):
        asyncio.run(start_vm(SPEC))
    with pytest.raises(StillRunsError):
        asyncio.run(stop_vm(SPEC.name))
    assert running.alive()
    assert "killed" in asyncio.run(stop_vm(SPEC.name, force=True))
    assert not running.alive()
