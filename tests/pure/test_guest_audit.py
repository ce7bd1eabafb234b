"""The look into a guest from the inside: trees of other guests, garbage, and this very machine."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmferry.fastpath import guest_audit
from vmferry.fastpath.facts import GuestFacts
from vmferry.fastpath.guest_report import facts_of

PROGRAM = Path(guest_audit.__file__)
INTERRUPTS = """\
            CPU0       CPU2
   1:          9          0   IO-APIC   1-edge      i8042
  11:          5          7   IO-APIC  11-fasteoi   virtio9, uhci_hcd:usb1
  24:          0          0   PCI-MSI 49152-edge      virtio0-config
  25:        100         20   PCI-MSI 49153-edge      virtio0-input.0
  26:          0        300   PCI-MSI 49154-edge      virtio0-output.0
  27:          1          2   PCI-MSI 1-edge      virtio1-control
  28:         40         50   PCI-MSI 2-edge      virtio1-request
  30:          8          9   PCI-MSI 3-edge      nvme0q1
 LOC:     123456     654321   Local timer interrupts
 ERR:          0
"""
STAT = """\
cpu  300 0 100 1500 0 0 0 100
cpu0 100 0 100 700 0 0 0 100 0 0
cpu2 200 0 0 800 0 0 0
intr 1 2 3
"""


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def link(root: Path, name: str, target: str) -> None:
    place = root / name
    place.parent.mkdir(parents=True, exist_ok=True)
    (root / target).mkdir(parents=True, exist_ok=True)
    place.symlink_to(root / target)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A guest with a card, a SCSI disk behind virtio, an NVMe disk and a bridge."""
    virtio = "sys/devices/pci0000:00/0000:00:02.0/virtio"
    scsi = "sys/devices/pci0000:00/0000:00:03.0/virtio1/host0/target0:0:0/0:0:0:0"
    nvme = "sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0"
    link(tmp_path, "sys/class/net/eth0/device", virtio + "0")
    link(tmp_path, virtio + "0/driver", "sys/bus/virtio/drivers/virtio_net")
    link(tmp_path, "sys/block/sda/device", scsi)
    link(tmp_path, scsi + "/driver", "sys/bus/scsi/drivers/sd")
    link(tmp_path, scsi[: scsi.index("/host0")] + "/driver", "sys/bus/virtio/drivers/virtio_scsi")
    link(tmp_path, "sys/block/nvme0n1/device", nvme)
    link(tmp_path, nvme[: nvme.index("/nvme/")] + "/driver", "sys/bus/pci/drivers/nvme")
    put(
        tmp_path,
        {
            "proc/interrupts": INTERRUPTS,
            "proc/softirqs": "        CPU0 CPU1\n NET_RX:  5  6\n",
            "proc/stat": STAT,
            "proc/cmdline": "quiet nopvspin\n",
            "sys/class/net/br0/address": "52:54:00:00:00:02",
            "sys/class/net/eth0/address": "52:54:00:00:00:01\n",
            "sys/class/net/eth0/statistics/rx_packets": "10",
            "sys/class/net/eth0/statistics/tx_packets": "20",
            "sys/class/net/eth0/queues/rx-0/rps_cpus": "0",
            "sys/class/net/eth0/queues/rx-1/rps_cpus": "0",
            "sys/class/net/eth0/queues/tx-0/xps_cpus": "0",
            "sys/block/sda/stat": "1 2 3 4 5 6 7 8 9 10 11 12",
            "sys/block/sda/mq/0/cpu_list": "0, 2",
            "sys/block/sda/mq/1/cpu_list": "1, 3-4",
            "sys/block/sda/mq/10/cpu_list": "5",
            "sys/block/loop0/stat": "0",
            "sys/devices/pci0000:00/0000:00:04.0/msi_irqs/30": "msix",
            "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet\n",
            "sys/devices/system/clocksource/clocksource0/available_clocksource": "hpet acpi_pm \n",
        },
    )
    return tmp_path


def read(root: Path) -> GuestFacts:
    return facts_of(json.dumps(guest_audit.collect(str(root), 0.0)))


def test_cards_and_disks_of_a_tree(tree: Path) -> None:
    facts = read(tree)
    assert facts.cards is not None
    assert facts.disks is not None
    (card,) = facts.cards
    assert (card.name, card.mac, card.driver) == ("eth0", "52:54:00:00:00:01", "virtio_net")
    assert (card.queues, card.most_queues, card.packets) == (2, None, 0)
    assert card.interrupts == {"virtio0-input.0": (0, 0, 0), "virtio0-output.0": (0, 0, 0)}
    sda, nvme = facts.disks
    assert (sda.name, sda.driver, sda.queues) == ("sda", "virtio_scsi", ((0, 2), (1, 3, 4), (5,)))
    assert sda.interrupts == {"virtio1-request": (0, 0, 0)}
    assert (nvme.driver, nvme.queues) == ("nvme", None)
    assert nvme.interrupts == {"nvme0q1": (0, 0, 0)}
    assert "disks.nvme0n1.queues" in facts.unread
    assert facts.clock is not None
    assert (facts.clock.source, facts.clock.sources) == ("hpet", ("hpet", "acpi_pm"))
    assert (facts.cpus, facts.command_line) == (2, "quiet nopvspin")


