"""Where a destination listens and whose CPUs a VM has, looked at on this very host."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.qmp import QmpMute
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.preflight.collect import Planned, collect
from vmferry.preflight.collect_listener import Listener, is_here, listens_at
from vmferry.preflight.collect_qemu import _plugged, _process
from vmferry.preflight.facts import Device
from vmferry.units import GIB, MIB
from vmferry.vm.address import Local, Tcp, Unix

ME = os.getpid()


def found(*arguments: Any) -> bool | None:
    return listens_at(*arguments).found


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that listens nowhere."""
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child.pid
        child.kill()


def test_a_unix_socket_as_the_source_would_find_it(tmp_path: Path, stranger: int) -> None:
    at = tmp_path / "dest.sock"
    to = Unix(at)
    assert found(to, True, ME, None) is False
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(at))
        assert found(to, True, ME, ME) is False
        listener.listen()
        assert found(to, True, None, None) is None
        assert listens_at(to, True, ME, None) == Listener(True, "/proc/net/unix")
        assert listens_at(to, True, ME, ME).itself is True
        assert listens_at(to, True, ME, stranger).itself is False
    # Left behind; but a listener in another network namespace would look the same from here.
    assert found(to, True, ME, None) is None
    assert found(to, True, ME, ME) is False


def test_a_socket_bound_by_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("relative.sock")
        listener.listen()
        assert found(Unix(tmp_path / "relative.sock"), True, ME, ME) is None


def test_a_port_as_the_source_would_find_it(stranger: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        to = Tcp("127.0.0.1", listener.getsockname()[1])
        assert is_here(to)
        assert listens_at(to, True, ME, None) == Listener(True, "/proc/net/tcp")
        assert listens_at(to, True, ME, ME).itself is True
        assert listens_at(to, True, ME, stranger).itself is False
        # Here it may be; but a source that is forwarded from elsewhere is not.
        assert found(to, True, None, ME) is None
    assert found(to, True, ME, None) is False
    assert is_here(Tcp("127.0.0.53", 1))
    away = Tcp("192.0.2.1", 4444)
    assert not is_here(away)
    assert listens_at(away, False, ME, None).found is None
    assert "192.0.2.1 is another host" in listens_at(away, False, ME, None).where


def test_the_cpus_of_a_vm_are_those_of_its_vcpus() -> None:
    """Its other threads may run elsewhere; a container gives threads numbers of its own."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        one = min(os.sched_getaffinity(0))
        os.sched_setaffinity(thread.native_id, {one})
        mine = ProcessId.of(ME)
        seen = _process(mine, [{"thread-id": thread.native_id}])
        assert seen is not None
        assert (seen.pid, seen.cpus) == (ME, 1)
        foreign = _process(mine, [{"thread-id": 1}])
        assert foreign is not None
        assert foreign.cpus is None
    finally:
        done.set()
        thread.join()


def test_what_virtio_mem_has_plugged_comes_with_the_stream() -> None:
    mem = Device("vmem0", "virtio-mem-pci", properties={"size": GIB})
    dimm = Device("dimm0", "pc-dimm", properties={"size": 256 * MIB})
    sizes = {"base-memory": GIB, "plugged-memory": GIB + 256 * MIB}
    assert _plugged(sizes, (mem, dimm)) == 256 * MIB
    assert _plugged({"base-memory": GIB}, None) == 0
    assert _plugged(None, ()) is None
    assert _plugged(sizes, None) is None, "whose it is cannot be told"


class Mute(QemuSide):
    """One whose source does not answer, and whose destination takes its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(Path("/nonexistent"), None, ours=False)
        self.seconds = seconds
        self.asked = 0

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, seconds: float = 3.0
    ) -> Any:
        self.asked += 1
        await asyncio.sleep(self.seconds)
        raise QmpMute("no answer")


def test_nobody_is_asked_any_more_when_the_source_has_failed() -> None:
    source, destination = Mute(0), Mute(0.05)

    async def read() -> None:
        with pytest.raises(QmpMute):
            await collect(Planned("web", Local(), source, destination))
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(read())
    assert (source.asked, destination.asked) == (1, 1)
