"""What holds of every specification and host: done twice is done once, and what is said stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import UsageError
from vmferry.fastpath.configure import configure
from vmferry.fastpath.facts import HostFacts, Iommu
from vmferry.hypervisor.qemu.command_line import command_line
from vmferry.hypervisor.qemu.instance import InstanceFiles
from vmferry.units import GIB, MIB
from vmferry.vm.cpu_model import parse_cpu_model
from vmferry.vm.spec import VmSpec

FILES = InstanceFiles(Path("/run/a"))
SPREADING = st.sets(st.sampled_from(["virtio-blk-pci", "virtio-scsi-pci"]))


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def table(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A table that has some of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


def merged(first: st.SearchStrategy[Any], second: st.SearchStrategy[Any]) -> Any:
    return st.builds(lambda one, other: {**one, **other}, first, second)


queues = st.integers(1, 256)
threads = st.lists(st.integers(0, 9), unique=True, max_size=4)
on_bridge = merged(
    st.just({"kind": "bridge", "bridge": "br0"}), table(queues=queues, vhost=st.booleans())
)
nics = st.lists(st.just({}) | st.just({"model": "e1000"}) | on_bridge, max_size=3)
scsi_disk = st.just({"interface": "scsi"})
disks = st.lists(scsi_disk | table(queues=queues, iothreads=threads), max_size=3)
models = st.sampled_from(
    ["host", "max", "EPYC", "qemu64,-kvm-pv-ipi", "EPYC,+kvm_pv_unhalt", "host,+invtsc"]
)
pages = st.dictionaries(
    st.sampled_from([2 * MIB, GIB]), st.tuples(st.integers(0, 9), st.integers(0, 2000)), max_size=2
)
devices = st.dictionaries(
    st.sampled_from(["/dev/vhost-net", "/dev/vfio/vfio"]), st.sampled_from(["", "may not"])
)
hosts = st.builds(
    HostFacts,
    architecture=st.sampled_from(["x86_64", "aarch64"]),
    kernel=st.just("6.1"),
    cpus=st.integers(1, 64),
    modules=maybe(
        st.just({"vhost_net": {"experimental_zcopytx": "1"}}) | st.just({"vhost_net": {}})
    ),
    devices=devices,
    clocksource=maybe(st.sampled_from(["tsc", "hpet"])),
    huge_pages=maybe(pages),
    iommus=maybe(st.just(()) | st.just((Iommu("dmar0", "intel", None, None),))),
    net_admin=maybe(st.booleans()),
)


@st.composite
def specs(draw: st.DrawFn) -> VmSpec:
    vcpus = draw(st.integers(1, 12))
    chosen = [{**disk, "path": f"/d{n}"} for n, disk in enumerate(draw(disks))]
    data: dict[str, Any] = {
        "name": "web",
        "cpu": {"count": vcpus, "model": draw(models)},
        "memory": {"size": draw(st.sampled_from([256 * MIB, GIB, 65 * MIB]))},
        "boot": {"kernel": "/vmlinuz"},
        "disk": chosen,
        "nic": draw(nics),
        "qemu": {"binary": "/bin/qemu", "accelerator": draw(st.sampled_from(["kvm", "tcg"]))},
    }
    if draw(st.booleans()):
        data["cpu"]["pin"] = list(range(vcpus))
    if draw(st.booleans()):
        data["passthrough"] = [{"host": "01:00.0"}]
    if any(disk.get("interface") == "scsi" for disk in chosen) and draw(st.booleans()):
        data["scsi"] = draw(table(queues=queues, iothreads=threads))
    return VmSpec.model_validate(data)


def said(value: Any) -> Any:
    """What a dump of a specification says, without what it leaves open."""
    if isinstance(value, dict):
        return {key: said(one) for key, one in value.items() if one is not None}
    return [said(one) for one in value] if isinstance(value, list | tuple) else value


def keeps(before: Any, after: Any) -> bool:
    """Whether `after` says at least all that `before` does."""
    if isinstance(before, dict):
        return all(key in after and keeps(one, after[key]) for key, one in before.items())
    if isinstance(before, list):
        return len(before) == len(after) and all(map(keeps, before, after))
    return bool(before == after)


@given(specs(), hosts, SPREADING)
def test_the_laws(vm: VmSpec, host: HostFacts, spreading: set[str]) -> None:
    done = configure(vm, host, spreading).spec

    assert configure(done, host, spreading).spec == done, "a second time changes nothing"
    assert VmSpec.model_validate_json(done.model_dump_json()) == done, "it can be kept and read"

    before, after = said(vm.model_dump()), said(done.model_dump())
    model, configured = (parse_cpu_model(one["cpu"].pop("model")) for one in (before, after))
    assert keeps(before, after), "what the specification says stays"
    assert configured.name == model.name
    assert model.features.items() <= configured.features.items()

    for was, nic in zip(vm.nic, done.nic, strict=True):
        if nic.has_queues:
            assert nic.vhost is not None
            assert nic.queues is not None
            assert was.queues is not None or nic.queues <= min(8, vm.cpu.count)
    for was_disk, disk in zip(vm.disk, done.disk, strict=True):
        if disk.interface == "virtio":
            assert disk.queues is not None
            assert disk.iothreads is not None
            assert was_disk.queues is not None or disk.queues == vm.cpu.count
            assert was_disk.iothreads is not None or len(disk.iothreads) <= host.cpus

    line = command_line(done, FILES, None, incoming=False)
    assert all(isinstance(word, str) and "None" not in word for word in line)


@given(specs(), hosts, SPREADING)
def test_every_sentence_can_be_read(vm: VmSpec, host: HostFacts, spreading: set[str]) -> None:
    for reason in configure(vm, host, spreading).reasons:
        assert reason.text
        assert not reason.text.endswith(".")
        assert "None" not in reason.text
        assert str(reason).startswith(f"{reason.feature.value}: ")


def test_a_refusal_is_no_bug() -> None:
    vm = VmSpec.model_validate(
        {
            "name": "web",
            "cpu": {"model": "EPYC,kvm-hint-dedicated"},
            "memory": {"size": MIB},
            "boot": {"kernel": "/vmlinuz"},
        }
    )
    with pytest.raises(UsageError):
        configure(vm, HostFacts("x86_64", "6.1", 2))