def test_counts_of_the_window(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens while the counters are watched, and nothing of before."""

    def meanwhile(_: float) -> None:
        more = INTERRUPTS.replace("100         20", "150         21").replace("300", "7")
        put(
            tree,
            {
                "proc/interrupts": more,
                "proc/softirqs": "        CPU0 CPU1\n NET_RX:  9  6\n",
                "proc/stat": STAT.replace("700 0 0 0 100", "730 0 0 0 160").replace(
                    "cpu2 200 0 0 800", "cpu2 210 0 0 890"
                ),
                "sys/class/net/eth0/statistics/rx_packets": "110",
                "sys/block/sda/stat": "11 2 3 4 25 6 7 8 9 10 11 13",
                "sys/kernel/debug/lock_event_counts/pv_kick_wake": "4",
            },
        )

    put(tree, {"sys/kernel/debug/lock_event_counts/pv_kick_wake": "1"})
    monkeypatch.setattr("time.sleep", meanwhile)
    facts = read(tree)
    assert facts.cards is not None
    assert facts.disks is not None
    # CPU 1 is offline; a counter that went back has begun again.
    assert facts.cards[0].interrupts == {
        "virtio0-input.0": (50, 0, 1),
        "virtio0-output.0": (0, 0, 0),
    }
    assert facts.cards[0].packets == 100
    assert facts.disks[0].requests == 31
    assert facts.softirqs == {"NET_RX": (4, 0)}
    assert facts.lock_events == {"pv_kick_wake": 3}
    assert facts.steal == pytest.approx(60 / 190, abs=1e-5)
    assert facts.busy == pytest.approx((60 / 90, 10 / 100), abs=1e-5)


@pytest.mark.parametrize(
    "line",
    [
        "KVM setup paravirtual spinlock",
        "PV qspinlock hash table entries: 256 (order: 0, 4096 bytes)",
        "kvm-guest: PV spinlocks enabled",
    ],
)
def test_the_kernels_line_on_spinlocks(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux 3.12, 4.2 and 5.9 began to write it."""
    log = f"<6>[    0.1] x2apic enabled\n<6>[    0.207306] {line}\n<6>[    0.3] x86: Booted up\n"
    monkeypatch.setattr(guest_audit, "kernel_log", lambda: log)
    monkeypatch.setattr(guest_audit, "clock_facts", lambda reader: {})
    assert guest_audit.collect("", 0.0)["spinlocks"] == line


def test_nothing_is_there(tmp_path: Path) -> None:
    facts = read(tmp_path)
    assert (facts.cards, facts.disks, facts.steal, facts.busy) == (None, None, None, None)
    assert {"cards", "disks", "busy", "softirqs", "command_line", "clock.source"} <= set(
        facts.unread
    )
    assert guest_audit.summary(guest_audit.collect(str(tmp_path), 0.0))


garbage = st.text(max_size=200) | st.sampled_from(["", "CPU0\n 1: x", "9" * 5000, "0-9999999999"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(garbage, min_size=9, max_size=9), st.booleans())
def test_garbage_is_an_answer(tree: Path, texts: list[str], swap: bool) -> None:
    names = [
        "proc/interrupts",
        "proc/softirqs",
        "proc/stat",
        "proc/cmdline",
        "sys/class/net/eth0/address",
        "sys/class/net/eth0/statistics/rx_packets",
        "sys/block/sda/stat",
        "sys/block/sda/mq/0/cpu_list",
        "sys/devices/system/clocksource/clocksource0/current_clocksource",
    ]
    for name, text in zip(names[::-1] if swap else names, texts, strict=True):
        (tree / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    facts = guest_audit.collect(str(tree), 0.0)
    facts_of(json.dumps(facts))
    guest_audit.summary(facts)


def run(*words: str, source: str | None = None) -> subprocess.CompletedProcess[str]:
    where = "-" if source is not None else str(PROGRAM)
    command = [sys.executable, "-I", "-W", "error", where, *words]
    return subprocess.run(command, input=source, capture_output=True, text=True, timeout=60)


def test_this_machine_by_standard_input() -> None:
    done = run("--json", "--seconds", "0.1", source=PROGRAM.read_text())
    assert (done.returncode, done.stderr) == (0, "")
    facts = facts_of(done.stdout)
    assert facts.window >= 0.1
    assert facts.clock is not None
    assert facts.clock.vdso_ns is not None
    assert 0 < facts.clock.vdso_ns < 1e6


def test_this_machine_for_people() -> None:
    done = run("--seconds", "0")
    assert done.returncode in (0, 7), done.stderr
    assert done.stderr == ""
    for word in ("pv-spinlocks", "clock", "zero-copy", "Steal"):
        assert word in done.stdout


def test_a_loop_that_lost_the_cpu_leaves_no_short_ones() -> None:
    rounds: list[int] = []

    def loop(times: int) -> None:
        if not rounds:
            time.sleep(0.05)
        rounds.append(times)

    guest_audit.per_call(loop)
    assert rounds[-1] > rounds[0]


def test_without_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processors, and kernels that refuse memory that can be written and run."""

    def refused() -> Any:
        raise PermissionError(1, "Operation not permitted")

    by_code = guest_audit.clock_ns(True)
    monkeypatch.setattr(guest_audit, "machine_code", refused)
    by_python = guest_audit.clock_ns(True)
    # The same clock; a busy machine and Python's own cost blur it.
    assert by_code / 20 < by_python < by_code * 20
    reader = guest_audit.Reader()
    if not Path("/dev/cpu/0/cpuid").exists():
        assert reader.guard("kvm_features", guest_audit.kvm_words) is None
        assert reader.unread["kvm_features"].startswith("Operation not permitted")


def facts(**changes: Any) -> dict[str, Any]:
    card = {
        "name": "eth0",
        "queues": 4,
        "most_queues": 4,
        "interrupts": {
            f"virtio0-input.{n}": [100 * (n == cpu) for cpu in range(4)] for n in range(4)
        },
    }
    disk = {"name": "sda", "queues": [[0], [1], [2], [3]], "interrupts": {"a": [99, 99, 99, 99]}}
    clock = {"source": "kvm-clock", "vdso_ns": 30.0, "syscall_ns": 300.0, "steps_back": 0}
    whole: dict[str, Any] = {"cpus": 4, "kvm_features": 1 << 7, "kvm_hints": 0}
    whole |= {"spinlocks": "PV spinlocks enabled", "command_line": "quiet"}
    whole |= {"cards": [{**card, **changes.pop("card", {})}], "disks": [disk]}
    whole["clock"] = {**clock, **changes.pop("clock", {})}
    return {**whole, **changes}


@pytest.mark.parametrize(
    ("changes", "name", "verdict"),
    [
        ({}, "net-queues eth0", "ok"),
        ({"card": {"queues": 1}}, "net-queues eth0", "misconfigured"),
        ({"card": {"queues": 1, "most_queues": 1}}, "net-queues eth0", "could be better"),
        ({"card": {"interrupts": {"a": [1, 2, 3, 4]}}}, "net-queues eth0", "cannot be told"),
        ({"card": {"interrupts": {"a": [0, 999, 0, 1]}}}, "net-queues eth0", "could be better"),
        ({"card": {"queues": None}}, "net-queues eth0", "cannot be told"),
        ({}, "scsi-queues sda", "ok"),
        ({}, "pv-spinlocks", "ok"),
        ({"kvm_features": 1}, "pv-spinlocks", "could be better"),
        ({"command_line": "ro nopvspin"}, "pv-spinlocks", "misconfigured"),
        ({"kvm_hints": 1}, "pv-spinlocks", "cannot be told"),
        ({"kvm_features": 0}, "pv-spinlocks", "not used"),
        ({"kvm_features": None, "kvm_hints": None}, "pv-spinlocks", "cannot be told"),
        ({}, "clock", "ok"),
        ({"clock": {"vdso_ns": 290.0}}, "clock", "misconfigured"),
        ({"clock": {"vdso_ns": 290.0}, "kvm_features": 0}, "clock", "not used"),
        ({"clock": {"vdso_ns": 160.0}}, "clock", "cannot be told"),
        ({"clock": {"steps_back": 3}}, "clock", "misconfigured"),
        ({"clock": {"steps_back": 3}, "kvm_features": 0}, "clock", "misconfigured"),
        ({"clock": {"syscall_ns": None}}, "clock", "cannot be told"),
    ],
)
def test_words_for_people(changes: dict[str, Any], name: str, verdict: str) -> None:
    told = {line[0]: line[1] for line in guest_audit.summary(facts(**changes))}
    assert told[name] == verdict


def test_python_of_2016_reads_it() -> None:
    """RHEL 7 and 8 guests; also only modules that it had, and nothing of vmferry."""
    tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 6))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    allowed = "argparse array fcntl json os re socket struct sys time pathlib ctypes mmap"
    assert imported <= {*allowed.split(), "collections.abc", "typing"}
