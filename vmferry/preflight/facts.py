"""What is known of the two sides of a move before it begins: plain values, read by `collect*`.

None, wherever it stands, is "could not be read". Sizes in bytes. Checks see nothing but this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmferry.fastpath.finding import Finding

Scalar = bool | int | float | str
Version = tuple[int, int, int]
FileId = tuple[int, int]


# What the keys of devices end with that a machine has by itself.
BUILT_IN = " (built in)"


class UntoldError(Exception):
    """A fact that a check needs could not be read; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device. `key` is its id, or `TYPE#n` for the n-th of its type without one. `owner` is the
    key of the device that its bus belongs to, and empty where that is the machine's own; `bus` is
    the rest of the bus's path. `iothreads` are the ids of those that serve it."""

    key: str
    type: str
    bus: str = ""
    owner: str = ""
    properties: Mapping[str, Scalar] = field(default_factory=dict)
    iothreads: frozenset[str] = frozenset()


def is_virtio_mem(device: Device) -> bool:
    """Memory that the guest is given piece by piece: how much it has is part of its state."""
    return device.type.startswith("virtio-mem")


@dataclass(frozen=True, slots=True)
class Virtio:
    """What a virtio device offers and what the guest's driver took, as names of features; those
    that this QEMU cannot name are `bit N`."""

    offered: frozenset[str]
    taken: frozenset[str]


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk of the guest and the image behind it. `file_id` (device and inode) tells one file by
    two names, and is None where QEMU's file system cannot be looked at. `is_file` says that the
    image is a path and no address of a server, `gone` that QEMU has it open and it has no name."""

    key: str
    file: str
    format: str
    size: int
    read_only: bool
    direct: bool
    no_flush: bool
    is_file: bool = False
    gone: bool = False
    file_id: FileId | None = None
    bitmaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RamBlock:
    """A piece of memory that a migration carries: the guest's RAM, and each ROM. `total` is more
    than `used` where QEMU can resize it."""

    page_size: int
    used: int
    total: int


@dataclass(frozen=True, slots=True)
class Backend:
    """A memory backend. `file_id` is set where its `path` is a file, and not a folder in which
    QEMU makes an unnamed one."""

    key: str
    type: str
    size: int
    share: bool
    path: str = ""
    file_id: FileId | None = None


@dataclass(frozen=True, slots=True)
class Netdev:
    """What is behind one network card: its kind (tap, user, …), queues, and the tap's name."""

    card: str
    kind: str
    queues: int
    tap: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A tap of this host, as sysfs has it. `bridge` is empty where it is in none."""

    mtu: int
    bridge: str
    multi_queue: bool


@dataclass(frozen=True, slots=True)
class Cpu:
    """The first vCPU, as QEMU shows it to the guest: its values, the words of CPUID that its
    features are bits of, and which features are on: all of them where the two sides' words differ,
    else those that are in no word. `path` is its place in the object tree."""

    type: str
    values: Mapping[str, Scalar]
    features: Mapping[str, bool]
    words: frozenset[str] = frozenset()
    path: str = ""


@dataclass(frozen=True, slots=True)
class QemuProcess:
    """The QEMU process, as /proc has it. `cpus` is how many host CPUs its vCPUs may use together,
    `vhost_net` how many queues it has given to the kernel's vhost."""

    pid: int
    resident: int
    cpus: int | None = None
    vhost_net: int | None = None


@dataclass(frozen=True, slots=True)
class Qemu:
    """One QEMU. `process` is None where it does not run on this host or may not be looked at;
    `plugged_memory` is that of DIMMs. `unread` says, by the name of a field, why that is None."""

    version: Version
    package: str
    runstate: str
    migration: str
    blocked: tuple[str, ...]
    architecture: str | None = None
    machine: str | None = None
    machine_options: Mapping[str, Scalar] | None = None
    boot_files: Mapping[str, str] | None = None
    confidential: str | None = None
    accelerator: str | None = None
    uuid: str | None = None
    vcpus: int | None = None
    topology: Mapping[str, Scalar] | None = None
    cpu: Cpu | None = None
    memory: int | None = None
    plugged_memory: int | None = None
    max_memory: int | None = None
    ram_blocks: Mapping[str, RamBlock] | None = None
    backends: tuple[Backend, ...] | None = None
    devices: tuple[Device, ...] | None = None
    virtio: Mapping[str, Virtio] | None = None
    drives: tuple[Drive, ...] | None = None
    jobs: tuple[str, ...] | None = None
    exports: tuple[str, ...] | None = None
    netdevs: tuple[Netdev, ...] | None = None
    links: Mapping[str, Link] | None = None
    capabilities: frozenset[str] | None = None
    parameters: Mapping[str, Scalar] | None = None
    process: QemuProcess | None = None
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Host:
    """This host. `huge_pages_free` counts by page size; `kvm` are parameters of its module."""

    memory_available: int
    swap_free: int
    huge_pages_free: Mapping[int, int]
    kvm: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Audits:
    """What `vmferry audit --host` finds on the source's host and has found on the destination's."""

    source: tuple[Finding, ...]
    destination: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks may know of one planned move.

    `destination` is None where it cannot be seen, for the reason `unseen`. `local` says that
    vmferry starts it; then `start_problem` is why that does not work. `listens` is whether somebody
    waits for the stream; None where that cannot be told, for the reason `listens_why`; and
    `listens_itself` whether that is the destination. `same_host` is None where it cannot be told.
    `audits` is None where nobody has audited the destination's host, or both sides are on one.
    """

    vm: str
    to: str
    source: Qemu
    destination: Qemu | None = None
    unseen: str = ""
    host: Host | None = None
    local: bool = False
    start_problem: str = ""
    listens: bool | None = None
    listens_why: str = ""
    listens_itself: bool | None = None
    unsettled: str = ""
    same_host: bool | None = None
    audits: Audits | None = None

    def pair(self) -> tuple[Qemu, Qemu]:
        """Source and destination. Raises UntoldError."""
        if self.destination is None:
            raise UntoldError(self.unseen)
        return self.source, self.destination
