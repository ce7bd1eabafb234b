"""What is chosen for each of the seven fast paths, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from vmferry.errors import UsageError
from vmferry.fastpath.configure import configure
from vmferry.fastpath.configured import Configured
from vmferry.fastpath.facts import HostFacts, Iommu
from vmferry.fastpath.finding import Feature
from vmferry.units import GIB, MIB
from vmferry.vm.spec import VmSpec

VHOST = {"/dev/vhost-net": ""}
VFIO = {"/dev/vfio/vfio": ""}
# As a VT-d unit with leaves of 2 MiB and 1 GiB shows itself.
VTD = Iommu("dmar0", "intel", 0xD2008C22260286, 0xF00F4A)
BOTH = ("virtio-blk-pci", "virtio-scsi-pci")


def host(**changes: Any) -> HostFacts:
    base: dict[str, Any] = {
        "architecture": "x86_64",
        "kernel": "6.1",
        "cpus": 16,
        "devices": VHOST,
        "modules": {"vhost_net": {"experimental_zcopytx": "0"}},
        "clocksource": "tsc",
        "net_admin": True,
    }
    return HostFacts(**{**base, **changes})


def spec(**changes: Any) -> VmSpec:
    """A resolved specification, under KVM."""
    base: dict[str, Any] = {
        "name": "web",
        "cpu": {"count": 4, "model": "host"},
        "memory": {"size": 256 * MIB},
        "boot": {"kernel": "/vmlinuz"},
        "qemu": {"binary": "/bin/qemu", "machine": "pc-q35-7.2", "accelerator": "kvm"},
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if key in base else value
    return VmSpec.model_validate(base)


def said(done: Configured, feature: Feature, *, warnings: bool | None = None) -> str:
    return "\n".join(
        one.text
        for one in done.reasons
        if one.feature is feature and (warnings is None or one.warning is warnings)
    )


def on_bridge(**changes: Any) -> dict[str, Any]:
    return {"kind": "bridge", "bridge": "br0", **changes}


@pytest.mark.parametrize(("vcpus", "queues"), [(1, 1), (2, 2), (8, 8), (9, 8), (200, 8)])
def test_a_card_on_a_bridge_has_a_queue_for_each_vcpu(vcpus: int, queues: int) -> None:
    done = configure(spec(cpu={"count": vcpus}, nic=[on_bridge()]), host())
    assert (done.spec.nic[0].queues, done.spec.nic[0].vhost) == (queues, True)
    assert "by vhost, in the kernel" in said(done, Feature.NET_QUEUES)


def test_a_user_without_leave_to_make_taps_gets_one_queue_and_is_told() -> None:
    done = configure(spec(nic=[on_bridge()]), host(net_admin=False))
    assert (done.spec.nic[0].queues, done.spec.nic[0].vhost) == (1, False)
    assert "CAP_NET_ADMIN" in said(done, Feature.NET_QUEUES)


@pytest.mark.parametrize(
    ("accelerator", "devices", "why"),
    [
        ("kvm", {}, "there is no /dev/vhost-net"),
        ("kvm", {"/dev/vhost-net": "this user may not open it"}, "this user may not open it"),
        ("tcg", VHOST, "no vhost under TCG"),
    ],
)
def test_vhost_where_it_can_be(accelerator: str, devices: dict[str, str], why: str) -> None:
    vm = spec(qemu={"accelerator": accelerator}, nic=[on_bridge()])
    done = configure(vm, host(devices=devices))
    assert done.spec.nic[0].vhost is False
    assert why in said(done, Feature.NET_QUEUES, warnings=accelerator == "kvm")


def test_what_the_specification_says_of_a_card_stays_and_is_doubted() -> None:
    done = configure(spec(nic=[on_bridge(queues=16, vhost=False)]), host())
    assert (done.spec.nic[0].queues, done.spec.nic[0].vhost) == (16, False)
    warned = said(done, Feature.NET_QUEUES, warnings=True)
    assert "16 queues for 4 vCPUs" in warned
    assert "without vhost one thread of QEMU serves all" in warned


def test_a_card_that_can_have_one_queue_only_is_mentioned_where_more_would_help() -> None:
    done = configure(spec(nic=[{}, {"kind": "bridge", "bridge": "br0", "model": "e1000"}]), host())
    assert [nic.queues for nic in done.spec.nic] == [None, None]
    text = said(done, Feature.NET_QUEUES)
    assert "QEMU's user network" in text
    assert "model e1000" in text
    assert said(configure(spec(cpu={"count": 1}, nic=[{}]), host()), Feature.NET_QUEUES) == ""


def test_a_qemu_that_can_spread_queues_is_given_threads_for_them() -> None:
    vm = spec(disk=[{"path": "/a", "interface": "scsi"}, {"path": "/b"}])
    done = configure(vm, host(), BOTH)
    assert done.spec.scsi is not None
    assert (done.spec.scsi.queues, done.spec.scsi.iothreads) == (4, (0, 1, 2, 3))
    assert (done.spec.disk[1].queues, done.spec.disk[1].iothreads) == (4, (0, 1, 2, 3))
    assert (done.spec.disk[0].queues, done.spec.disk[0].iothreads) == (None, None)


def test_an_older_qemu_has_one_thread_a_device_and_says_why() -> None:
    vm = spec(disk=[{"path": "/a", "interface": "scsi"}, {"path": "/b"}, {"path": "/c"}])
    done = configure(vm, host(), ["virtio-blk-pci"])
    assert done.spec.scsi is not None
    assert (done.spec.scsi.queues, done.spec.scsi.iothreads) == (4, (0,))
    assert "QEMU 10.0 can" in said(done, Feature.SCSI_QUEUES)
    old = configure(vm, host())
    assert [disk.iothreads for disk in old.spec.disk] == [None, (1,), (2,)]


def test_threads_of_storage_are_no_more_than_help() -> None:
    vm = spec(cpu={"count": 64}, disk=[{"path": "/a"}])
    assert configure(vm, host(), BOTH).spec.disk[0].iothreads == (0, 1, 2, 3)
    assert configure(vm, host(cpus=2), BOTH).spec.disk[0].iothreads == (0, 1)
    lonely = configure(vm, host(cpus=1), BOTH)
    assert lonely.spec.disk[0].iothreads == ()
    assert "main loop" in said(lonely, Feature.SCSI_QUEUES)


def test_what_the_specification_says_of_a_disk_stays_and_is_doubted() -> None:
    vm = spec(disk=[{"path": "/a", "queues": 8, "iothreads": [3, 5]}, {"path": "/b", "queues": 2}])
    done = configure(vm, host())
    assert (done.spec.disk[0].queues, done.spec.disk[0].iothreads) == (8, (3, 5))
    assert done.spec.disk[1].queues == 2
    warned = said(done, Feature.SCSI_QUEUES, warnings=True)
    assert "8 queues for 4 vCPUs" in warned
    assert "will not start" in warned
    main = configure(spec(disk=[{"path": "/a", "iothreads": []}]), host())
    assert "main loop serves all" in said(main, Feature.SCSI_QUEUES, warnings=True)


def test_a_named_model_gets_what_host_has_by_itself() -> None:
    done = configure(spec(cpu={"model": "EPYC,-avx,+kvm_pv_ipi,kvm-poll-control=off"}), host())
    assert done.spec.cpu.model == (
        "EPYC,-avx,+kvm_pv_ipi,kvm-poll-control=off,"
        "kvm-pv-unhalt=on,kvm-pv-tlb-flush=on,kvm-pv-sched-yield=on,kvm-asyncpf-int=on"
    )
    assert "EPYC lacks" in said(done, Feature.PV_SPINLOCKS)


@pytest.mark.parametrize("model", ["host", "max", "host,-avx"])
def test_host_and_max_are_left_as_they_are(model: str) -> None:
    assert configure(spec(cpu={"model": model}), host()).spec.cpu.model == model


def test_tcg_gets_no_features_of_kvm_and_says_so_where_they_are_asked_for() -> None:
    plain = configure(spec(qemu={"accelerator": "tcg"}, cpu={"model": "EPYC"}), host())
    assert plain.spec.cpu.model == "EPYC"
    assert said(plain, Feature.PV_SPINLOCKS) == said(plain, Feature.CLOCK) == ""
    asked = {"model": "max,kvm-pv-unhalt=on"}
    done = configure(spec(qemu={"accelerator": "tcg"}, cpu=asked), host())
    assert "kvm-pv-unhalt: under TCG" in said(done, Feature.PV_SPINLOCKS, warnings=True)


@pytest.mark.parametrize(
    ("cpu", "why"),
    [
        ({"model": "EPYC,kvm-hint-dedicated=on", "pin": [0, 1, 2, 3]}, "needs the model 'host'"),
        ({"model": "host,+kvm_hint_dedicated"}, "not pinned"),
    ],
)
def test_hint_dedicated_is_refused_where_it_would_harm(cpu: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        configure(spec(cpu=cpu), host())


def test_hint_dedicated_is_offered_to_pinned_vcpus_and_never_chosen() -> None:
    done = configure(spec(cpu={"pin": [2, 3, 4, 5]}), host())
    assert "host,kvm-hint-dedicated=on" in said(done, Feature.PV_SPINLOCKS)
    assert done.spec.cpu.model == "host"
    asked = {"pin": [2, 3, 4, 5], "model": "host,kvm-hint-dedicated=on"}
    assert configure(spec(cpu=asked), host()).spec.cpu.model == "host,kvm-hint-dedicated=on"


@pytest.mark.parametrize(
    ("model", "source", "expected"),
    [
        ("host", "hpet", "the host's clock source is hpet, not tsc"),
        ("host,-kvmclock", "tsc", "turns kvmclock off"),
        ("host,kvmclock-stable-bit=off", "tsc", "turns kvmclock-stable-bit off"),
        ("host,+invtsc", "tsc", "the VM cannot be moved"),
    ],
)
def test_what_spoils_the_clock_is_said(model: str, source: str, expected: str) -> None:
    done = configure(spec(cpu={"model": model}), host(clocksource=source))
    assert expected in said(done, Feature.CLOCK, warnings=True)
    assert done.spec.cpu.model == model


def test_a_good_clock_is_left_alone() -> None:
    done = configure(spec(), host())
    assert "no invtsc" in said(done, Feature.CLOCK, warnings=False)
    frequency = configure(spec(cpu={"model": "host,+invtsc,tsc-frequency=2000000000"}), host())
    assert said(frequency, Feature.CLOCK, warnings=True) == ""


def test_ram_is_plain_where_nothing_gains_by_huge_pages() -> None:
    done = configure(spec(), host(huge_pages={2 * MIB: (1024, 1024)}))
    assert (done.spec.memory.backend, done.spec.memory.page_size) == ("ram", None)
    assert said(done, Feature.LARGE_PAGES) == ""


@pytest.mark.parametrize(
    ("size", "pages", "page"),
    [
        (GIB, {2 * MIB: (512, 512), GIB: (1, 1)}, GIB),
        (GIB, {2 * MIB: (512, 512), GIB: (1, 0)}, 2 * MIB),
        (256 * MIB, {2 * MIB: (128, 128), GIB: (1, 1)}, 2 * MIB),
        (GIB, {2 * MIB: (512, 511)}, None),
        (GIB, None, None),
    ],
)
def test_a_device_of_the_host_has_ram_in_huge_pages_where_they_are_free(
    size: int, pages: dict[int, tuple[int, int]] | None, page: int | None
) -> None:
    vm = spec(memory={"size": size}, passthrough=[{"host": "01:00.0"}])
    done = configure(vm, host(devices=VFIO, huge_pages=pages, iommus=(VTD,)))
    memory = done.spec.memory
    assert (memory.backend, memory.page_size) == ("hugepages" if page else "ram", page)
    text = said(done, Feature.LARGE_PAGES)
    assert "cannot be moved while it has a device of the host: 0000:01:00.0" in text
    assert (said(done, Feature.LARGE_PAGES, warnings=True) == "") is (page is not None)


def test_missing_huge_pages_are_counted() -> None:
    vm = spec(memory={"size": GIB, "backend": "hugepages"})
    done = configure(vm, host(huge_pages={2 * MIB: (600, 500)}))
    assert done.spec.memory.page_size == 2 * MIB
    text = said(done, Feature.LARGE_PAGES, warnings=True)
    assert "needs 512 pages of 2.00 MiB, and 500 are free: 12 are missing" in text
    # 100 are in use; 512 more are wanted.
    assert "`echo 612 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`" in text
    enough = configure(vm, host(huge_pages={2 * MIB: (600, 512)}))
    assert said(enough, Feature.LARGE_PAGES, warnings=True) == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"devices": {}}, "there is no /dev/vfio/vfio"),
        ({"devices": {"/dev/vfio/vfio": "this user may not open it"}}, "may not open it"),
        ({"iommus": ()}, "shows no IOMMU"),
        ({"command_line": "quiet intel_iommu=on,sp_off"}, "sp_off"),
        ({"modules": {"vfio_iommu_type1": {"disable_hugepages": "Y"}}}, "disable_hugepages is on"),
        ({"iommus": (Iommu("dmar0", "intel", 0, 0),)}, "no leaves larger than 4 KiB"),
    ],
)
def test_what_keeps_a_device_from_large_pages_is_said(
    changes: dict[str, Any], expected: str
) -> None:
    good = {"devices": VFIO, "huge_pages": {2 * MIB: (999, 999)}, "iommus": (VTD,)}
    vm = spec(passthrough=[{"host": "0000:01:00.0"}])
    assert said(configure(vm, host(**good)), Feature.LARGE_PAGES, warnings=True) == ""
    done = configure(vm, host(**{**good, **changes}))
    assert expected in said(done, Feature.LARGE_PAGES, warnings=True)


@pytest.mark.parametrize(
    ("on", "asked", "expected", "warning"),
    [
        ("0", False, "off, as it should be", False),
        ("1", False, "on at this host though not asked for", True),
        ("0", True, "asked for, and off at this host: `options vhost_net", True),
        ("1", True, "on, as asked", False),
        (None, True, "asked for, and not seen on", True),
    ],
)
def test_zero_copy_is_the_hosts(on: str | None, asked: bool, expected: str, warning: bool) -> None:
    modules = {"vhost_net": {} if on is None else {"experimental_zcopytx": on}}
    vm = spec(nic=[on_bridge(zero_copy=asked)])
    done = configure(vm, host(modules=modules))
    assert expected in said(done, Feature.ZERO_COPY, warnings=warning)


def test_zero_copy_without_vhost_is_in_vain() -> None:
    done = configure(spec(nic=[on_bridge(zero_copy=True)]), host(devices={}))
    assert "vhost does not serve it" in said(done, Feature.ZERO_COPY, warnings=True)
    assert said(configure(spec(nic=[{}]), host()), Feature.ZERO_COPY) == ""


def test_pinning_that_leaves_no_cpu_for_the_migration_is_said() -> None:
    vm = spec(cpu={"pin": [0, 1, 2, 3]})
    taken = configure(vm, host(cpus=4))
    assert "takes all 4 CPUs" in said(taken, Feature.MIGRATION_THREAD, warnings=True)
    left = configure(vm, host(cpus=5))
    assert "the other CPU of the host" in said(left, Feature.MIGRATION_THREAD, warnings=False)
    assert said(configure(spec(), host()), Feature.MIGRATION_THREAD) == ""
