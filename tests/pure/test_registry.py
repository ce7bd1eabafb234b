"""The VMs on record, the lock of a move, and how VMs and places are named."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import RefusedError, UsageError
from vmferry.host.paths import locks_dir, vms_dir
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.instance import load_instance
from vmferry.vm.address import (
    Local,
    QmpAddress,
    Tcp,
    Unix,
    VmName,
    parse_destination,
    parse_vm,
)
from vmferry.vm.lock import MoveLock, forget_dead_holders, lock_holder
from vmferry.vm.registry import DamagedError, Vm, create, list_vms, lookup
from vmferry.vm.spec import VmSpec

SPEC = VmSpec.model_validate(
    {"name": "web", "memory": {"size": 2**28}, "boot": {"kernel": "testguest"}}
)


def test_a_vm_is_recorded_found_and_forgotten(tmp_path: Path) -> None:
    vm = create(SPEC)
    assert vm.current() is None
    vm.set_current(tmp_path / "one")
    vm.set_current(tmp_path / "two")
    assert lookup("web").current() == tmp_path / "two"
    assert lookup("web").spec() == SPEC
    vm.remove()
    assert list_vms() == []


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="no VM 'x'; none runs"):
        lookup("x")
    create(SPEC)
    with pytest.raises(UsageError, match="no VM 'x'; vmferry runs: web"):
        lookup("x")


def test_garbage_among_the_records_harms_nobody() -> None:
    create(SPEC)
    (vms_dir() / "a file").touch()
    (vms_dir() / "no name!").mkdir()
    (vms_dir() / "empty").mkdir()
    assert [vm.name for vm in list_vms()] == ["empty", "web"]
    (Vm("web").folder / "spec.json").write_bytes(b"\xff")
    for name in ("empty", "web"):
        with pytest.raises(DamagedError, match=f"the record of VM '{name}'"):
            Vm(name).spec()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": [1]}', "\xff", '{"version": "abc", "role": 1}']
)
def test_a_garbage_instance_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "instance.json").write_text(text)
    assert load_instance(tmp_path) is None


def test_a_second_move_is_refused_and_told_who_has_the_first() -> None:
    with MoveLock.acquire("web", "migrate"):
        with pytest.raises(RefusedError, match=rf"'web' is busy: migrate by process {os.getpid()}"):
            MoveLock.acquire("web", "stop")
        MoveLock.acquire("db", "migrate").release()
    assert lock_holder("web") is None
    MoveLock.acquire("web", "stop").release()


def test_a_lock_does_not_outlive_its_owner() -> None:
    me = ProcessId.of(os.getpid())
    reused = ProcessId(me.pid, me.start_ticks + 1, me.boot)
    earlier_boot = ProcessId(me.pid, me.start_ticks, "another boot")
    for dead in (reused, earlier_boot):
        stale = MoveLock.acquire("web", "migrate", owner=dead)
        assert lock_holder("web") is None
        with MoveLock.acquire("web", "recover") as taken:
            stale.release()
            assert lock_holder("web") == taken.holder, "a stale owner gave up what it had lost"


def test_only_the_locks_of_the_dead_are_forgotten() -> None:
    me = ProcessId.of(os.getpid())
    MoveLock.acquire("gone", "migrate", owner=ProcessId(me.pid, me.start_ticks + 1, me.boot))
    with MoveLock.acquire("web", "migrate"):
        forget_dead_holders()
        assert len(list(locks_dir().glob("*.json"))) == 1
        assert lock_holder("web") is not None


def test_of_many_at_once_one_wins() -> None:
    start = threading.Barrier(16)
    won: list[int] = []
    refused: list[int] = []

    def contend(number: int) -> None:
        start.wait()
        try:
            MoveLock.acquire("web", "run")
            won.append(number)
        except RefusedError:
            refused.append(number)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 15)


def test_a_damaged_lock_is_not_taken() -> None:
    MoveLock.acquire("web", "migrate")
    (file,) = locks_dir().glob("*.json")
    assert json.loads(file.read_text())["key"] == "web"
    file.write_text("{")
    with pytest.raises(RefusedError, match="damaged"):
        MoveLock.acquire("web", "migrate")


def test_one_socket_has_one_key_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    first, second = parse_vm(f"qmp:{tmp_path}/a"), parse_vm(f"qmp:{tmp_path}/x/../b")
    assert first.key == second.key


def test_vm_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert parse_vm("web-1.db") == VmName("web-1.db")
    assert parse_vm("qmp:run/q.sock") == QmpAddress(Path("/run/q.sock"))


def test_destinations() -> None:
    assert parse_destination("local") == Local()
    for text, destination in (
        ("tcp:host-2.lan:4444", Tcp("host-2.lan", 4444)),
        ("tcp:[fe80::1%eth0]:1", Tcp("fe80::1%eth0", 1)),
        ("unix:/run/in.sock", Unix(Path("/run/in.sock"))),
    ):
        assert parse_destination(text) == destination
        assert destination.uri == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a/b",
        "..",
        "-x",
        "n" * 300,
        "a b",
        "a\n",
        "é",
        "qmp:",
        "qmp:/" + "p" * 200,
        "qmp:a\0b",
        "libvirt:qemu:///system#web",
        "qmp:/run/libvirt/qemu/web.monitor",
        "ssh:host",
        ":",
    ],
)
def test_what_is_no_vm(text: str) -> None:
    with pytest.raises(UsageError):
        parse_vm(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Local",
        "tcp:",
        "tcp:host",
        "tcp:host:",
        "tcp::4444",
        "tcp:host:0",
        "tcp:host:65536",
        "tcp:host:4x",
        "tcp:host:٤",
        "tcp:fe80::1:4444",
        "tcp:[fe80::1]",
        "tcp:[]:1",
        "tcp:[a]:1",
        "tcp:ho st:1",
        "tcp:host:1,to=9",
        "unix:",
        "unix:a,b",
        "unix:/" + "p" * 200,
        "unix:\x07",
        "ssh://user@host",
        "libvirt:qemu:///system",
        "exec:rm",
        "fd:3",
        "rdma:host:1",
        "/tmp/x",
    ],
)
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(UsageError):
        parse_destination(text)


@given(st.text())
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    for parse in (parse_vm, parse_destination):
        try:
            parse(text)
        except UsageError as error:
            assert error.message
