"""Each of the seven as `vmferry run` sets it up, seen at all three levels on a real KVM host."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from bench._catalogue_loads import LOADS, datagrams
from bench.fastpath import prepare
from lab.host import GUESTS, Host
from lab.machine import Options
from tests.lab.common import SharedHost, shared_host

# The first builds the lab where that was never done on this machine.
pytestmark = pytest.mark.timeout(1200)

# The lab's own guest, which has Python and something to do. `labguest` reaches it by its agent.
BOOT = """
[boot]
kernel = "/lab/guest-vmlinux"
initrd = "/lab/guest-initrd"
append = "console=ttyS0 quiet panic=-1 lab.root=labguest lab.overlay=1 lab.ip=192.168.77.77/24"
[qemu]
extra = [
  "-blockdev", "driver=file,node-name=root,read-only=on,filename=/lab/guest.ext4",
  "-device", "virtio-blk-pci,drive=root",
  "-device", "virtio-serial-pci,id=lab",
  "-chardev", "socket,id=agent0,path={instance}/agent-0.sock,server=on,wait=off",
  "-device", "virtserialport,bus=lab.0,chardev=agent0,name=lab.0",
  "-chardev", "socket,id=agent1,path={instance}/agent-1.sock,server=on,wait=off",
  "-device", "virtserialport,bus=lab.0,chardev=agent1,name=lab.1",
]
"""
DISK = '[[disk]]\npath = "data.img"\ninterface = "scsi"\n'
CARD = '[[nic]]\nkind = "bridge"\nbridge = "br0"\n'
TWO = f'[cpu]\ncount = 2\n[memory]\nsize = "384MiB"\n{DISK}{CARD}{BOOT}'
# More vCPUs than the host has cores.
FOUR = f'[cpu]\ncount = 4\n[memory]\nsize = "384MiB"\n{BOOT}'
ZERO_COPY = f"""
[cpu]
count = 2
[memory]
size = "384MiB"
[[nic]]
kind = "bridge"
bridge = "br1"
zero_copy = true
{BOOT}"""
# A rehearsal and an audit take an emulated CPU for seconds: not the one that the vCPU is on.
BESIDE_VCPU = "taskset -c 0"
TESTGUEST = '[boot]\nkernel = "testguest"\n'
PINNED = f'[cpu]\npin = [1]\n[memory]\nsize = "384MiB"\n{TESTGUEST}'
LARGE = f'[memory]\nsize = "2GiB"\n{TESTGUEST}[[passthrough]]\nhost = "DEVICE"\n'
# The network between the lab's hosts has no scatter-gather, without which the kernel copies on the
# way out; the card that a host with VT-d has besides does.
BRIDGE = """
modprobe -r vhost_net; modprobe vhost_net experimental_zcopytx=1; modprobe e1000e
for one in /sys/class/net/*; do
    [ "$(basename $(readlink $one/device/driver))" = e1000e ] && card=${one##*/}
done
ip link add br1 up type bridge && ip link set $card up master br1
"""
# The pid of what runs on the host beside a guest, as the catalogue's loads write it.
BESIDE = "/run/catalogue-load"
ALARMS = ("misconfigured", "could be better")
LEVELS = ("offered", "negotiated", "effective")


@pytest.fixture(scope="module")
def shared() -> Iterator[SharedHost]:
    yield from shared_host(Options())


@pytest.fixture(scope="module")
def with_vtd() -> Iterator[SharedHost]:
    yield from shared_host(Options(vtd=True), partial(prepare, vtd=True))


@asynccontextmanager
async def running(host: Host, name: str, spec: str) -> AsyncIterator[None]:
    """A VM that `vmferry run` starts on the host, for one `async with`."""
    await host.run(["sh", "-c", f"cat > {name}.toml"], stdin=spec.encode())
    (await host.run("truncate -s 256M data.img; modprobe vhost_net")).check()
    (await host.run(["vmferry", "run", f"{name}.toml"], timeout=240)).check()
    try:
        yield
    finally:
        end = f"kill $(cat {BESIDE}); while kill -0 $(cat {BESIDE}); do sleep 0.1; done"
        await host.run(f"{end}; rm -f {BESIDE} {GUESTS}/{name}", timeout=60)
        (await host.run(["vmferry", "stop", name, "--force"], timeout=60)).check()


async def reach(host: Host, name: str) -> None:
    """Let `labguest` reach the guest in a VM of vmferry's, and wait until its agent answers."""
    look = f"until labguest run {name} -c true; do sleep 1; done"
    script = f"mkdir -p {GUESTS}; ln -sfn /run/vmferry/instances/* {GUESTS}/{name}; {look}"
    (await host.run(script, timeout=240)).check()


