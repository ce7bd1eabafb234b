"""Findings that the catalogue does not have: what the lab cannot plant, and edges."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bench._catalogue_case import Case, Expected, better, problems, wrong
from tests.pure.catalogue_parts import (
    CLOCK,
    FEATURES,
    HOST,
    MQ,
    NO_SUPPORT,
    SEEN,
    blk,
    card,
    disk,
    guest,
    inside_card,
    net,
    scsi,
    storage,
    tap,
    thread,
    vm,
    window,
)
from tests.pure.catalogue_planted import (
    APART,
    BY_PAGE,
    HINT,
    NVME,
    PLANTED,
    REALTIME,
    VTD,
    ZERO_COPY_ON,
)
from vmferry.fastpath.facts import DeepFacts, Facts, GuestRam, Virtio
from vmferry.fastpath.finding import Feature, Finding, Level, Verdict
from vmferry.fastpath.judges import JUDGES
from vmferry.units import GIB, MIB

OFFERED, NEGOTIATED, EFFECTIVE = Level.OFFERED, Level.NEGOTIATED, Level.EFFECTIVE
INVTSC = FEATURES | {"invtsc": True}
BLOCKED = ("State blocked by non-migratable CPU device (invtsc flag)",)
OWN = vm(pinned=APART, features=HINT)
QUIET = tuple(thread("vcpu", n, 0.4, 0.0, n) for n in range(2))
AWAY = window(*QUIET, thread("main", 0, 0.05, 0.0, 2))
SIX = replace(HOST, cpus=6)
QSPINLOCKS = "PV qspinlock hash table entries: 256 (order: 0, 4096 bytes)"


def found(known: Facts, *expected: Expected) -> list[str]:
    findings = [one.to_json() for judge in JUDGES.values() for one in judge(known)]
    return problems(Case("x", expected), findings)


CASES = {
    "own cores, told, and the main thread among them": (
        Facts(HOST, OWN, window(), guest(spinlocks=REALTIME)),
        better("pv-hint", OFFERED, r"qemu-system-x86 on 0-1"),
    ),
    "own cores, and the guest does not know": (
        Facts(SIX, vm(pinned=APART), AWAY, guest()),
        better("pv-hint", OFFERED, r"kvm-hint-dedicated: off"),
    ),
    "own cores, told, and nobody else there": (
        Facts(SIX, OWN, AWAY, guest(spinlocks=REALTIME)),
        Expected("pv-hint", OFFERED, Verdict.OK, r"vCPU 0 on 0; vCPU 1 on 1"),
    ),
    "an invariant TSC that the guest gave up": (
        Facts(
            HOST,
            vm(features=INVTSC),
            window(),
            guest(clock=replace(CLOCK, unstable="tsc: Marking TSC unstable")),
        ),
        better("clock-tsc", NEGOTIATED, r"Marking TSC unstable"),
    ),
    "an invariant TSC that blocks the migration": (
        Facts(HOST, vm(features=INVTSC, blocked=BLOCKED), window(), guest()),
        better("clock-migration", OFFERED, r"invtsc flag"),
    ),
    "a clock that goes back": (
        Facts(HOST, vm(), window(), guest(clock=replace(CLOCK, steps_back=3))),
        wrong("clock-steps", EFFECTIVE, r"3 steps back"),
    ),
    "no KVM clock, seen from inside": (
        Facts(guest=guest(kvm_features=1 << 7)),
        wrong("kvmclock", OFFERED, r"eax: 0x80"),
    ),
    "a driver that does not know many queues": (
        net(card(2, virtio=Virtio(MQ, frozenset(), True, 3, True)), None),
        wrong("net-enabled", NEGOTIATED, r"VIRTIO_NET_F_MQ not taken"),
    ),
    "vCPUs that waited for a migration": (
        Facts(
            HOST,
            vm(migrating=True),
            window(
                thread("main", 0, 0.1),
                thread("vcpu", 0, 0.6, 0.3),
                thread("migration", 0, 0.7),
                migrating=True,
            ),
        ),
        better("migration-cost", EFFECTIVE, r"vCPUs waited: 30"),
    ),
    "one queue for the disks, seen from inside": (
        Facts(guest=guest(disks=(disk(queues=1),))),
        better("scsi-queues", OFFERED, r"sda/mq: 1"),
    ),
    "all queues on a line that other devices have too": (
        net(card(), inside_card(interrupts={"virtio3, uhci_hcd:usb1": (900, 2)})),
        wrong("net-spread", EFFECTIVE, r"all queues together: 902"),
    ),
    "the main loop for two disks that are devices of their own": (
        Facts(HOST, vm(controllers=(blk(iothreads=()), blk(name="b", iothreads=()))), window()),
        better("scsi-threads", OFFERED, r"disks of the main loop in all: 2"),
    ),
    "one iothread for two disks that are devices of their own": (
        Facts(
            HOST,
            vm(controllers=(blk(), blk(name="blk1"))),
            window(),
            guest(disks=(disk("virtio_blk"), disk("virtio_blk", name="vdc"))),
        ),
        better("scsi-threads", OFFERED, r"disks of io0 in all: 2"),
    ),
    "requests of all queues that end on one vCPU": (
        storage(
            scsi(), disk(interrupts={"virtio4-request": (400, 0), "virtio4-request (33)": (380, 1)})
        ),
        wrong("scsi-spread", EFFECTIVE, r"the busiest CPU has (9|100)"),
    ),
    "an iothread without room": (
        replace(
            storage(scsi(), disk()),
            window=window(thread("main", 0, 0.1), thread("iothread", 0, 0.97)),
        ),
        better("scsi-thread-full", EFFECTIVE, r"iothread-1000 97"),
    ),
    "a guest that booted where no PV spinlocks were": (
        Facts(HOST, vm(), window(), guest(spinlocks=NO_SUPPORT)),
        wrong("pv-chosen", NEGOTIATED, r"no host support"),
    ),
    "a guest with the kernel of RHEL 7": (
        Facts(HOST, vm(), window(), guest(spinlocks="KVM setup paravirtual spinlock")),
        Expected("pv-chosen", NEGOTIATED, Verdict.OK, r"KVM setup"),
    ),
    "a guest with the kernel of RHEL 8": (
        Facts(HOST, vm(), window(), guest(spinlocks=QSPINLOCKS)),
        Expected("pv-chosen", NEGOTIATED, Verdict.OK, r"PV qspinlock hash"),
    ),
    "a guest that booted with the hint": (
        Facts(HOST, vm(), window(), guest(spinlocks=REALTIME)),
        wrong("pv-chosen", NEGOTIATED, r"kvm-hint-dedicated: off"),
    ),
}


UNEVEN = {
    "a card with one busy connection and a small one": net(
        card(), inside_card(interrupts={"virtio3-input.0": (930, 0), "virtio3-input.1": (0, 70)})
    ),
    "a disk with one busy job and a small one": storage(
        scsi(), disk(interrupts={"virtio4-request": (930, 0), "virtio4-request (33)": (0, 70)})
    ),
}


@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_load_is_no_misconfiguration(name: str) -> None:
    assert found(UNEVEN[name]) == []


@pytest.mark.parametrize("name", CASES)
def test_it_is_found(name: str) -> None:
    known, expected = CASES[name]
    assert found(known, expected) == []


def test_iothreads_that_got_no_queue_serve_nothing() -> None:
    spread = blk(2, iothreads=("io0", "io1"), idle=("io2", "io3"))
    other = blk(1, name="other", iothreads=("io3",))
    known = Facts(HOST, vm(version=(10, 0, 0), controllers=(spread, other)), window())
    threads = [one for one in JUDGES[Feature.SCSI_QUEUES](known) if one.check == "scsi-threads"]
    assert [one.verdict for one in threads] == [Verdict.BETTER, Verdict.OK]
    assert threads[0].what == "4 iothreads for 2 queues: io2 got none"
    assert "io0, io1, io2, io3" in [one.value for one in threads[0].evidence]


def test_disks_that_take_turns_on_several_iothreads_are_right() -> None:
    """As `vmferry run` gives them to more disks than it makes threads."""
    turns = tuple(blk(name=f"blk{n}", iothreads=(f"io{n % 2}",)) for n in range(3))
    known = Facts(HOST, vm(controllers=turns, iothreads={"io0": 5, "io1": 6}), window())
    assert found(known) == []


def test_each_controller_is_compared_with_disks_that_may_be_behind_it() -> None:
    """The disk that the VM boots from has one queue, and another of the same kind has two."""
    boot = replace(blk(1), name="boot")
    disks = (disk("virtio_blk", 1, name="vda", requests=0), disk("virtio_blk", 2))
    known = Facts(HOST, vm(controllers=(boot, blk(2))), window(), guest(disks=disks))
    enabled = [one for one in JUDGES[Feature.SCSI_QUEUES](known) if one.check == "scsi-enabled"]
    assert [one.verdict for one in enabled] == [Verdict.UNUSED, Verdict.OK]
    both_one = tuple(disk("virtio_blk", 1, name=name) for name in ("vda", "vdb"))
    limited = replace(known, guest=guest(disks=both_one))
    enabled = [one for one in JUDGES[Feature.SCSI_QUEUES](limited) if one.check == "scsi-enabled"]
    assert [one.verdict for one in enabled] == [Verdict.UNUSED, Verdict.MISCONFIGURED]


def with_uplink(**calls: int) -> Facts:
    gathers = card(2, tap=tap(2, uplinks={"eth0": True}))
    known = replace(net(gathers, inside_card()), host=ZERO_COPY_ON)
    return replace(known, deep=DeepFacts(transmit_calls=calls)) if calls else known


def zero_copy_effect(known: Facts) -> Verdict:
    judge = JUDGES[Feature.ZERO_COPY]
    (verdict,) = (one.verdict for one in judge(known) if one.check == "zcopy-effect")
    return verdict


def test_zero_copy_is_told_by_the_calls_that_were_counted() -> None:
    ran = {"handle_tx_zerocopy": 800, "vhost_zerocopy_callback": 700}
    assert zero_copy_effect(with_uplink()) is Verdict.UNTOLD
    assert zero_copy_effect(with_uplink(**ran)) is Verdict.OK
    assert zero_copy_effect(with_uplink(**ran, skb_copy_ubufs=690)) is Verdict.MISCONFIGURED
    assert zero_copy_effect(with_uplink(handle_tx_copy=800)) is Verdict.MISCONFIGURED
    assert zero_copy_effect(with_uplink(handle_tx_copy=3)) is Verdict.UNTOLD


def test_acknowledgements_are_no_load_of_short_packets() -> None:
    known = with_uplink()
    short = {"sent_packets": 9000, "sent_bytes": 9000 * 66, "received_packets": 18_000}
    for received, verdict in ((90_000, Verdict.MISCONFIGURED), (27 << 20, Verdict.UNTOLD)):
        taps = {"plant": {**short, "received_bytes": received}}
        assert zero_copy_effect(replace(known, window=window(taps=taps))) is verdict


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(12.5, Verdict.OK), (2.0, Verdict.UNTOLD), (1.0, Verdict.MISCONFIGURED)],
)
def test_the_clock_is_told_by_the_ratio_of_both_ways(ratio: float, verdict: Verdict) -> None:
    clock = replace(CLOCK, vdso_ns=100.0, syscall_ns=100.0 * ratio)
    judge = JUDGES[Feature.CLOCK]
    findings = judge(Facts(HOST, vm(), window(), guest(clock=clock)))
    assert [one.verdict for one in findings if one.check == "clock-cost"] == [verdict]


def test_vhost_threads_tell_of_queues_where_nobody_looked_inside() -> None:
    known = net(card(), None)
    shares = (thread("vhost", 0, 0.2), thread("vhost", 1, 0.15))
    known = replace(known, guest=None, no_guest="no way in", window=window(*shares))
    (spread,) = (one for one in JUDGES[Feature.NET_QUEUES](known) if one.check == "net-spread")
    assert spread.verdict is Verdict.OK
    one_thread = replace(known, window=window(*shares[:1]))
    (spread,) = (one for one in JUDGES[Feature.NET_QUEUES](one_thread) if one.check == "net-spread")
    assert spread.verdict is Verdict.UNTOLD and "--guest-via" in spread.change


def vhost_of(known: Facts) -> list[tuple[Verdict, str]]:
    found = [one for one in JUDGES[Feature.NET_QUEUES](known) if one.check == "net-vhost"]
    return [(one.verdict, str(one.evidence[0])) for one in found]


def test_where_a_value_was_read_is_what_the_evidence_says() -> None:
    """Who may not see QEMU's files has vhost from QMP, and the queues always."""
    blind = card(vhost_queues=None)
    (verdict, seen) = vhost_of(net(blind, None))[0]
    assert (verdict, seen) == (
        Verdict.OK,
        "QMP x-query-virtio-status, net0, vhost-started: on",
    )
    judge = JUDGES[Feature.NET_QUEUES]
    evidence = [str(at) for one in judge(net(blind, None)) for at in one.evidence]
    assert "QMP info network, backend of net0: 2 queue pairs" in evidence
    assert not any("/proc/PID/fd" in one for one in evidence)


