"""`vmferry check` on two real QEMUs that do not fit: each mismatch is found, under its name.

Most of them QEMU itself lets through, or finds only when the guest was stopped (docs/check.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp.legacy import QEMUMonitorProtocol

from tests.qemu.bare_pair import BASE, Bare, Options, ask_at, bare
from tests.qemu.check_cases import (
    BYTES,
    CASES,
    HARMLESS,
    MAC,
    NIC,
    OTHER_IMAGE,
    SCSI,
    Case,
    device,
)
from tests.qemu.home import Home, migration_settings
from tests.qemu.passed_on import passed_on
from tests.qemu.test_launch import free_port
from tests.qemu.testguest_vm import GuestVm
from vmferry.fastpath.audit import Request, audit
from vmferry.fastpath.judges import JUDGES
from vmferry.hypervisor.qemu.binary import find_binary
from vmferry.hypervisor.qemu.ram_trap import FIXED_IN
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.preflight.asking import Asking
from vmferry.preflight.collect_qtree import read_settings


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Home() as home:
        for name in ("a", "b"):
            image = home.folder / name
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "4M"], check=True)
        (home.folder / "ram").write_bytes(b"")
        (home.folder / "ram").open("r+b").truncate(BYTES)
        yield home


@contextlib.contextmanager
def pair(
    home: Home,
    source: Options | None = None,
    destination: Options | None = None,
    files: Sequence[int] = (),
) -> Iterator[tuple[Bare, Bare]]:
    incoming = f"unix:{home.folder}/incoming.sock"
    with (
        bare(home.folder, "source", source or {}, files=files) as here,
        bare(home.folder, "destination", destination or {}, "-incoming", incoming) as there,
    ):
        yield here, there


def words(home: Home) -> tuple[str, ...]:
    folder = home.folder
    to = ("--to", f"unix:{folder}/incoming.sock", "--to-qmp", f"{folder}/destination.sock")
    return (f"qmp:{folder}/source.sock", *to)


def findings(home: Home, *arguments: str, status: int = 0) -> dict[str, dict[str, Any]]:
    *rows, last = home.records("check", *arguments, status=status)
    assert last["event"] == "preflight"
    assert last["may_move"] is (status == 0)
    assert {row["event"] for row in rows} == {"check"}
    return {row["name"]: row for row in rows}


def named(found: dict[str, dict[str, Any]], verdict: str) -> set[str]:
    return {name for name, row in found.items() if row["verdict"] == verdict}


def test_a_fitting_pair_has_nothing_against_it_and_is_not_changed(home: Home) -> None:
    with pair(home) as sides:
        before = [migration_settings(side.socket) for side in sides]
        states = [side.ask("query-status") for side in sides]
        found = findings(home, *words(home))
        wrong = {name: row["what"] for name, row in found.items() if row["verdict"] != "ok"}
        assert wrong == {}
        assert [migration_settings(side.socket) for side in sides] == before
        assert [side.ask("query-status") for side in sides] == states
        # The first connection is the stream's: nobody has taken it.
        home.call("migrate", *words(home))
        assert sides[1].ask("query-status")["status"] == "running"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mismatch_is_found_under_its_name(home: Home, case: Case) -> None:
    with pair(home, case.source, case.destination):
        found = findings(home, *words(home), status=3 if case.blockers else 0)
    blockers, warnings = named(found, "blocker"), named(found, "warning")
    assert blockers - case.also == case.blockers
    assert warnings - case.also == case.warnings
    for name in blockers | warnings:
        assert found[name]["evidence"]
        assert found[name]["remedy"]


@pytest.mark.parametrize(
    ("source", "destination"),
    [(here, there) for _, here, there in HARMLESS],
    ids=[name for name, _, _ in HARMLESS],
)
def test_what_does_no_harm_is_not_held_against_a_move(
    home: Home, source: Options, destination: Options
) -> None:
    with pair(home, source, destination):
        found = findings(home, *words(home))
    wrong = {name: row["what"] for name, row in found.items() if row["verdict"] != "ok"}
    assert wrong == {}


def test_another_host_by_its_audit_and_a_socket_that_is_passed_on(home: Home) -> None:
    """A network for documentation stands for the host: an address that is not here."""
    audited = asyncio.run(audit(Request(host=True), JUDGES))
    told = [one.to_json() for one in audited.findings]
    worse = [{**one, "verdict": "misconfigured", "change": "mend it"} for one in told]
    right = [{**one, "verdict": "ok"} for one in told]
    vm, elsewhere = f"qmp:{home.folder}/source.sock", ("--to", "tcp:192.0.2.1:4444")
    file, socket = home.folder / "b.json", home.folder / "passed-on.sock"
    with pair(home), passed_on(socket, home.folder / "destination.sock"):
        there = (*elsewhere, "--to-qmp", str(socket), "--to-audit", str(file))
        file.write_text("\n".join(map(json.dumps, [*worse, audited.to_json()])))
        found = findings(home, vm, *there)
        assert found["host-fast-paths"]["verdict"] == "warning"
        assert "mend it" in found["host-fast-paths"]["remedy"]
        # QEMU is asked through the socket, and its process is not the one that passes it on.
        assert {found[name]["verdict"] for name in ("vcpus", "devices", "destination-waits")} == {
            "ok"
        }
        assert {found[name]["verdict"] for name in ("cpu-affinity", "network-vhost")} == {
            "cannot be told"
        }
        file.write_text("\n".join(map(json.dumps, [*right, audited.to_json()])))
        assert findings(home, vm, *there)["host-fast-paths"]["verdict"] == "ok"
        found = findings(home, vm, *elsewhere)
        assert "`ssh 192.0.2.1 vmferry audit --host" in found["host-fast-paths"]["what"]
        refused = home.call("migrate", vm, *there, status=3)
        assert "is no QEMU, but process" in refused.stderr
        file.write_text("\n".join(map(json.dumps, [*worse, audited.to_json()])))
        unseen = ("--to", f"unix:{home.folder}/incoming.sock", "--to-audit", str(file))
        moved = home.call("migrate", vm, *unseen)
        assert "host-fast-paths: the destination's host offers less" in moved.stdout + moved.stderr


def test_settings_for_people_are_those_for_programs(home: Home) -> None:
    """All devices are read at once from what is printed for people: QMP tells each the same."""

    async def read(socket: Path) -> list[str]:
        side = QemuSide(socket, None, ours=False)
        await side.connect()
        asking = Asking(side)
        found = await read_settings(asking)
        for name, settings in found.items():
            path = f"/machine/peripheral/{name}"
            told = await asking.values(path, await asking.listed(path))
            common = {one: told[one] for one in settings if one in told}
            assert len(common) >= len(settings) - 2
            assert {one: settings[one] for one in common} == common
        await side.close()
        return sorted(found)

    more = (
        *device("virtio-serial-pci,id=serial"),
        *device("virtserialport,bus=serial.0,id=port,name=x"),
        *device("virtio-balloon-pci,id=balloon"),
        *device("qemu-xhci,id=usb"),
        *device("usb-tablet,id=tablet"),
        *device("scsi-hd,drive=null0,id=hd"),
        *device("pcie-root-port,id=root,chassis=1"),
        *device("e1000e,id=other,romfile="),
    )
    with bare(home.folder, "source", {"more": more}) as source:
        names = asyncio.run(read(source.socket))
    assert {"nic0", "scsi0", "disk0", "port", "hd", "root", "tablet"} <= set(names)


def test_an_image_that_was_passed_as_an_open_file(home: Home) -> None:
    """As libvirt does: its name leads nowhere, which does not mean that it is gone."""
    with (home.folder / "a").open("r+b") as image:
        passed = (
            *("-add-fd", f"fd={image.fileno()},set=1", "-blockdev"),
            "driver=qcow2,node-name=node0,file.driver=file,file.filename=/dev/fdset/1",
        )
        with pair(home, {"disk": passed}, files=(image.fileno(),)):
            found = findings(home, *words(home))
    assert named(found, "warning") == {"disk-images"}
    assert named(found, "cannot be told") == {"disk-files"}


def test_a_socket_that_somebody_holds(home: Home) -> None:
    with pair(home) as sides:
        for side in sides:
            holder = QEMUMonitorProtocol(str(side.socket))
            holder.connect()
            refused = home.call("check", *words(home), status=3)
            assert "held by" in refused.stderr
            assert refused.stdout == ""
            holder.close()


def test_the_ram_trap(home: Home) -> None:
    trapped = find_binary(None).version < FIXED_IN
    memory = {"memory": ("-m", "16M")}
    with pair(home, memory, memory):
        found = findings(home, *words(home), status=3 if trapped else 0)
    assert named(found, "blocker") == ({"tcg-dirty-tracking"} if trapped else set())


def test_what_the_vm_is_doing_is_looked_at(home: Home) -> None:
    with pair(home) as (source, _):
        source.ask("block-dirty-bitmap-add", node="node0", name="daily")
        assert named(findings(home, *words(home)), "warning") == {"dirty-bitmaps"}
        place = {"type": "unix", "data": {"path": f"{home.folder}/nbd.sock"}}
        source.ask("nbd-server-start", addr=place)
        source.ask("block-export-add", type="nbd", id="e0", **{"node-name": "node0"})
        job = {"job-id": "m0", "device": "node0", "target": "null0", "sync": "full", "speed": 1}
        source.ask("blockdev-backup", **job)
        source.ask("migrate-set-parameters", **{"tls-creds": "tls0"})
        found = findings(home, *words(home), status=3)
        assert named(found, "blocker") == {"block-jobs", "tls"}
        assert named(found, "warning") == {"dirty-bitmaps", "disk-exports"}
        source.ask("stop")
        assert findings(home, *words(home), status=3)["runs"]["verdict"] == "ok"
    (home.folder / "nbd.sock").unlink(missing_ok=True)


def test_a_migration_of_somebody_else(home: Home) -> None:
    with pair(home) as (source, _):
        source.ask("migrate-set-parameters", **{"max-bandwidth": 4096})
        source.ask("migrate", uri="exec:cat >/dev/null")
        found = findings(home, *words(home), status=3)
        assert named(found, "blocker") == {"migration-idle"}
        refused = home.call("migrate", *words(home), status=3)
        assert "somebody else has begun" in refused.stderr


def test_devices_that_cannot_come_along(home: Home) -> None:
    more = (
        *device("nvme,id=nvme0,serial=x,drive=null0"),
        *("-fsdev", "local,id=fs0,path={folder},security_model=none"),
        *device("virtio-9p-pci,id=share0,fsdev=fs0,mount_tag=x"),
    )
    with pair(home, {"more": more}, {"more": more}):
        found = findings(home, *words(home), status=3)
    assert named(found, "blocker") == {"migration-allowed"}
    assert "nvme" in found["migration-allowed"]["what"]
    assert named(found, "warning") == {"host-devices"}


def test_a_disk_that_keeps_nothing(home: Home) -> None:
    disk = ("-drive", "file={folder}/a,format=qcow2,if=none,id=node0,snapshot=on")
    with pair(home, {"disk": disk}, {"disk": disk}):
        found = findings(home, *words(home), status=3)
    assert named(found, "blocker") == {"disk-files"}
    assert named(found, "warning") == {"disk-images"}


def test_a_qemu_that_does_not_run_and_one_that_does_not_wait(home: Home) -> None:
    with (
        bare(home.folder, "source", {}, "-S"),
        # One that does not wait locks its image.
        bare(home.folder, "destination", {"disk": OTHER_IMAGE}, "-S"),
    ):
        found = findings(home, *words(home), status=3)
    expected = {"runs", "destination-waits", "destination-listens", "disk-images"}
    assert named(found, "blocker") == expected


def test_a_qemu_that_waits_but_does_not_listen(home: Home) -> None:
    with (
        bare(home.folder, "source", {}),
        bare(home.folder, "destination", {}, "-incoming", "defer"),
    ):
        found = findings(home, *words(home), status=3)
    assert named(found, "blocker") == {"destination-listens"}


def test_a_destination_that_cannot_be_seen_is_said_to_be_so(home: Home) -> None:
    with bare(home.folder, "source", {}):
        source = f"qmp:{home.folder}/source.sock"
        port = f"tcp:127.0.0.1:{free_port()}"
        found = findings(home, source, "--to", port, status=3)
        assert named(found, "blocker") == {"destination-listens"}
        untold = named(found, "cannot be told")
        assert {"vcpus", "devices", "cpu-features", "memory-size"} <= untold
        assert "--to-qmp" in found["vcpus"]["what"]
        found = findings(home, source, "--to", "tcp:192.0.2.1:4444")
        assert found["destination-listens"]["verdict"] == "cannot be told"
        found = findings(home, source, "--to", "local", status=3)
        assert named(found, "blocker") == {"second-instance"}


def test_one_cpu_for_two_vcpus(home: Home) -> None:
    with pair(home) as (_, destination):
        for thread in Path(f"/proc/{destination.process.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {min(os.sched_getaffinity(0))})
        found = findings(home, *words(home))
    cpus = found["cpu-affinity"]["evidence"][0]
    assert cpus["destination"] == "1"
    assert named(found, "warning") == ({"cpu-affinity"} if cpus["source"] != "1" else set())


SPECIFICATION = """
[cpu]
count = 2
[memory]
size = "64MiB"
[[disk]]
path = "{folder}/a"
format = "qcow2"
[qemu]
accelerator = "tcg"
extra = ["-device", "qemu-xhci,id=xhci"{extra}]
"""


@contextlib.contextmanager
def web(home: Home, extra: str = "") -> Iterator[None]:
    home.run("web", SPECIFICATION.format(folder=home.folder, extra=extra))
    try:
        yield
    finally:
        home.call("stop", "web", "--force")


def plug(home: Home) -> None:
    """A device that the VM's specification does not have."""
    socket = home.instance("web").files.observer_socket
    ask_at(socket, "device_add", driver="usb-tablet", id="tablet", bus="xhci.0")


