"""Two QEMUs that do not fit: what is other at the destination, and what `check` must say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Options = Mapping[str, tuple[str, ...]]

NIC = "virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,vectors=4"
SCSI = "virtio-scsi-pci,id=scsi0"
BLK = "virtio-blk-pci,id=disk0,drive=null0"


def device(words: str) -> tuple[str, str]:
    return "-device", words


# By what a row may want otherwise. The RAM is no multiple of 256 KiB: QEMU before 9.0 under TCG
# else loses writes of the guest.
BASE: Options = {
    "machine": ("-machine", "q35"),
    "cpu": ("-cpu", "max"),
    "smp": ("-smp", "2"),
    "memory": ("-m", "163848k"),
    "nic": device(f"{NIC},romfile=,mq=on"),
    "scsi": device(f"{SCSI},num_queues=1,vectors=4"),
    "disk": device(f"{BLK},num-queues=2,vectors=3"),
    "more": (),
}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One row. `found_by` are the checks that must say so; `reference` marks a row of the table
    that was made without a guest, which this one repeats."""

    title: str
    destination: Options
    found_by: tuple[str, ...]
    source: Options = field(default_factory=dict)
    reference: bool = False


ROWS = (
    Mismatch("nothing", {}, (), reference=True),
    Mismatch(
        "virtio-scsi `num_queues` 1 → 2, and with it the vectors",
        {"scsi": device(f"{SCSI},num_queues=2")},
        ("virtio-queues",),
        {"scsi": device(f"{SCSI},num_queues=1")},
        reference=True,
    ),
    Mismatch(
        "virtio-scsi `num_queues` 1 → 2, vectors the same",
        {"scsi": device(f"{SCSI},num_queues=2,vectors=4")},
        ("virtio-queues",),
        reference=True,
    ),
    Mismatch(
        "virtio-net `mq` on → off, vectors the same",
        {"nic": device(f"{NIC},romfile=,mq=off")},
        ("virtio-queues", "virtio-features"),
        reference=True,
    ),
    Mismatch(
        "virtio-scsi `virtqueue_size` 256 → 128",
        {"scsi": device(f"{SCSI},num_queues=1,vectors=4,virtqueue_size=128")},
        ("virtio-queues",),
        reference=True,
    ),
    Mismatch(
        "one more virtio-scsi controller",
        {"more": device("virtio-scsi-pci,id=extra")},
        ("devices",),
        reference=True,
    ),
    Mismatch("`-smp` 2 → 4", {"smp": ("-smp", "4")}, ("vcpus",), reference=True),
    Mismatch("twice the RAM", {"memory": ("-m", "327696k")}, ("memory-size",), reference=True),
    Mismatch(
        "virtio-blk `num-queues` 2 → 1, vectors the same",
        {"disk": device(f"{BLK},num-queues=1,vectors=3")},
        ("virtio-queues", "virtio-features"),
    ),
    Mismatch("a virtio-blk disk less", {"disk": ()}, ("devices", "disk-images")),
    Mismatch(
        "virtio-net at another PCI address",
        {"nic": device(f"{NIC},romfile=,mq=on,addr=0x9")},
        ("device-places",),
    ),
    Mismatch(
        "virtio-net without `csum` and `guest_csum`",
        {"nic": device(f"{NIC},romfile=,mq=on,csum=off,guest_csum=off")},
        ("device-settings",),
    ),
    Mismatch(
        "another MAC address",
        {"nic": device(f"{NIC.replace('00:01', '00:02')},romfile=,mq=on")},
        ("mac-addresses",),
    ),
    Mismatch(
        "virtio-net without its boot ROM",
        {},
        ("ram-blocks",),
        {"nic": device(f"{NIC},mq=on")},
    ),
    Mismatch(
        "CPU without `avx2` and `sse4.2`",
        {"cpu": ("-cpu", "max,avx2=off,sse4.2=off")},
        ("cpu-features",),
    ),
    Mismatch("an older machine type", {"machine": ("-machine", "pc-q35-7.1")}, ("machine-type",)),
    Mismatch("`hpet=off`", {"machine": ("-machine", "q35,hpet=off")}, ("machine-options",)),
)