def test_a_passed_through_card_with_the_same_address_is_another_one() -> None:
    """net_failover: the VF has the address of the virtio card that it stands in for."""
    function = inside_card(1, 1, name="ens10", driver="mlx5_core")
    known = replace(net(card(), None), guest=guest(cards=(inside_card(), function)))
    assert found(known) == []


def test_who_may_not_see_the_tap_is_told_to_audit_as_root() -> None:
    blind = card(tap=None)
    known = Facts(HOST, vm(cards=(blind,), unread={"taps": "this user may not see it"}), window())
    (enabled,) = (one for one in JUDGES[Feature.NET_QUEUES](known) if one.check == "net-enabled")
    assert enabled.verdict is Verdict.UNTOLD
    assert "this user may not see it" in enabled.why
    assert "as root" in enabled.change


def test_what_only_the_host_can_measure_is_asked_for_there() -> None:
    judge = JUDGES[Feature.PV_SPINLOCKS]
    (effect,) = (one for one in judge(Facts(guest=guest())) if one.check == "pv-effect")
    assert effect.verdict is Verdict.UNTOLD
    assert "on the host" in effect.change


def test_vhost_rests_while_the_vm_is_paused() -> None:
    stopped = Virtio(MQ, MQ, vhost=False, virtqueues=5, driver_ok=True)
    paused = vm(cards=(card(vhost_queues=None, virtio=stopped),), running=False)
    assert vhost_of(Facts(HOST, paused, window())) == []
    runs = replace(paused, running=True)
    assert [verdict for verdict, _ in vhost_of(Facts(HOST, runs, window()))] == [
        Verdict.MISCONFIGURED
    ]


