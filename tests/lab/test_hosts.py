"""Two KVM hosts: what they are, how they differ, their network, guests in them and a move."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.host import Guest, Host
from lab.lab import Lab
from lab.machine import Options
from tests.lab.common import shared_lab
from vmferry.host.threads import cores_of, tids_of

# The first builds the lab where that was never done on this machine.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from shared_lab(2, Options())


async def test_hosts_have_kvm(lab: Lab) -> None:
    script = "cat /sys/module/kvm_amd/parameters/npt && test -w /dev/kvm && test -c /dev/vhost-net"
    for host in lab.hosts:
        assert (await host.run(script)).check().text in ("Y", "1")


async def test_hosts_from_one_state_are_not_the_same(lab: Lab) -> None:
    script = (
        "hostname; cat /proc/sys/kernel/random/boot_id /etc/machine-id /sys/class/net/eth0/address;"
        " head -c 8 /dev/urandom | od -An -tx8"
    )
    told = [(await host.run(script)).check().text.split() for host in lab.hosts]
    assert [one[0] for one in told] == ["lab-a", "lab-b"]
    assert all(first != second for first, second in zip(*told, strict=True))


async def test_each_host_is_emulated_on_one_core(lab: Lab) -> None:
    """On two cores its SVM loses interrupts (lab/process.py)."""
    tids = [tids_of(host.qemu.pid) for host in lab.hosts]
    cores = [{cores_of(tid) for tid in of_host} for of_host in tids]
    assert [len(each) for of_host in cores for each in of_host] == [1, 1]
    if len(os.sched_getaffinity(0)) > 1:
        assert cores[0] != cores[1]


async def test_hosts_have_the_time(lab: Lab) -> None:
    """A prepared state brings the time of its making."""
    for host in lab.hosts:
        assert abs(int((await host.run("date +%s")).check().text) - time.time()) < 60


async def test_hosts_reach_each_other_at_the_speed_that_is_set(lab: Lab) -> None:
    a, b = lab.hosts
    await lab.link(rate=2_500_000, delay=0.02)
    for host in lab.hosts:
        told = (await host.run("tc qdisc show dev eth0")).check().text
        assert "rate 20Mbit" in told and "delay 20ms" in told
    answer = (await a.run(f"ping -c 3 -q {b.address}")).check().text
    assert "0% packet loss" in answer
    least = float(answer.rpartition("= ")[2].split("/")[0])
    assert least >= 40.0  # both ways, by the host's own clock
    await lab.link()
    assert "netem" not in (await b.run("tc qdisc show dev eth0")).check().text


async def test_files_go_there_and_back(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "folder"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "bytes").write_bytes(bytes(range(256)) * 4000)
    host = lab.hosts[0]
    await host.put(source, "things")
    await host.get("things/deep/bytes", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (source / "deep" / "bytes").read_bytes()


async def test_vmferry_runs_on_a_host(lab: Lab) -> None:
    spec = '[memory]\nsize = "256MiB"\n[boot]\nkernel = "testguest"\n'
    host = lab.hosts[0]
    await host.run(["sh", "-c", "cat > small.toml"], stdin=spec.encode())
    (await host.run("vmferry run small.toml", timeout=240)).check()
    listed = (await host.run("vmferry ls", timeout=120)).check().text
    (await host.run("vmferry stop small", timeout=120)).check()
    assert "small" in listed


async def test_guest_moves_from_host_to_host(lab: Lab) -> None:
    a, b = lab.hosts
    guest = await a.start_guest("mover", queues=2, ip="192.168.77.50/24")
    before = (await guest.run("cat /proc/sys/kernel/random/boot_id; nproc")).check().text
    waiting = await b.start_guest(
        "mover", queues=2, ip="192.168.77.50/24", incoming="tcp:0.0.0.0:4444"
    )
    try:
        done = await a.run(
            f"vmferry migrate qmp:{guest.qmp_socket} --to tcp:{b.address}:4444 --json",
            timeout=240,
        )
        outcome = json.loads(done.check().text.splitlines()[-1])
        assert (outcome["status"], outcome["vm_runs_at"]) == ("completed", "destination")
        assert await waiting.qmp("query-status") == {"status": "running", "running": True}
        look = "cat /proc/sys/kernel/random/boot_id; nproc"
        # A machine that is busy with other things gives a nested guest little.
        for _ in range(3):
            if (after := await waiting.run(look, timeout=60)).ok:
                break
        assert after.check().text == before
    finally:
        await guest.stop()
        await waiting.stop()


async def test_fast_paths_that_the_other_host_lacks_are_told_before_a_move(lab: Lab) -> None:
    a, b = lab.hosts
    harm = "rmmod vhost_net && echo N > /sys/module/kvm/parameters/eager_page_split"
    (await b.run(harm)).check()
    guest = await a.start_guest("pair")
    waiting = await b.start_guest("pair", incoming="tcp:0.0.0.0:4445")
    try:
        # The guest's QEMU on the other host, as ssh or socat would pass it on.
        socket = "/run/passed-on.sock"
        await b.run(f"socat TCP-LISTEN:4446,fork,reuseaddr UNIX:{waiting.qmp_socket} &")
        await a.run(f"socat UNIX-LISTEN:{socket},fork TCP:{b.address}:4446 &")
        found = await _checked(a, b, guest, "--to-qmp", socket)
        parity = found["host-fast-paths"]
        assert parity["verdict"] == "warning"
        evidence = {one["where"]: (one["source"], one["destination"]) for one in parity["evidence"]}
        assert evidence == {
            "/dev/vhost-net": ("there", "not there"),
            "/sys/module/kvm/parameters/eager_page_split": ("Y", "N"),
        }
        assert "net-queues: modprobe vhost_net" in parity["remedy"]
        assert "migration-thread: echo Y > " in parity["remedy"]
        assert [name for name, row in found.items() if row["verdict"] == "blocker"] == []
        assert found["devices"]["verdict"] == found["cpu-features"]["verdict"] == "ok"
        mend = "modprobe vhost_net && echo Y > /sys/module/kvm/parameters/eager_page_split"
        (await b.run(mend)).check()
        found = await _checked(a, b, guest)
        assert found["host-fast-paths"]["verdict"] == "ok"
    finally:
        await guest.stop()
        await waiting.stop()


async def _checked(a: Host, b: Host, guest: Guest, *words: str) -> dict[str, Any]:
    """What `check` on one host finds of a move to the other, with an audit of that one."""
    told = (await b.run("vmferry audit --host --json", timeout=120)).stdout
    await a.run(["sh", "-c", "cat > b.json"], stdin=told)
    to = ("--to", f"tcp:{b.address}:4445", "--to-audit", "b.json", *words)
    check = ["vmferry", "check", f"qmp:{guest.qmp_socket}", *to, "--json"]
    lines = (await a.run(check, timeout=240)).check().text.splitlines()
    return {row["name"]: row for row in map(json.loads, lines[:-1])}
