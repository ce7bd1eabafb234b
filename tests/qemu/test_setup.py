"""Fast paths as `vmferry run` sets them up: in QEMU, in the guest, and after a move."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from qemu.qmp.legacy import QEMUMonitorProtocol

from tests.qemu.guest_shell import in_guest
from tests.qemu.home import Home, finish
from tests.qemu.namespace import NetworkHome
from vmferry.host.threads import cores_of, thread_times
from vmferry.hypervisor.qemu.instance import Instance

GUEST = """
[cpu]
count = 2
[memory]
size = "192MiB"
[boot]
kernel = "testguest"
[testguest]
working_set = "16MiB"
write_rate = "2MiB/s"
[qemu]
accelerator = "tcg"
"""
STORAGE = """
disk = "8MiB"
[[disk]]
path = "{folder}/a.qcow2"
format = "qcow2"
[[disk]]
path = "{folder}/b.raw"
interface = "scsi"
[qemu]
"""
NETWORK = """
[[nic]]
kind = "bridge"
bridge = "vmf-test"
create_bridge = true
"""


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


@pytest.fixture
def network() -> Iterator[NetworkHome]:
    with NetworkHome() as home:
        yield home


def properties(instance: Instance, device: str, *names: str) -> dict[str, Any]:
    """What QOM says of a device, by its id."""
    qmp = QEMUMonitorProtocol(str(instance.files.observer_socket))
    qmp.connect()
    try:
        path = f"/machine/peripheral/{device}"
        return {name: qmp.cmd("qom-get", path=path, property=name) for name in names}
    finally:
        qmp.close()


def with_storage(folder: Path) -> str:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", folder / "a.qcow2", "16M"], check=True
    )
    with (folder / "b.raw").open("wb") as file:
        file.truncate(2**20)
    return GUEST.replace("[qemu]\n", STORAGE.format(folder=folder))


def test_queues_of_disks_are_taken_by_the_guest_and_go_along_in_a_move(home: Home) -> None:
    home.run("web", with_storage(home.folder))
    source = home.instance("web")
    for _ in range(2):
        instance = home.instance("web")
        assert properties(instance, "scsi", "num_queues", "vectors") == {
            "num_queues": 2,
            "vectors": 5,
        }
        assert properties(instance, "drive0", "num-queues", "vectors") == {
            "num-queues": 2,
            "vectors": 3,
        }
        for device, thread in (("scsi", "iothread0"), ("drive0", "iothread1")):
            served = properties(instance, device, "iothread")["iothread"]
            assert served == f"/objects/{thread}"
        names = {thread.name for thread in thread_times(instance.process.pid)}
        assert {"IO iothread0", "IO iothread1"} <= names
        for disk in ("vda", "sda"):
            assert in_guest(instance, f"ls /sys/block/{disk}/mq") == ["0  1"]
        if instance == source:
            home.call("migrate", "web", "--to", "local", "--verify")
    assert home.instance("web") != source
    checked = home.agent("web").verify()
    assert (checked.ok, checked.disk_blocks > 0) == (True, True), checked
    home.call("stop", "web")


def test_a_card_has_a_tap_with_a_queue_for_each_vcpu_on_both_sides(network: NetworkHome) -> None:
    network.run("web", GUEST + NETWORK)
    source = network.instance("web")
    (tap,) = network.links("master", "vmf-test")
    check_tap(tap)
    bridge = network.links("vmf-test")[0]
    assert bridge["address"] != tap["address"], "it would change with the tap"
    network.ip("addr", "add", "192.168.77.1/24", "dev", "vmf-test")
    assert in_guest(source, "ls /sys/class/net/eth0/queues") == ["rx-0  rx-1  tx-0  tx-1"]
    in_guest(source, "ifconfig eth0 192.168.77.2 up")
    assert reaches(source)
    assert properties(source, "nic0", "mq", "vectors") == {"mq": True, "vectors": 6}

    network.call("migrate", "web", "--to", "local", "--verify")
    destination = network.instance("web")
    (moved,) = network.links("master", "vmf-test")
    assert (moved["ifname"], destination) != (tap["ifname"], source)
    check_tap(moved)
    assert properties(destination, "nic0", "mq", "vectors") == {"mq": True, "vectors": 6}
    assert reaches(destination)

    network.call("stop", "web")
    assert [link["ifname"] for link in network.links()] == ["lo"], "tap and bridge are gone"


def check_tap(link: dict[str, Any]) -> None:
    """Both queues are there, and the guest's driver has enabled both."""
    data = link["linkinfo"]["info_data"]
    assert (data["multi_queue"], data["numqueues"], data["numdisabled"]) == (True, 2, 0)
    assert (data["persist"], data["vnet_hdr"]) == (False, True)


