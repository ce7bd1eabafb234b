"""`vmferry audit` of real QEMUs: what it reads, that it changes nothing, and QEMUs in trouble."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.qemu.home import Home
from tests.qemu.testguest_vm import GuestVm
from vmferry.fastpath.audit import Audit, Request, audit
from vmferry.fastpath.collect_memory import find_ram, parse_smaps
from vmferry.fastpath.collect_neighbours import count_neighbours, read_neighbours
from vmferry.fastpath.facts import Facts, VmFacts, Window
from vmferry.fastpath.finding import Feature
from vmferry.fastpath.judges import JUDGES
from vmferry.host.kernel_files import read_text

# A network namespace of its own, with a tap of two queues on a bridge, and QEMU in it.
IN_A_NAMESPACE = (
    "ip link add br0 type bridge && ip link set br0 up &&"
    " ip tuntap add dev tap0 mode tap multi_queue vnet_hdr &&"
    ' ip link set tap0 master br0 mtu 1400 up && exec "$@"'
)
DEVICES = (
    *("-object", "iothread,id=io0"),
    *("-device", "virtio-scsi-pci,id=scsi0,num_queues=2,iothread=io0"),
    *("-blockdev", "null-co,node-name=n0,size=67108864,read-zeroes=on"),
    *("-blockdev", "null-co,node-name=n1,size=67108864,read-zeroes=on"),
    *("-blockdev", "null-co,node-name=n2,size=67108864,read-zeroes=on"),
    *("-device", "scsi-hd,id=lun0,drive=n0", "-device", "scsi-hd,drive=n1"),
    *("-device", "virtio-blk-pci,id=vd0,drive=n2"),
    *("-netdev", "tap,id=h0,ifname=tap0,script=no,downscript=no,queues=2,vhost=off"),
    *("-device", "virtio-net-pci,id=net0,netdev=h0,mq=on,mac=52:54:00:00:00:07,romfile="),
    *("-netdev", "user,id=h1,restrict=on", "-device", "virtio-net-pci,netdev=h1,romfile="),
    *("-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"),
)
SPECIFICATION = """
memory.size = "128MiB"
boot.kernel = "testguest"
testguest.working_set = "16MiB"
"""


def started(folder: Path, *arguments: str) -> GuestVm:
    """A QEMU whose socket `audit.sock` is for the audit."""
    socket = f"unix:{folder}/audit.sock,server=on,wait=off"
    return GuestVm(folder, *("-qmp", socket, *arguments), working_set=8 * 2**20)


def name(vm: GuestVm) -> str:
    return f"qmp:{vm.folder}/audit.sock"


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


@pytest.fixture(scope="module")
def vm(home: Home) -> Iterator[GuestVm]:
    """A VM with two queues of everything, in a network namespace of its own."""
    folder = home.folder / "vm"
    # The test guest has no agent of QEMU's: behind this socket nobody lives.
    agent = ("-chardev", f"socket,id=ga,path={folder}/ga.sock,server=on,wait=off")
    guest = started(folder, *("-name", "guest=two,debug-threads=on"), *agent, *DEVICES)
    guest.command += ["-smp", "2,maxcpus=4"]
    alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    guest.command = [*alone, "sh", "-c", IN_A_NAMESPACE, "sh", *guest.command]
    with guest:
        yield guest


@pytest.fixture(scope="module")
def found(vm: GuestVm) -> Audit:
    return asyncio.run(audit(Request(vm=name(vm), window=0.5), JUDGES))


@pytest.fixture
def facts(found: Audit) -> VmFacts:
    assert found.facts.vm is not None
    return found.facts.vm


def test_the_vm_and_its_vcpus(vm: GuestVm, facts: VmFacts) -> None:
    assert facts.pid == vm.process.pid
    assert facts.version >= (7, 2, 0)
    assert facts.accelerator == "tcg"
    assert facts.machine is not None
    assert facts.machine.startswith("pc-q35-")
    assert (facts.running, facts.migrating, facts.blocked) == (True, False, ())
    tids = {int(path.name) for path in Path(f"/proc/{facts.pid}/task").iterdir()}
    assert [vcpu.index for vcpu in facts.vcpus] == [0, 1]
    assert facts.most_vcpus == 4
    assert all(vcpu.tid in tids and vcpu.allowed for vcpu in facts.vcpus)
    assert facts.cpu_type == "max-x86_64-cpu"
    assert facts.neighbours is not None
    assert facts.libvirt_xml is None
    assert facts.words is not None
    assert "-nodefaults" in facts.words


def test_features_are_what_the_guest_is_shown(facts: VmFacts) -> None:
    assert facts.features is not None
    # TCG has none of KVM's, whatever the command line says.
    assert facts.features["kvm-pv-unhalt"] is False
    assert facts.features["kvmclock-stable-bit"] is False
    assert facts.features["invtsc"] is False
    # Each costs QEMU a moment.
    assert 10 < len(facts.features) < 60


def test_cards_with_their_taps(facts: VmFacts) -> None:
    assert facts.cards is not None
    card, other = sorted(facts.cards, key=lambda card: card.netdev)
    assert (card.name, card.model, card.mq, card.vectors) == ("net0", "virtio-net-pci", True, 6)
    assert (card.netdev, card.queues, card.vhost_queues) == ("tap", 2, 0)
    assert card.mac == "52:54:00:00:00:07"
    assert card.virtio is not None
    assert "VIRTIO_NET_F_MQ" in card.virtio.taken <= card.virtio.offered
    assert (card.virtio.driver_ok, card.virtio.vhost, card.virtio.ready) == (True, False, 5)
    assert (other.netdev, other.queues, other.tap) == ("user", 1, None)
    if os.geteuid() != 0:
        assert card.tap is None
        assert "may not" in facts.unread["taps"]
        return
    assert card.tap is not None
    assert (card.tap.name, card.tap.multi_queue, card.tap.mtu) == ("tap0", True, 1400)
    assert (card.tap.queues, card.tap.disabled) == (2, 0)
    assert (card.tap.bridge, card.tap.bridge_ports, card.tap.uplinks) == ("br0", (), {})


def test_controllers_and_their_threads(facts: VmFacts) -> None:
    assert facts.controllers is not None
    controllers = {one.name: one for one in facts.controllers}
    scsi, blk = controllers["scsi0"], controllers["vd0"]
    assert (scsi.queues, scsi.iothreads, scsi.disks) == (2, ("io0",), 2)
    assert (blk.iothreads, blk.disks) == ((), 1)
    assert scsi.virtio is not None
    assert (scsi.virtio.driver_ok, scsi.virtio.virtqueues, scsi.virtio.ready) == (True, 4, 4)
    assert list(facts.iothreads or {}) == ["io0"]
    assert facts.passthrough == ()


def test_ram(vm: GuestVm, facts: VmFacts) -> None:
    assert facts.ram is not None
    assert facts.ram.size == 262152 * 1024
    # Nobody asks how it is mapped where no device of the host needs it.
    assert facts.ram.page_size is None
    areas = parse_smaps(read_text(Path(f"/proc/{facts.pid}/smaps"), 16 << 20))
    found = find_ram(areas, [facts.ram.size])
    assert found is not None
    (area,) = found
    assert area.page_size == 4096
    assert 0 < area.resident <= facts.ram.size


def test_the_window(vm: GuestVm, found: Audit) -> None:
    window = found.facts.window
    assert isinstance(window, Window)
    assert window.seconds >= 0.5
    assert window.threads is not None
    roles = [thread.role for thread in window.threads]
    assert (roles.count("vcpu"), roles.count("main"), roles.count("iothread")) == (2, 1, 1)
    # The page writer of the test guest runs.
    assert sum(thread.ran for thread in window.threads if thread.role == "vcpu") > 0
    assert window.vcpu_stats == ()
    assert window.requests is not None
    assert set(window.requests) == {"scsi0", "vd0"}
    assert (window.migrating, window.throttle) == (False, 0)
    if os.geteuid() == 0:
        assert window.taps is not None
        assert set(window.taps["tap0"]) == {
            *("sent_packets", "sent_bytes", "received_packets", "received_bytes")
        }


def test_no_check_fails_on_what_was_read(found: Audit) -> None:
    assert found.bugs == ()
    assert found.facts.host is not None
    assert {one.feature for one in found.findings} == set(Feature)
    assert found.facts.no_guest


def test_the_same_by_the_command(home: Home, vm: GuestVm, found: Audit) -> None:
    *findings, last = home.records("audit", name(vm), status=found.exit_status)
    assert {one["event"] for one in findings} == {"finding"}
    assert (last["subject"], last["bugs"]) == (name(vm), [])
    shown = home.call("audit", name(vm), status=found.exit_status).stdout
    assert "\nnet-queues " in shown


def state(vm: GuestVm) -> dict[str, Any]:
    """What an audit could change: of the VM, of its process, of the host."""
    process = Path(f"/proc/{vm.process.pid}")
    asked = (
        *("query-status", "query-migrate", "query-migrate-parameters", "query-chardev"),
        *("query-migrate-capabilities", "query-iothreads", "query-memdev", "query-jobs"),
        *(
            "query-cpus-fast",
            "query-named-block-nodes",
            "query-rx-filter",
            "query-hotpluggable-cpus",
        ),
    )
    monitor = ("info qtree", "info network", "info qom-tree", "info mtree")
    threads = sorted(int(path.name) for path in (process / "task").iterdir())
    return {
        **{command: vm.ask(command) for command in asked},
        **{line: vm.ask("human-monitor-command", **{"command-line": line}) for line in monitor},
        # Worker threads of QEMU's come and go with disk requests.
        "affinity": {tid: os.sched_getaffinity(tid) for tid in threads[:1]},
        "files": sorted(str(path.readlink()) for path in (process / "fd").iterdir()),
        "namespaces": sorted(str(path.readlink()) for path in (process / "ns").iterdir()),
        "limits": (process / "limits").read_text(),
        "oom": (process / "oom_score_adj").read_text(),
        "modules": sorted(path.name for path in Path("/sys/module").iterdir()),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "links": subprocess.run(
            ["ip", "-o", "link"], capture_output=True, text=True, check=True
        ).stdout,
        "probes": _text(Path("/sys/kernel/tracing/kprobe_events")),
        "tracing": _names(Path("/sys/kernel/tracing/instances")),
        "clock": _text(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        "huge pages": _text(Path("/proc/sys/vm/nr_hugepages")),
    }


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _names(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir()) if path.exists() else []


@pytest.mark.parametrize("options", [(), ("--deep",)])
def test_it_changes_nothing(
    home: Home, vm: GuestVm, found: Audit, options: tuple[str, ...]
) -> None:
    before = state(vm)
    verified = vm.agent.verify()
    home.call("audit", name(vm), *options, status=found.exit_status)
    after = state(vm)
    assert {key: after[key] for key in after if after[key] != before[key]} == {}
    assert verified.ok
    assert vm.agent.verify().ok


def test_a_guest_that_is_looked_into_by_a_command_that_fails(home: Home, vm: GuestVm) -> None:
    *_, last = home.records(
        *("audit", name(vm), "--guest-via", "sh -c 'echo no >&2; exit 9'", "--feature", "clock")
    )
    assert (last["looked_inside"], list(last["verdicts"])) == (False, ["clock"])
    assert "ended with 9: no" in last["no_guest"]


def test_a_guest_agent_that_is_not_there_behind_its_socket(home: Home, vm: GuestVm) -> None:
    agent = ("--guest-agent", f"{vm.folder}/ga.sock", "--feature", "clock")
    *_, last = home.records("audit", name(vm), *agent)
    assert last["looked_inside"] is False
    assert "does not answer within 3 s" in last["no_guest"]


def test_a_vm_of_ours_by_its_name(home: Home) -> None:
    home.run("ours", SPECIFICATION)
    try:
        done = home.start("audit", "ours", "--json")
        out, err = done.communicate()
        assert done.returncode in (0, 7), err
        assert '"subject": "ours"' in out
        assert home.records("status", "ours")[-1]["state"] == "running"
    finally:
        home.call("stop", "ours")
    assert "no VM 'ours'" in home.call("audit", "ours", status=2).stderr


def test_a_socket_that_somebody_else_holds(home: Home, vm: GuestVm) -> None:
    complaint = home.call("audit", f"qmp:{vm.folder}/qmp.sock", status=2).stderr
    assert "accepts connections but does not greet" in complaint
    assert "Traceback" not in complaint


@pytest.fixture
def victim(home: Home, tmp_path: Path) -> Iterator[GuestVm]:
    """A QEMU to be maltreated."""
    with started(home.folder / tmp_path.name[-20:]) as vm:
        yield vm


def test_a_qemu_that_ends_meanwhile(home: Home, victim: GuestVm) -> None:
    threading.Timer(1.0, victim.process.kill).start()
    complaint = home.call("audit", name(victim), "--window", "3s", status=2).stderr
    assert "ended while it was looked at" in complaint
    assert "Traceback" not in complaint


def test_a_qemu_that_falls_silent_meanwhile(home: Home, victim: GuestVm) -> None:
    threading.Timer(1.0, victim.process.send_signal, (signal.SIGSTOP,)).start()
    try:
        *_, last = home.records("audit", name(victim), "--window", "3s")
    finally:
        victim.process.send_signal(signal.SIGCONT)
    assert last["bugs"] == []
    assert victim.ask("query-status")["status"] == "running"


def test_a_destination_that_waits_is_no_neighbour(home: Home, vm: GuestVm) -> None:
    incoming = ("-name", "guest=to,debug-threads=on", "-incoming", "defer")
    with started(home.folder / "to", *incoming) as to:
        first = read_neighbours(os.getpid())
        vm.guest_seconds_pass(1.0)
        last = read_neighbours(os.getpid())
    everywhere = frozenset(range(os.cpu_count() or 1))
    counts = {}
    for one in (vm, to):
        pid = one.process.pid
        assert len(first[pid]) == 2
        counts[one] = count_neighbours({pid: first[pid]}, {pid: last[pid]}, everywhere)
    assert counts == {vm: (2, 2), to: (0, 0)}


def test_a_qemu_that_is_paused(victim: GuestVm) -> None:
    victim.ask("stop")
    found = asyncio.run(audit(Request(vm=name(victim), window=0.2), JUDGES))
    facts: Facts = found.facts
    assert found.bugs == ()
    assert facts.vm is not None
    assert facts.vm.running is False