def test_neighbours_with_other_cpus_do_not_overcommit_those_of_a_pinned_vm() -> None:
    known = PLANTED["a named CPU model"]
    for confined, verdict in ((0, Verdict.BETTER), (4, Verdict.MISCONFIGURED)):
        pinned = vm(model="EPYC", pinned=APART, neighbours=4, confined=confined)
        findings = JUDGES[Feature.PV_SPINLOCKS](replace(known, vm=pinned))
        (unhalt,) = (one for one in findings if one.check == "pv-unhalt")
        assert unhalt.verdict is verdict


def test_yields_alone_are_no_sign_of_missing_spinlocks() -> None:
    """The counter of yields rises without PV spinlocks too, and no vCPU waited for a core."""
    known = replace(
        PLANTED["a named CPU model"],
        window=window(waited=0.0, vcpu_stats=({"directed_yield_attempted": 90},) * 2),
    )
    (effect,) = (one for one in JUDGES[Feature.PV_SPINLOCKS](known) if one.check == "pv-effect")
    assert effect.verdict is Verdict.UNTOLD


def test_what_kvm_withholds_from_a_guest_that_halts_by_itself_is_no_finding() -> None:
    """-overcommit cpu-pm=on: QEMU shows PV spinlocks, and CPUID inside does not."""
    inside = guest(spinlocks=NO_SUPPORT, kvm_features=SEEN & ~(1 << 7))
    for known in (Facts(HOST, vm(), window(), inside), Facts(SIX, OWN, AWAY, inside)):
        assert found(known) == []