def reaches(instance: Instance) -> bool:
    return any("1 packets received" in line for line in in_guest(instance, PING))


PING = "ping -c 1 -w 20 192.168.77.1"


def test_a_bridge_is_kept_while_another_vm_is_on_it(network: NetworkHome) -> None:
    small = GUEST.replace("count = 2", "count = 1") + NETWORK
    network.run("one", small)
    network.run("two", small)
    assert len(network.links("master", "vmf-test")) == 2
    network.call("stop", "one")
    (left,) = network.links("master", "vmf-test")
    assert left["linkinfo"]["info_data"]["multi_queue"] is False
    # However it ends, its tap goes with it.
    dead = network.instance("two").process
    dead.kill()
    assert dead.wait_dead(10)
    assert network.links("master", "vmf-test") == []
    network.call("stop", "two")
    assert [link["ifname"] for link in network.links()] == ["lo"]


def test_a_bridge_of_somebody_else_is_never_removed(network: NetworkHome) -> None:
    network.ip("link", "add", "vmf-test", "type", "bridge")
    network.run("web", GUEST + NETWORK)
    network.call("stop", "web")
    assert [link["ifname"] for link in network.links()] == ["lo", "vmf-test"]


@pytest.mark.parametrize(
    ("bridge", "expected"),
    [("missing", "there is no bridge missing on this host"), ("lo", "lo is no bridge")],
)
def test_a_bridge_that_is_none_is_said_and_nothing_is_left(
    network: NetworkHome, bridge: str, expected: str
) -> None:
    path = network.folder / "web.toml"
    path.write_text(GUEST + f'[[nic]]\nkind = "bridge"\nbridge = "{bridge}"\n')
    failed = network.call("run", str(path), status=2)
    assert f"'web': card 0: {expected}" in failed.stderr
    assert network.instances() == []
    assert [link["ifname"] for link in network.links()] == ["lo"]


def test_several_queues_without_leave_to_make_a_tap_have_a_remedy(network: NetworkHome) -> None:
    path = network.folder / "web.toml"
    path.write_text(GUEST + NETWORK + "queues = 2\n")
    bounds = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    network.prefix += bounds
    failed = network.call("run", str(path), status=2)
    assert "card 0 needs a tap on vmf-test: this user may not make a tap" in failed.stderr
    assert "CAP_NET_ADMIN" in failed.stderr


def test_pinned_vcpus_have_their_cpus_and_the_rest_keeps_off(home: Home) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    pinned, others = cpus[-1], frozenset(cpus[:-1]) or frozenset(cpus)
    one = GUEST.replace("count = 2", f"count = 1\npin = [{pinned}]")
    home.run("web", one)
    source = home.instance("web")
    for _ in range(2):
        instance = home.instance("web")
        for thread in thread_times(instance.process.pid):
            expected = frozenset({pinned}) if thread.is_vcpu else others
            assert cores_of(thread.tid) == expected, thread.name
        if instance == source:
            home.call("migrate", "web", "--to", "local")
    home.call("stop", "web")


def test_a_cpu_that_is_not_there_is_said(home: Home) -> None:
    path = home.folder / "web.toml"
    path.write_text(GUEST.replace("count = 2", "count = 1\npin = [60000]"))
    failed = finish(home.start("run", str(path)), 2)
    assert "no thread may run on CPU 60000" in failed.stderr
    assert home.instances() == []


def test_printing_starts_nothing(home: Home) -> None:
    path = home.folder / "web.toml"
    path.write_text(with_storage(home.folder))
    command = home.call("run", str(path), "--print", "qemu").stdout
    assert "-device virtio-scsi-pci,id=scsi,num_queues=2,iothread=iothread0" in command
    (record,) = home.records("run", str(path), "--print", "libvirt")
    assert record["event"] == "printed"
    domain = ElementTree.fromstring(record["text"])
    assert domain.findtext("name") == "web"
    assert {one["feature"] for one in record["fast_paths"]} == {"scsi-queues"}
    assert home.records("ls") == []
    assert home.instances() == []