async def work(host: Host, name: str, load: str) -> None:
    """Start one of the catalogue's loads."""
    if script := LOADS[load].guest:
        (await host.run(f"labguest run {name} -c {shlex.quote(script)}", timeout=120)).check()
    if script := LOADS[load].host:
        (await host.run(f"G={name}; {script}", timeout=120)).check()


Findings = list[dict[str, Any]]


async def audited(
    host: Host, name: str, *words: str, inside: bool, under: Sequence[str] = ()
) -> Findings:
    """What an audit finds, with a look into the guest or without; `under` is the command's own."""
    via = f"labguest run {name} -c 'exec python3 -' --timeout 150"
    command = [*under, "vmferry", "audit", name, "--json", "--window", "3s", *words]
    done = await host.run([*command, *(("--guest-via", via) if inside else ())], timeout=300)
    assert done.status in (0, 7), done.complaint
    lines = [json.loads(line) for line in done.text.splitlines()]
    return [line for line in lines if line["event"] == "finding"]


def problems(findings: Findings, feature: str, *levels: str) -> list[str]:
    """What is wrong with a feature, and at which of `levels` nothing is ok."""
    found = [one for one in findings if one["feature"] == feature]
    right = {one["level"] for one in found if one["verdict"] == "ok"}
    wrong = [json.dumps(one) for one in found if one["verdict"] in ALARMS]
    untold = [json.dumps(one) for one in found if one["level"] in {*levels} - right]
    return wrong + untold


async def under_load(host: Host, spec: str, *loads: str) -> Findings:
    async with running(host, "seven", spec):
        await reach(host, "seven")
        for load in loads:
            await work(host, "seven", load)
        return await audited(host, "seven", inside=True)


async def test_queues_and_clock(shared: SharedHost) -> None:
    findings = await shared.run(lambda host: under_load(host, TWO, "net", "disk"))
    for feature in ("net-queues", "scsi-queues", "clock"):
        assert problems(findings, feature, *LEVELS) == []


async def test_spinlocks(shared: SharedHost) -> None:
    findings = await shared.run(lambda host: under_load(host, FOUR, "locks"))
    assert problems(findings, "pv-spinlocks", *LEVELS) == []


async def of_a_migration(host: Host) -> Findings:
    async with running(host, "mover", PINNED):
        rehearsal = (
            f"{BESIDE_VCPU} vmferry rehearse mover --bandwidth 1MiB/s --for 200s > /dev/null 2>&1 &"
        )
        moving = "until vmferry status mover --json | grep -q '\"active\"'; do sleep 1; done"
        script = f"{rehearsal} echo $! > {BESIDE}; {moving}"
        (await host.run(script, timeout=120)).check()
        return await audited(host, "mover", inside=False, under=BESIDE_VCPU.split())


async def test_migration_thread(shared: SharedHost) -> None:
    findings = await shared.run(of_a_migration)
    # The guest has no part in it.
    assert problems(findings, "migration-thread", "offered", "effective") == []


async def of_zero_copy(host: Host) -> Findings:
    (await host.run(BRIDGE)).check()
    async with running(host, "copyless", ZERO_COPY):
        await reach(host, "copyless")
        # To one that is not on this host: what a host takes in itself is copied.
        far = "ip neigh add 192.168.77.99 lladdr 52:54:00:77:77:77 dev eth0 nud permanent"
        load = f"{far}; {datagrams('192.168.77.99', 1400, 16)}"
        (await host.run(f"labguest run copyless -c {shlex.quote(load)}")).check()
        return await audited(host, "copyless", "--deep", inside=False)


async def test_zero_copy(with_vtd: SharedHost) -> None:
    assert problems(await with_vtd.run(of_zero_copy), "zero-copy", *LEVELS) == []


async def of_a_device(host: Host) -> Findings:
    look = "lspci -D -n | awk '$2 == \"0108:\" {print $1; exit}'"
    device = (await host.run(f"echo 1100 > /proc/sys/vm/nr_hugepages; {look}")).check().text
    async with running(host, "device", LARGE.replace("DEVICE", device)):
        return await audited(host, "device", inside=False)


async def test_large_pages(with_vtd: SharedHost) -> None:
    assert problems(await with_vtd.run(of_a_device), "large-pages", *LEVELS) == []