def test_a_second_instance_here_is_looked_at_and_gone(home: Home) -> None:
    with web(home):
        instances = home.instances()
        before = migration_settings(home.instance("web").files.observer_socket)
        found = findings(home, "web", "--to", "local")
        wrong = {name: row["what"] for name, row in found.items() if row["verdict"] != "ok"}
        assert wrong == {}
        assert home.instances() == instances
        assert migration_settings(home.instance("web").files.observer_socket) == before


def test_a_hot_plugged_device_forbids_a_local_move(home: Home) -> None:
    with web(home):
        plug(home)
        found = findings(home, "web", "--to", "local", status=3)
        assert named(found, "blocker") == {"devices"}
        assert "tablet (usb-tablet)" in found["devices"]["what"]

        source = home.instance("web")
        *_, outcome = home.records("migrate", "web", "--to", "local", status=3)
        assert (outcome["status"], outcome["vm_runs_at"]) == ("refused", "source")
        assert "devices: the destination lacks tablet (usb-tablet)" in outcome["why"]
        assert home.instance("web") == source
        assert home.instances() == [source.folder.name]

        # Forced, QEMU finds out at the very end, and the VM goes on where it is.
        forced = ("--force", "devices")
        *_, outcome = home.records("migrate", "web", "--to", "local", *forced, status=5)
        assert (outcome["status"], outcome["vm_runs_at"]) == ("failed", "source")
        assert "usb" in outcome["why"]
        assert home.instances() == [source.folder.name]
        (seen,) = home.records("status", "web")
        assert seen["state"] == "running"


