"""Instances of real QEMUs: started, told apart, two on one host, and nothing left of a failure."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from vmferry.host.paths import instances_dir
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.command_line import late_commands
from vmferry.hypervisor.qemu.features import read_features
from vmferry.hypervisor.qemu.instance import Instance, list_instances, load_instance
from vmferry.hypervisor.qemu.launch import LaunchError, launch
from vmferry.hypervisor.qemu.qmp import Qmp, session
from vmferry.hypervisor.qemu.ram_trap import is_ram_trapped
from vmferry.hypervisor.qemu.resolve import resolve
from vmferry.vm.spec import VmSpec


def spec(empty: Path, **changes: Any) -> VmSpec:
    """A VM that boots from an empty disk: only its firmware runs."""
    with empty.open("ab") as file:
        file.truncate(2**20)
    base: dict[str, Any] = {
        "name": "web",
        "memory": {"size": 64 * 2**20},
        "disk": [{"path": str(empty)}],
        "qemu": {"accelerator": "tcg"},
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if key == "qemu" else value
    return VmSpec.model_validate(base)


@contextlib.asynccontextmanager
async def running(vm: VmSpec, *, incoming: bool = False) -> AsyncIterator[Instance]:
    instance = await launch(vm, incoming=incoming)
    try:
        yield instance
    finally:
        instance.process.kill()
        instance.process.wait_dead(10)
        instance.remove()


async def status(qmp: Qmp) -> str:
    return str((await qmp.execute("query-status"))["status"])


async def until(qmp: Qmp, query: str, wanted: str) -> None:
    """Ask until the answer's status is `wanted`; the test's own time limit ends it else."""
    while True:
        answer = await qmp.execute(query)
        if answer.get("status") == wanted:
            return
        assert answer.get("status") != "failed", answer
        await asyncio.sleep(0.05)


async def first_record(started: asyncio.Task[Instance]) -> Instance:
    """The instance that is being started, as soon as it is recorded."""
    while True:
        for record in instances_dir().glob("*/instance.json"):
            instance = load_instance(record.parent)
            assert instance is not None
            return instance
        assert not started.done()
        await asyncio.sleep(0)


def make_qcow2(folder: Path) -> Path:
    image = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
    return image


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


async def test_an_instance_is_recorded_private_and_answers_three(tmp_path: Path) -> None:
    async with running(spec(tmp_path / "disk")) as instance:
        assert load_instance(instance.folder) == instance
        assert list_instances() == [instance]
        sockets = sorted(instance.folder.glob("*.sock"))
        assert [path.name for path in sockets] == [
            f"{name}.sock" for name in ("console", "control", "observer", "recovery")
        ]
        assert {stat.S_IMODE(path.stat().st_mode) for path in sockets} == {0o600}
        async with (
            session(instance.files.control_socket) as control,
            session(instance.files.observer_socket) as observer,
            session(instance.files.recovery_socket) as recovery,
        ):
            assert {await status(qmp) for qmp in (control, observer, recovery)} == {"running"}
            version = (await control.execute("query-version"))["qemu"]
            assert instance.version == (version["major"], version["minor"], version["micro"])
            assert (await control.execute("query-name"))["name"] == "web"
            features = await read_features(control)
            assert {"return-path", "pause-before-switchover", "events"} <= features.capabilities
            assert {"max-bandwidth", "downtime-limit"} <= features.parameters
            assert "migrate-continue" in features.commands
        with pytest.raises(RuntimeError, match="still runs"):
            instance.remove()


async def test_a_guest_outlives_the_terminal_of_who_started_it(tmp_path: Path) -> None:
    async with running(spec(tmp_path / "disk")) as instance:
        assert os.getsid(instance.process.pid) == instance.process.pid


async def test_how_an_instance_ended_is_seen_afterwards(tmp_path: Path) -> None:
    for kill, by_itself in ((True, False), (False, True)):
        instance = await launch(spec(tmp_path / "disk"))
        if kill:
            instance.process.kill()
        else:
            async with session(instance.files.control_socket) as qmp:
                await qmp.execute("quit")
        assert instance.process.wait_dead(10)
        assert instance.ended_by_itself() is by_itself
        instance.remove()
        assert not instance.folder.exists()


async def test_two_instances_share_a_qcow2_image_and_hand_it_over(tmp_path: Path) -> None:
    image = make_qcow2(tmp_path)
    vm = spec(
        tmp_path / "unused",
        disk=[{"path": str(image), "format": "qcow2"}],
        nic=[{"forward": [{"host": free_port(), "guest": 22}]}],
    )
    async with running(vm) as source:
        with pytest.raises(LaunchError, match=r"Failed to get .* lock"):
            await launch(vm.model_copy(update={"nic": ()}))
        async with (
            running(source.spec, incoming=True) as destination,
            session(source.files.control_socket) as control,
            session(destination.files.control_socket) as incoming,
        ):
            assert await status(incoming) == "inmigrate"
            uri = f"unix:{destination.folder}/stream.sock"
            await incoming.execute("migrate-incoming", {"uri": uri})
            await control.execute("migrate", {"uri": uri})
            await until(control, "query-migrate", "completed")
            await until(incoming, "query-status", "paused")
            await incoming.execute("cont")
            assert (await status(control), await status(incoming)) == ("postmigrate", "running")
            # The image is the destination's now: it writes, and holds the lock.
            with pytest.raises(LaunchError, match=r"Failed to get .* lock"):
                await launch(vm.model_copy(update={"nic": ()}))
            await control.execute("quit")
            assert source.process.wait_dead(10)
            for command, arguments in late_commands(vm):
                assert await incoming.execute(command, arguments) == ""
            forwards = await incoming.execute(
                "human-monitor-command", {"command-line": "info usernet"}
            )
            assert "HOST_FORWARD" in forwards
    assert list_instances() == []


async def test_a_failed_start_tells_qemus_reason_and_leaves_nothing(tmp_path: Path) -> None:
    for qemu, reason in (
        ({"extra": ["-device", "nosuch"]}, "'nosuch' is not a valid device model name"),
        ({"machine": "nosuch"}, "unsupported machine type"),
        ({"binary": "/bin/true"}, "/bin/true is not a QEMU"),
        ({"binary": "/nonexistent/qemu"}, "there is no program /nonexistent/qemu"),
        ({"binary": str(tmp_path)}, "there is no program"),
    ):
        with pytest.raises(Exception, match=reason) as caught:
            await launch(spec(tmp_path / "disk", qemu=qemu))
        assert getattr(caught.value, "exit_status", None) == 2
    assert list(instances_dir().iterdir()) == []


async def test_a_start_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    started = asyncio.create_task(launch(spec(tmp_path / "disk")))
    instance = await first_record(started)
    started.cancel()
    with pytest.raises(asyncio.CancelledError):
        await started
    assert not instance.alive()
    assert list(instances_dir().iterdir()) == []


async def test_a_socket_path_that_is_too_long_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("d" * 100)))
    with pytest.raises(Exception, match="is too long for a socket"):
        await launch(spec(tmp_path / "disk"))


def test_resolving_leaves_nothing_open_and_is_done_once(tmp_path: Path) -> None:
    vm = spec(tmp_path / "disk", qemu={"accelerator": "auto"})
    first = resolve(vm)
    assert first.spec.qemu.machine != "q35", "a name that means another machine elsewhere"
    assert first.spec.cpu.model
    accelerator = first.spec.qemu.accelerator
    assert accelerator in ("kvm", "tcg")
    assert not is_ram_trapped(first.spec.memory.size, accelerator, first.version)
    second = resolve(first.spec)
    assert (second.spec, second.reasons) == (first.spec, ())


@pytest.mark.parametrize("backend", ["memfd", "file"])
async def test_ram_of_each_backend_is_the_instances_own(tmp_path: Path, backend: str) -> None:
    memory: dict[str, Any] = {"size": 64 * 2**20, "backend": backend}
    if backend == "file":
        memory["path"] = str(tmp_path)
    async with running(spec(tmp_path / "disk", memory=memory)) as instance:
        assert os.listdir(tmp_path) == ["disk"]  # noqa: PTH208
        async with session(instance.files.control_socket) as qmp:
            size = (await qmp.execute("query-memory-size-summary"))["base-memory"]
            assert size == instance.spec.memory.size


def test_a_process_that_waits_to_be_reaped_is_dead() -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        identity = ProcessId.of(child.pid)
        assert identity.alive()
        identity.kill()
        assert identity.wait_dead(10)
