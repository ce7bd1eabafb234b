"""Before a move: who is at the other end of a QMP socket."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vmferry.errors import NeedsRecoveryError, RefusedError
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.instance import Instance
from vmferry.hypervisor.qemu.migration import EventInbox
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.journal import Journal
from vmferry.move import check
from vmferry.move.parties import Parties, Party
from vmferry.move.prepare import (
    Source,
    _qemu_at,
    open_source,
    refuse_unlike,
    refuse_unsettled,
)
from vmferry.vm.address import Local, QmpAddress, Unix
from vmferry.vm.spec import VmSpec

LISTEN = (
    "import socket, sys, time\n"
    "s = socket.socket(socket.AF_UNIX)\n"
    "s.bind(sys.argv[1])\n"
    "s.listen()\n"
    "print(flush=True)\n"
    "time.sleep(60)"
)


@pytest.mark.parametrize(("words", "is_qemu"), [((), False), (("-qmp",), True)])
def test_another_program_at_the_socket_is_not_taken_for_the_vm(
    words: tuple[str, ...], is_qemu: bool, tmp_path: Path
) -> None:
    at = tmp_path / "forwarded.sock"
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, at, *words], stdout=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            if is_qemu:
                assert _qemu_at(at) == ProcessId.of(child.pid)
            else:
                with pytest.raises(RefusedError, match="is no QEMU"):
                    asyncio.run(open_source(QmpAddress(at), EventInbox()))
        finally:
            child.kill()


def test_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(tmp_path / "closed.sock"))
    assert _qemu_at(tmp_path / "closed.sock") is None


def test_a_run_left_half_way_is_found_by_another_socket_too(
    own_folders: Path, tmp_path: Path
) -> None:
    process = ProcessId.of(os.getpid())
    one, other = QmpAddress(tmp_path / "a.sock"), QmpAddress(tmp_path / "b.sock")
    party = Party(socket=str(one.path), process=process.to_json())
    with Journal.open() as journal:
        parties = Parties(one.key, "", party, Party()).to_json()
        journal.begin(one.key, "fixed", {}, parties)
        with pytest.raises(NeedsRecoveryError, match=r"a\.sock"):
            refuse_unsettled(journal, other.key, replace(party, socket=str(other.path)))
        refuse_unsettled(journal, other.key, Party(socket=str(other.path)))


async def test_a_vm_with_a_device_of_the_host_is_refused_before_a_second_one_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> Instance:
        raise AssertionError("a second instance was started")

    monkeypatch.setattr(check, "launch", never)
    spec = VmSpec.model_validate(
        {
            "name": "a",
            "memory": {"size": "256MiB"},
            "boot": {"kernel": "testguest"},
            "passthrough": [{"host": "0000:01:00.0"}],
        }
    )
    me = ProcessId.of(os.getpid())
    instance = Instance("1", "a", tmp_path, me, "source", (7, 2, 0), spec)
    side = QemuSide(tmp_path / "none", me, ours=True)
    source = Source("a", "a", Party(), side, instance, ran_before=True, disks=())
    with pytest.raises(RefusedError, match=r"has 0000:01:00\.0 of this host.*nothing was touched"):
        refuse_unlike(source, Local())
    refuse_unlike(source, Unix(tmp_path / "to"))
    async with check._destination(instance, Local()) as seen:
        assert "0000:01:00.0" in seen.start_problem
    without = replace(instance, spec=spec.model_copy(update={"passthrough": ()}))
    refuse_unlike(replace(source, instance=without), Local())
