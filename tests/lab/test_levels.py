"""Each of the seven as `vmferry run` sets it up, seen at all three levels on a real KVM host."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest

from bench._catalogue_loads import LOADS
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
  "-device", "virtio-blk-pci,drive=root,num-queues=1",
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
PINNED = f'[cpu]\ncount = 1\npin = [1]\n[memory]\nsize = "384MiB"\n{BOOT}'
LARGE = (
    '[memory]\nsize = "2GiB"\n[boot]\nkernel = "testguest"\n[[passthrough]]\nhost = "{device}"\n'
)

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
        await host.run(f"kill $(cat /run/catalogue-load); rm -f {GUESTS}/{name}")
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


def is_right(verdicts: Mapping[str, set[str]], feature: str, *levels: str) -> bool:
    """Whether something is ok at each of these levels, and nothing wrong at any."""
    alarms = {"misconfigured", "could be better"}
    return all("ok" in verdicts[f"{feature} {level}"] for level in levels) and not any(
        alarms & verdicts[f"{feature} {level}"] for level in LEVELS
    )


async def test_queues_spinlocks_and_clock(lab: Lab) -> None:
    (host,) = lab.hosts
    async with running(host, "seven", FOUR):
        await reach(host, "seven")
        for load in ("net", "disk", "locks"):
            await work(host, "seven", load)
        verdicts = await audited(host, "seven", inside=True)
    for feature in ("net-queues", "scsi-queues", "pv-spinlocks", "clock"):
        assert is_right(verdicts, feature, *LEVELS), verdicts


async def test_zero_copy(lab: Lab) -> None:
    (host,) = lab.hosts
    (await host.run("modprobe -r vhost_net; modprobe vhost_net experimental_zcopytx=1")).check()
    try:
        async with running(host, "copyless", ZERO_COPY):
            await reach(host, "copyless")
            # To somebody whom nobody on this host is: what a host takes in itself is copied.
            far = "ip neigh add 192.168.77.255 lladdr 52:54:00:77:77:77 dev eth0 nud permanent"
            (await host.run(f"labguest run copyless -c '{far}'")).check()
            await work(host, "copyless", "send-large")
            verdicts = await audited(host, "copyless", "--deep", inside=False)
    finally:
        (await host.run("modprobe -r vhost_net; modprobe vhost_net")).check()
    assert is_right(verdicts, "zero-copy", *LEVELS), verdicts


async def test_migration_thread(lab: Lab) -> None:
    (host,) = lab.hosts
    async with running(host, "mover", PINNED):
        rehearsal = "vmferry rehearse mover --bandwidth 1MiB/s --for 200s --json > /dev/null 2>&1 &"
        (await host.run(rehearsal)).check()
        moving = "until vmferry status mover | grep -q migrat; do sleep 1; done"
        (await host.run(moving, timeout=120)).check()
        verdicts = await audited(host, "mover", inside=False)
    # The guest has no part in it.
    assert is_right(verdicts, "migration-thread", "offered", "effective"), verdicts


async def test_large_pages() -> None:
    async with Lab.up(hosts=1, vtd=True) as lab:
        (host,) = lab.hosts
        await prepare(host, vtd=True)
        look = "lspci -D -n | awk '$2 == \"0108:\" {print $1; exit}'"
        device = (await host.run(f"echo 1100 > /proc/sys/vm/nr_hugepages; {look}")).check().text
        async with running(host, "device", LARGE.replace("{device}", device)):
            verdicts = await audited(host, "device", inside=False)
    assert is_right(verdicts, "large-pages", *LEVELS), verdicts