def test_qemus_words_where_no_second_instance_starts(home: Home) -> None:
    taken = f"socket,id=taken,host=127.0.0.1,port={free_port()},server=on,wait=off"
    with web(home, f', "-chardev", "{taken}"'):
        instances = home.instances()
        found = findings(home, "web", "--to", "local", status=3)
        assert named(found, "blocker") == {"second-instance"}
        assert "Address already in use" in found["second-instance"]["what"]
        assert home.instances() == instances


def test_a_booted_guest_shows_what_qemu_lets_through(home: Home) -> None:
    """QEMU carries a guest into queues of half the size; `check` alone says that it is wrong."""
    place = home.folder / "booted.sock"
    nic = f"{NIC},romfile=,{MAC},vectors=4"
    common = ("-m", "163848k", "-netdev", "user,id=net0")

    def guest(name: str, *arguments: str) -> GuestVm:
        attach = f"unix:{home.folder}/{name}/attach.sock,server=on,wait=off"
        return GuestVm(home.folder / name, "-qmp", attach, *common, *arguments)

    scsi = f"{SCSI},num_queues=1,vectors=4"
    waits = ("-incoming", f"unix:{place}")
    address = f"qmp:{home.folder}/booted/attach.sock"
    to = ("--to", f"unix:{place}", "--to-qmp")
    with guest("booted", *device(f"{nic},mq=on"), *device(scsi)) as source:
        with guest("without-mq", *device(f"{nic},mq=off"), *device(scsi), *waits) as other:
            found = findings(home, address, *to, f"{other.folder}/attach.sock", status=3)
            assert named(found, "blocker") == {"virtio-queues", "virtio-features"}
            assert "VIRTIO_NET_F_MQ" in found["virtio-features"]["what"]
        half = (*device(f"{nic},mq=on"), *device(f"{scsi},virtqueue_size=128"))
        with guest("half", *half, *waits) as destination:
            at = (address, *to, f"{destination.folder}/attach.sock")
            assert named(findings(home, *at, status=3), "blocker") == {"virtio-queues"}
            home.call("migrate", *at, "--force", "virtio-queues")
            assert source.process.wait() == 0
            assert destination.ask("query-status")["status"] == "running"


def test_base_has_every_option_that_a_case_changes() -> None:
    assert {name for case in CASES for name in {**case.source, **case.destination}} <= set(BASE)
