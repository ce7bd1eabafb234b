"""libvirt's XML of a configured VM: each fast path is there, as an element or as a reason."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from vmferry.fastpath.configure import configure
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.finding import Feature
from vmferry.fastpath.show import as_libvirt, as_qemu
from vmferry.hypervisor.qemu.command_line import mac_address
from vmferry.units import MIB
from vmferry.vm.spec import VmSpec

HOST = HostFacts(
    architecture="x86_64",
    kernel="6.1",
    cpus=8,
    devices={"/dev/vhost-net": "", "/dev/vfio/vfio": ""},
    modules={"vhost_net": {"experimental_zcopytx": "0"}},
    clocksource="tsc",
    huge_pages={2 * MIB: (512, 512)},
    net_admin=True,
)
FULL: dict[str, Any] = {
    "name": "web",
    "cpu": {"count": 4, "model": "EPYC,-avx,+sse4a", "pin": [2, 3, 4, 5]},
    "memory": {"size": 256 * MIB},
    "boot": {"kernel": "/vmlinuz", "initrd": "/initrd", "append": "a <b> & --c"},
    "disk": [
        {"path": "/a.qcow2", "format": "qcow2", "interface": "scsi", "readonly": True},
        {"path": "/b & c", "cache": "none"},
    ],
    "nic": [
        {"kind": "bridge", "bridge": "br0", "mac": "52:54:00:00:00:01"},
        {"forward": [{"host": 2222, "guest": 22}]},
    ],
    "passthrough": [{"host": "c1:00.3"}],
    "qemu": {
        "binary": "/usr/bin/qemu-system-x86_64",
        "machine": "pc-q35-7.2",
        "accelerator": "kvm",
        "extra": ["-vnc", "unix:{instance}/vnc.sock"],
    },
}


def text_of(vm: dict[str, Any], spreading: tuple[str, ...] = (), host: HostFacts = HOST) -> str:
    return as_libvirt(configure(VmSpec.model_validate(vm), host, spreading), host)


@pytest.fixture
def domain() -> Element:
    return ElementTree.fromstring(text_of(FULL, ("virtio-blk-pci",)))


def attributes(domain: Element, path: str) -> dict[str, str]:
    found = domain.find(path)
    assert found is not None, path
    return found.attrib


def test_queues_of_cards(domain: Element) -> None:
    bridge, user = domain.findall("devices/interface")
    assert attributes(bridge, "driver") == {"name": "vhost", "queues": "4"}
    assert attributes(bridge, "source") == {"bridge": "br0"}
    assert attributes(bridge, "mac") == {"address": "52:54:00:00:00:01"}
    assert (user.get("type"), user.find("driver")) == ("user", None)
    assert attributes(user, "mac") == {"address": mac_address("web", 1)}


def test_queues_and_threads_of_disks(domain: Element) -> None:
    assert domain.findtext("iothreads") == "4"
    assert attributes(domain, "devices/controller/driver") == {"queues": "4", "iothread": "1"}
    scsi, blk = domain.findall("devices/disk")
    assert attributes(scsi, "target") == {"dev": "sda", "bus": "scsi"}
    assert scsi.find("readonly") is not None
    assert attributes(blk, "target") == {"dev": "vdb", "bus": "virtio"}
    driver = {"name": "qemu", "type": "raw", "cache": "none", "queues": "4"}
    assert attributes(blk, "driver") == driver
    threads = [one.get("id") for one in blk.findall("driver/iothreads/iothread")]
    assert threads == ["1", "2", "3", "4"]
    assert attributes(blk, "source") == {"file": "/b & c"}


def test_pv_features(domain: Element) -> None:
    assert attributes(domain, "features/pvspinlock") == {"state": "on"}
    kvm = domain.find("features/kvm")
    assert kvm is not None
    assert {one.tag: one.get("state") for one in kvm} == {"poll-control": "on", "pv-ipi": "on"}
    assert domain.findtext("cpu/model") == "EPYC"
    features = {one.get("name"): one.get("policy") for one in domain.findall("cpu/feature")}
    assert features == {"avx": "disable", "sse4a": "require"}


def test_large_pages_and_the_device(domain: Element) -> None:
    page = attributes(domain, "memoryBacking/hugepages/page")
    assert page == {"size": "2048", "unit": "KiB"}
    address = attributes(domain, "devices/hostdev/source/address")
    assert address == {"domain": "0x0000", "bus": "0xc1", "slot": "0x00", "function": "0x3"}


def test_clock_and_pins(domain: Element) -> None:
    assert attributes(domain, "clock/timer") == {"name": "kvmclock", "present": "yes"}
    pins = [one.get("cpuset") for one in domain.findall("cputune/vcpupin")]
    assert pins == ["2", "3", "4", "5"]
    assert attributes(domain, "cputune/emulatorpin") == {"cpuset": "0,1,6,7"}
    threads = [dict(one.attrib) for one in domain.findall("cputune/iothreadpin")]
    assert threads == [{"iothread": str(n), "cpuset": "0,1,6,7"} for n in (1, 2, 3, 4)]


def test_cpu_features_have_the_names_that_libvirt_knows() -> None:
    model = "EPYC,-lahf_lm,+pclmulqdq,sse4_1=on,-perfctr-core,ds-cpl=off,+avx512-bf16"
    found = ElementTree.fromstring(text_of({**FULL, "cpu": {"model": model}}))
    features = {one.get("name"): one.get("policy") for one in found.findall("cpu/feature")}
    assert features == {
        "lahf_lm": "disable",
        "pclmuldq": "require",
        "sse4.1": "require",
        "perfctr_core": "disable",
        "ds_cpl": "disable",
        "avx512-bf16": "require",
    }


@pytest.mark.parametrize(
    "word", ["enforce", "migratable=off", "hv-relaxed=on", "phys-bits=40", "host-phys-bits=on"]
)
def test_what_is_no_cpu_feature_is_said_and_not_asked_for(word: str) -> None:
    text = text_of({**FULL, "cpu": {"model": f"EPYC,{word},kvmclock-stable-bit=off"}})
    assert ElementTree.fromstring(text).findall("cpu/feature") == []
    told = word if "=" in word else f"{word}=on"
    assert f"<!-- left out, as QEMU's own: {told}, kvmclock-stable-bit=off -->" in text


def test_dashes_do_not_end_a_comment() -> None:
    nic = {"kind": "bridge", "bridge": "br---0"}
    ElementTree.fromstring(text_of({**FULL, "nic": [nic]}))


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_each_of_the_seven_is_told_of(accelerator: str) -> None:
    least = {**FULL, "disk": [], "nic": [], "passthrough": [], "cpu": {"model": "max"}}
    for vm in (FULL, least):
        text = text_of({**vm, "qemu": {**FULL["qemu"], "accelerator": accelerator}})
        for feature in Feature:
            assert f"<!-- {feature.value}: " in text
        ElementTree.fromstring(text)


def test_host_hints_and_frequencies() -> None:
    cpu = {"count": 2, "pin": [0, 1], "model": "host,kvm-hint-dedicated=on,tsc-frequency=2000"}
    found = ElementTree.fromstring(text_of({**FULL, "cpu": cpu}))
    assert attributes(found, "cpu") == {"mode": "host-passthrough"}
    assert attributes(found, "features/kvm/hint-dedicated") == {"state": "on"}
    assert attributes(found, "clock/timer[@name='tsc']") == {"name": "tsc", "frequency": "2000"}


def test_what_it_has_no_element_for_is_said() -> None:
    text = text_of(FULL)
    assert "<!-- left out: qemu.extra" in text
    assert "<!-- left out: the forwarded ports -->" in text
    assert "libvirt has no element for kvm-asyncpf-int, kvm-pv-sched-yield" in text


def test_ram_that_libvirt_rounds_is_told() -> None:
    """It undoes what keeps QEMU before 9.0 from losing writes under TCG."""
    odd = text_of({**FULL, "memory": {"size": 256 * MIB + 8192}})
    assert "<!-- libvirt makes it a whole number of MiB" in odd
    assert "whole number" not in text_of(FULL)


def test_the_command_line_for_a_shell_says_how_the_tap_is_made() -> None:
    bridge = {"kind": "bridge", "bridge": "br0", "create_bridge": True}
    vm = VmSpec.model_validate({**FULL, "nic": [bridge]})
    lines = as_qemu(configure(vm, HOST)).splitlines()
    assert lines[0].startswith("# mkdir -m 700 -p ")
    folder = lines[0].split()[-1]
    assert any(f"path={folder}/control.sock" in line for line in lines)
    assert lines[1:5] == [
        "# ip link add br0 type bridge",
        "# ip link set br0 up",
        "# ip tuntap add dev tap0 mode tap vnet_hdr multi_queue",
        "# ip link set tap0 master br0 up",
    ]
    assert lines[5] == "# `taskset -p` later: vCPUs on CPUs 2,3,4,5, other threads off these"
    assert lines[6] == "/usr/bin/qemu-system-x86_64 \\"
    netdev = "tap,id=net0,ifname=tap0,script=no,downscript=no,queues=4,vhost=on"
    assert f"    -netdev {netdev} \\" in lines
    assert "    -append 'a <b> & --c' \\" in lines


def test_a_bridge_of_two_cards_is_made_once() -> None:
    bridge = {"kind": "bridge", "bridge": "br0", "create_bridge": True}
    vm = VmSpec.model_validate({**FULL, "nic": [bridge, bridge]})
    lines = as_qemu(configure(vm, HOST)).splitlines()
    assert lines.count("# ip link add br0 type bridge") == 1
    assert sum("ip tuntap add" in line for line in lines) == 2
