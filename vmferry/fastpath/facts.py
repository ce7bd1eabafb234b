"""What an audit may know: plain values, read by `collect_*.py`.

None, wherever it stands, is "could not be read"; then `unread` of the same record says why, by the
name of the field. Judges see nothing but this. Sizes in bytes, times in seconds unless named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PerCpu = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Iommu:
    """One IOMMU of the host, as /sys/class/iommu has it. Registers as numbers."""

    name: str
    kind: str
    cap: int | None
    ecap: int | None


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The host. `modules` has the parameters of each module that is loaded (or built in) and
    matters here; `devices` says for /dev/kvm, /dev/vhost-net, /dev/net/tun, /dev/vfio/vfio and
    /dev/iommu why we cannot open it, empty where we can, and has no key where it is not there."""

    architecture: str
    kernel: str
    cpus: int
    vendor: str | None = None
    flags: frozenset[str] | None = None
    modules: Mapping[str, Mapping[str, str]] | None = None
    devices: Mapping[str, str] = field(default_factory=dict)
    command_line: str | None = None
    clocksource: str | None = None
    clocksources: tuple[str, ...] | None = None
    huge_pages: Mapping[int, tuple[int, int]] | None = None
    transparent_huge_pages: str | None = None
    iommus: tuple[Iommu, ...] | None = None
    # Pages of its IOMMUs' tables but for those of interrupts; None where the kernel counts none.
    iommu_tables: int | None = None
    hypervisor: str | None = None
    # Whether this user may make taps and bridges (CAP_NET_ADMIN).
    net_admin: bool | None = None
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap by rtnetlink. `disabled` queues were offered and the guest does not use them. `kind` is
    tun or macvtap, whose queues the kernel does not count.

    `bridge_ports` are the other ports of its bridge; `uplinks` those of them, or what is below a
    macvtap, that are real cards (with a `device` in sysfs, bonds and VLANs of such too) or tunnels,
    each with whether scatter-gather is on (None: not known); None as a whole where nobody
    looked."""

    name: str
    multi_queue: bool
    queues: int | None
    disabled: int | None
    bridge: str = ""
    mtu: int | None = None
    bridge_ports: tuple[str, ...] = ()
    uplinks: Mapping[str, bool | None] | None = None
    kind: str = "tun"


@dataclass(frozen=True, slots=True)
class Virtio:
    """What a virtio device offers and what the guest's driver took, by names of features, and
    whether vhost serves it. By x-query-virtio-status; None as a whole where QEMU lacks it.

    Names are the bare ones, such as `VIRTIO_NET_F_MQ`. `ready`: virtqueues that the driver has set
    up (x-query-virtio-queue-status with a descriptor address), the control queues included."""

    offered: frozenset[str]
    taken: frozenset[str]
    vhost: bool
    virtqueues: int
    driver_ok: bool
    ready: int | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """A network card. `netdev` is the backend's kind (tap, user, vhost-user, …, empty where none);
    `queues` are the backend's; `vhost_queues` how many of them the kernel's vhost serves."""

    name: str
    model: str
    mq: bool | None
    vectors: int | None
    netdev: str
    queues: int | None
    vhost_queues: int | None = None
    tap: Tap | None = None
    virtio: Virtio | None = None
    mac: str = ""


@dataclass(frozen=True, slots=True)
class StorageController:
    """A virtio-scsi controller or a virtio-blk disk. `iothreads` are the ids of those that serve
    its queues, by `iothread` or `iothread-vq-mapping`; empty: the main loop does. `idle` are those
    of the mapping that got no queue."""

    name: str
    model: str
    queues: int | None
    vectors: int | None
    iothreads: tuple[str, ...]
    disks: int
    virtio: Virtio | None = None
    idle: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Passthrough:
    """A device of the host in the VM, by VFIO. `group` is its IOMMU group, `container` which file
    QEMU has open: vfio (type 1) or iommufd."""

    name: str
    host: str
    group: int | None = None
    container: str = ""


@dataclass(frozen=True, slots=True)
class GuestRam:
    """The VM's RAM: its backends, and how /proc/PID/smaps shows it mapped, in bytes. Where smaps
    cannot be read, `ram` of what is unread says why, though there is a record.

    `pinned`: so much of QEMU's memory is handed to devices. All of the mapping is only read of a VM
    with such devices."""

    size: int
    backend: str
    page_size: int | None
    prealloc: bool | None
    share: bool | None
    transparent_huge: int | None = None
    resident: int | None = None
    pinned: int | None = None


@dataclass(frozen=True, slots=True)
class Vcpu:
    """A vCPU: its thread, and the CPUs of the host on which it may run (None: cannot be seen)."""

    index: int
    tid: int | None
    allowed: frozenset[int] | None
    qom_path: str


@dataclass(frozen=True, slots=True)
class VmFacts:
    """One QEMU. `features` are boolean properties of vCPU 0 in QOM, those that bear on a fast path
    (KVM's, invtsc and some): what the guest is really shown, whatever the command line says (TCG
    drops KVM's in silence). `cpu_type` is QOM's
    (`host-x86_64-cpu`). `iothreads`: thread ids by name. `blocked`: why it cannot migrate."""

    name: str
    version: tuple[int, int, int]
    accelerator: str | None
    machine: str | None
    pid: int | None
    vcpus: tuple[Vcpu, ...]
    cpu_type: str | None = None
    features: Mapping[str, bool] | None = None
    cards: tuple[Card, ...] | None = None
    controllers: tuple[StorageController, ...] | None = None
    iothreads: Mapping[str, int] | None = None
    passthrough: tuple[Passthrough, ...] | None = None
    ram: GuestRam | None = None
    running: bool | None = None
    migrating: bool | None = None
    blocked: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = None
    libvirt_xml: str | None = None
    # vCPUs that may run on the CPUs of the VM's own, of other VMs that ran in the window.
    neighbours: int | None = None
    # Those of them that may run on no other CPUs; None: as many.
    confined: int | None = None
    # vCPUs that there may be once all are plugged in (maxcpus); None: QEMU does not say.
    most_vcpus: int | None = None
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread over the window: seconds that it ran and waited for a core, and where it may run.

    `role`: vcpu, iothread, main, migration, vhost or other."""

    tid: int
    name: str
    role: str
    ran: float
    waited: float
    allowed: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """What was counted between two readings. `vcpu_stats` by vCPU and name (query-stats); `taps` by
    name: `sent_packets`, `sent_bytes`, `received_packets`, `received_bytes`, as the guest sees
    them; `requests` by controller or disk of the VM: reads, writes and flushes (query-blockstats).
    """

    seconds: float
    threads: tuple[Thread, ...] | None = None
    vcpu_stats: tuple[Mapping[str, int], ...] | None = None
    taps: Mapping[str, Mapping[str, int]] | None = None
    requests: Mapping[str, int] | None = None
    migrating: bool = False
    throttle: int = 0
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GuestCard:
    """A card as the guest has it. `interrupts`: per queue (its name in /proc/interrupts) the
    count on each CPU within the window."""

    name: str
    mac: str
    driver: str
    most_queues: int | None
    queues: int | None
    interrupts: Mapping[str, PerCpu] | None
    packets: int | None = None


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """A disk as the guest has it: the CPUs that each hardware queue serves (/sys/block/*/mq), and
    interrupts of its controller per queue and CPU within the window. `driver` is the kernel's
    driver of the controller: virtio_scsi, virtio_blk, nvme, ahci, …"""

    name: str
    driver: str
    queues: tuple[PerCpu, ...] | None
    interrupts: Mapping[str, PerCpu] | None
    requests: int | None = None


@dataclass(frozen=True, slots=True)
class GuestClock:
    """`vdso_ns` and `syscall_ns`: one clock_gettime as libc does it and by the system call, the
    medians of several loops. `unstable`: the kernel's line by which it gave up the TSC, if any."""

    source: str | None
    sources: tuple[str, ...]
    vdso_ns: float | None
    syscall_ns: float | None
    steps_back: int | None = None
    unstable: str = ""


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """The inside, by guest_audit.py. `cpus` are those online; `kvm_features` and `kvm_hints` are
    eax and edx of CPUID leaf 0x40000001, both 0 where there is no such leaf (no KVM); `spinlocks`
    the kernel's own line on PV spinlocks at boot; `steal` the share of the window's CPU time that
    the host took; `lock_events` of debugfs."""

    kernel: str
    cpus: int
    window: float
    command_line: str | None = None
    cards: tuple[GuestCard, ...] | None = None
    disks: tuple[GuestDisk, ...] | None = None
    clock: GuestClock | None = None
    kvm_features: int | None = None
    kvm_hints: int | None = None
    spinlocks: str | None = None
    steal: float | None = None
    busy: tuple[float, ...] | None = None
    softirqs: Mapping[str, PerCpu] | None = None
    lock_events: Mapping[str, int] | None = None
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeepFacts:
    """What only `--deep` reads, as root: `leaf_pages` of the IOMMU's tables by page size, for each
    passed-through device (`Passthrough.host`); calls within the window of the kernel's
    `handle_tx_zerocopy`, `handle_tx_copy`, `vhost_zerocopy_callback` and `skb_copy_ubufs`."""

    leaf_pages: Mapping[str, Mapping[int, int]] | None = None
    transmit_calls: Mapping[str, int] | None = None
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that one audit knows. `vm` is None for `--host` and `--guest`; `guest` is None where
    nobody looked inside, for the reason `no_guest`."""

    host: HostFacts | None = None
    vm: VmFacts | None = None
    window: Window | None = None
    guest: GuestFacts | None = None
    deep: DeepFacts | None = None
    no_guest: str = ""