def test_what_an_unknown_accelerator_lacks_is_no_finding() -> None:
    off = dict.fromkeys(FEATURES, False)
    known = Facts(HOST, vm(accelerator=None, features=off), window(waited=0.5))
    for feature in (Feature.PV_SPINLOCKS, Feature.CLOCK):
        verdicts = {one.verdict for one in JUDGES[feature](known)}
        assert not verdicts & {Verdict.MISCONFIGURED, Verdict.BETTER}


@pytest.mark.parametrize("smp", [1, 2])
def test_queues_for_vcpus_that_can_be_plugged_in(smp: int) -> None:
    def said(queues: int, most: int | None) -> list[Finding]:
        controllers = (scsi(queues), blk(queues))
        known = Facts(
            vm=vm(smp=smp, most_vcpus=most, cards=(card(queues),), controllers=controllers)
        )
        found = [*JUDGES[Feature.NET_QUEUES](known), *JUDGES[Feature.SCSI_QUEUES](known)]
        return [one for one in found if one.check in ("net-queues", "scsi-queues")]

    for one in said(8, 8):
        assert (one.verdict, "of which there may be 8" in one.what) == (Verdict.OK, True)
        assert "smp, maxcpus: 8" in " ".join(f"{e.where}: {e.value}" for e in one.evidence)
    for one in said(16, 8):
        assert (one.verdict, "may be 8: Linux uses no more" in one.what) == (Verdict.BETTER, True)
        assert re.search(r"queues=8\b", one.change)
    for most in (None, smp):
        assert {one.verdict for one in said(8, most)} == {Verdict.BETTER}


