"""Each of the seven as `vmferry run` sets it up, seen at all three levels on a real KVM host."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest

from bench._catalogue_loads import LOADS, datagrams
from bench.fastpath import prepare
from lab.host import GUESTS, Host
from lab.lab import Lab
from lab.machine import Options
from tests.lab.common import shared_lab

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
DISK = '[[disk]]\npath = "/root/data.img"\ninterface = "scsi"\n'
CARD = '[[nic]]\nkind = "bridge"\nbridge = "br0"\n'
# More vCPUs than the host has cores.
FOUR = f'[cpu]\ncount = 4\n[memory]\nsize = "384MiB"\n{DISK}{CARD}{BOOT}'
ZERO_COPY = f'[cpu]\ncount = 2\n[memory]\nsize = "384MiB"\n{CARD}zero_copy = true\n{BOOT}'
TESTGUEST = '[boot]\nkernel = "testguest"\n'
PINNED = f'[cpu]\npin = [1]\n[memory]\nsize = "384MiB"\n{TESTGUEST}'
LARGE = f'[memory]\nsize = "2GiB"\n{TESTGUEST}[[passthrough]]\nhost = "DEVICE"\n'

# The pid of what runs on the host beside a guest, as the catalogue's loads write it.
BESIDE = "/run/catalogue-load"
LEVELS = ("offered", "negotiated", "effective")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from shared_lab(1, Options())


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


async def audited(host: Host, name: str, *words: str, inside: bool) -> Mapping[str, set[str]]:
    """The verdicts of an audit, by `FEATURE LEVEL`."""
    via = f"labguest run {name} -c 'exec python3 -' --timeout 150"
    command = ["vmferry", "audit", name, "--json", "--window", "3s", *words]
    done = await host.run([*command, *(("--guest-via", via) if inside else ())], timeout=300)
    assert done.status in (0, 7), done.complaint
    verdicts: dict[str, set[str]] = {}
    for line in map(json.loads, done.text.splitlines()):
        if line["event"] == "finding":
            place = verdicts.setdefault(f"{line['feature']} {line['level']}", set())
            place.add(line["verdict"])
    return verdicts


def problems(verdicts: Mapping[str, set[str]], feature: str, *levels: str) -> list[str]:
    """Levels at which something is wrong, and those of `levels` at which nothing is ok."""
    alarms = {"misconfigured", "could be better"}
    found = {level: verdicts[f"{feature} {level}"] for level in LEVELS}
    return [
        f"{feature} {level}: {', '.join(sorted(said))}"
        for level, said in found.items()
        if said & alarms or (level in levels and "ok" not in said)
    ]


async def test_queues_spinlocks_and_clock(lab: Lab) -> None:
    (host,) = lab.hosts
    async with running(host, "seven", FOUR):
        await reach(host, "seven")
        for load in ("net", "disk", "locks"):
            await work(host, "seven", load)
        verdicts = await audited(host, "seven", inside=True)
    for feature in ("net-queues", "scsi-queues", "pv-spinlocks", "clock"):
        assert problems(verdicts, feature, *LEVELS) == []


async def test_zero_copy(lab: Lab) -> None:
    (host,) = lab.hosts
    (await host.run("modprobe -r vhost_net; modprobe vhost_net experimental_zcopytx=1")).check()
    try:
        async with running(host, "copyless", ZERO_COPY):
            await reach(host, "copyless")
            # To one that is not on this host: what a host takes in itself is copied.
            far = "ip neigh add 192.168.77.99 lladdr 52:54:00:77:77:77 dev eth0 nud permanent"
            load = f"{far}; {datagrams('192.168.77.99', 1400, 16)}"
            (await host.run(f"labguest run copyless -c {shlex.quote(load)}")).check()
            verdicts = await audited(host, "copyless", "--deep", inside=False)
    finally:
        (await host.run("modprobe -r vhost_net; modprobe vhost_net")).check()
    assert problems(verdicts, "zero-copy", *LEVELS) == []


async def test_migration_thread(lab: Lab) -> None:
    (host,) = lab.hosts
    async with running(host, "mover", PINNED):
        rehearsal = "vmferry rehearse mover --bandwidth 1MiB/s --for 200s > /dev/null 2>&1 &"
        moving = "until vmferry status mover --json | grep -q '\"active\"'; do sleep 1; done"
        script = f"{rehearsal} echo $! > {BESIDE}; {moving}"
        (await host.run(script, timeout=120)).check()
        verdicts = await audited(host, "mover", inside=False)
    # The guest has no part in it.
    assert problems(verdicts, "migration-thread", "offered", "effective") == []


async def test_large_pages() -> None:
    async with Lab.up(hosts=1, vtd=True) as lab:
        (host,) = lab.hosts
        await prepare(host, vtd=True)
        look = "lspci -D -n | awk '$2 == \"0108:\" {print $1; exit}'"
        device = (await host.run(f"echo 1100 > /proc/sys/vm/nr_hugepages; {look}")).check().text
        async with running(host, "device", LARGE.replace("DEVICE", device)):
            verdicts = await audited(host, "device", inside=False)
    assert problems(verdicts, "large-pages", *LEVELS) == []