def test_queues_that_are_enough_for_many_vcpus() -> None:
    eight = card(8, tap=tap(8))
    sixteen = net(eight, None, smp=16)
    (queues,) = (one for one in JUDGES[Feature.NET_QUEUES](sixteen) if one.check == "net-queues")
    assert queues.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("tables", "pinned", "verdict"),
    [
        (150, 4 * GIB, Verdict.OK),
        # Leaves of 4 KiB for a quarter of it may be there, or tables of other devices.
        (512, 4 * GIB, Verdict.UNTOLD),
        # The VM has an IOMMU of its own: of its RAM only what the guest asked for is mapped.
        (150, 64 * MIB, Verdict.UNTOLD),
        (None, 4 * GIB, Verdict.UNTOLD),
        (150, None, Verdict.UNTOLD),
    ],
)
def test_leaves_are_large_where_the_tables_have_no_room_for_small_ones(
    tables: int | None, pinned: int | None, verdict: Verdict
) -> None:
    ram = GuestRam(4 * GIB, "memfd", 2 * MIB, True, True, 0, 4 * GIB, pinned)
    facts = Facts(replace(VTD, iommu_tables=tables), vm(passthrough=(NVME,), ram=ram), window())
    findings = JUDGES[Feature.LARGE_PAGES](facts)
    (leaves,) = (one for one in findings if one.check == "iommu-leaves")
    assert leaves.verdict is verdict


@pytest.mark.parametrize(("container", "told"), [("vfio", True), ("", True), ("iommufd", False)])
def test_a_parameter_of_vfios_own_module_is_nothing_to_iommufd(container: str, told: bool) -> None:
    devices = (replace(NVME, container=container),)
    findings = JUDGES[Feature.LARGE_PAGES](Facts(BY_PAGE, vm(passthrough=devices), window()))
    assert any(one.check == "vfio-huge-pages" for one in findings) is told
