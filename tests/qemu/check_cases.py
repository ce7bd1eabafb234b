"""Two QEMUs that do not fit, one mismatch each, and what `vmferry check` must say of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.qemu.bare_pair import MEMORY, Options

BYTES = int(MEMORY.removesuffix("k")) * 1024
SCSI = "virtio-scsi-pci,id=scsi0"
NIC = "virtio-net-pci,id=nic0,netdev=net0"
MAC = "mac=52:54:00:00:00:01"
SHARED = f"size={BYTES},mem-path={{folder}}/ram,share=on"


def device(words: str) -> tuple[str, str]:
    return "-device", words


@dataclass(frozen=True, slots=True)
class Case:
    """One mismatch: how both sides are started, and what `check` must say, by name.

    `also` may be said besides, as it follows from the mismatch.
    """

    name: str
    destination: Options
    blockers: frozenset[str] = frozenset()
    warnings: frozenset[str] = frozenset()
    also: frozenset[str] = frozenset()
    source: Options = field(default_factory=dict)


def blocked(
    name: str, check: str, destination: Options, source: Options | None = None, also: str = ""
) -> Case:
    return Case(
        name,
        destination,
        blockers=frozenset({check}),
        also=frozenset(also.split()),
        source=source or {},
    )


def warned(name: str, check: str, destination: Options, source: Options | None = None) -> Case:
    return Case(name, destination, warnings=frozenset({check}), source=source or {})


SHARED_FILE = {
    "machine": ("-machine", "q35,memory-backend=ram"),
    "memory": ("-m", MEMORY, "-object", f"memory-backend-file,id=ram,{SHARED}"),
}
MEMFD = {
    "machine": ("-machine", "q35,memory-backend=pc.ram"),
    "memory": ("-m", MEMORY, "-object", f"memory-backend-memfd,id=pc.ram,size={BYTES},share=on"),
}

FILE = "file.driver=file,file.filename={folder}"
OTHER_IMAGE = ("-blockdev", f"driver=qcow2,node-name=node0,{FILE}/b")

CASES = [
    # The reference's table of what QEMU 7.2 let through without a guest.
    blocked("scsi queues", "virtio-queues", {"scsi": device(f"{SCSI},num_queues=2,vectors=4")}),
    blocked("scsi queues, auto vectors", "virtio-queues", {"scsi": device(f"{SCSI},num_queues=2")}),
    blocked(
        "virtqueue size",
        "virtio-queues",
        {"scsi": device(f"{SCSI},num_queues=1,vectors=4,virtqueue_size=128")},
    ),
    blocked(
        "net mq",
        "virtio-queues",
        {"nic": device(f"{NIC},romfile=,{MAC},mq=off,vectors=4")},
        {"nic": device(f"{NIC},romfile=,{MAC},mq=on,vectors=4")},
    ),
    blocked("extra device", "devices", {"more": device("virtio-scsi-pci,id=extra")}),
    blocked("vCPUs", "vcpus", {"smp": ("-smp", "4")}, also="vcpu-topology ram-blocks"),
    blocked("RAM", "memory-size", {"memory": ("-m", "24584k")}, also="ram-blocks"),
    # And more of the kind.
    blocked("missing device", "devices", {"scsi": ()}, also="device-places"),
    blocked(
        "blk queues",
        "virtio-queues",
        {"blk": device("virtio-blk-pci,id=disk0,drive=node0,num-queues=1,vectors=3")},
    ),
    blocked("address", "device-places", {"nic": device(f"{NIC},romfile=,{MAC},addr=0x9")}),
    blocked("offload", "device-settings", {"nic": device(f"{NIC},romfile=,{MAC},guest_csum=off")}),
    blocked("ROM", "ram-blocks", {}, {"nic": device(f"{NIC},{MAC}")}),
    blocked(
        "arrangement of vCPUs",
        "vcpu-topology",
        {"smp": ("-smp", "2,sockets=2,cores=1,threads=1")},
        also="cpu-features",
    ),
    blocked(
        "machine",
        "machine-type",
        {"machine": ("-machine", "pc-q35-6.2")},
        also="machine-options device-settings virtio-queues ram-blocks vcpu-topology cpu-model "
        "cpu-features devices",
    ),
    blocked(
        "machine option",
        "machine-options",
        {"machine": ("-machine", "q35,hpet=off")},
        also="devices device-places",
    ),
    blocked("CPU feature", "cpu-features", {"cpu": ("-cpu", "max,avx2=off")}),
    blocked(
        "CPU vendor",
        "cpu-model",
        {"cpu": ("-cpu", "max,vendor=GenuineIntel")},
        also="cpu-features",
    ),
    blocked("maxmem", "memory-size", {"memory": ("-m", f"{MEMORY},slots=2,maxmem=1G")}),
    blocked("one file for both", "memory-apart", SHARED_FILE, SHARED_FILE),
    blocked(
        "other image",
        "disk-images",
        {"disk": OTHER_IMAGE},
    ),
    blocked(
        "other format",
        "disk-formats",
        {"disk": ("-blockdev", f"driver=raw,node-name=node0,{FILE}/a")},
    ),
    warned(
        "fewer iothreads",
        "iothreads",
        {},
        {
            "more": ("-object", "iothread,id=io0"),
            "blk": device(
                "virtio-blk-pci,id=disk0,drive=node0,num-queues=2,vectors=3,iothread=io0"
            ),
        },
    ),
    warned("UUID", "uuid", {"uuid": ("-uuid", "22222222-2222-2222-2222-222222222222")}),
    warned("MAC", "mac-addresses", {"nic": device(f"{NIC},romfile=,mac=52:54:00:00:00:02")}),
    warned("more CPU features", "cpu-features", {}, {"cpu": ("-cpu", "max,avx2=off")}),
    warned("CPU generation", "cpu-model", {"cpu": ("-cpu", "max,stepping=7")}),
    warned("memory backend", "memory-backend", MEMFD),
    warned(
        "network",
        "network-backends",
        {"netdev": ("-netdev", "socket,id=net0,udp=127.0.0.1:9,localaddr=127.0.0.1:0")},
    ),
]

PLACED = ("virtio-rng-pci,addr=0x11", "virtio-rng-pci,addr=0x12,max-bytes=64,period=1000")
SOCKETS = "maxcpus=2,sockets=2,cores=1,threads=1"
VCPU = "max-x86_64-cpu,id=cpu1,socket-id=1,die-id=0,core-id=0,thread-id=0"

# What differs and does no harm: name, source, destination.
HARMLESS: list[tuple[str, Options, Options]] = [
    (
        "devices without ids in another order",
        {"more": (*device(PLACED[0]), *device(PLACED[1]))},
        {"more": (*device(PLACED[1]), *device(PLACED[0]))},
    ),
    (
        "an id on one side",
        {"blk": device("virtio-blk-pci,drive=node0,num-queues=2,vectors=3,addr=0x11")},
        {"blk": device("virtio-blk-pci,id=disk0,drive=node0,num-queues=2,vectors=3,addr=0x11")},
    ),
    (
        "a vCPU that was plugged in later",
        {"smp": ("-smp", f"1,{SOCKETS}"), "more": device(VCPU)},
        {"smp": ("-smp", f"2,{SOCKETS}")},
    ),
    (
        "how the host serves a card",
        {"nic": device(f"{NIC},romfile=,{MAC},ioeventfd=off,tx=timer,bootindex=3")},
        {},
    ),
    (
        "names of block nodes",
        {"blk": device("virtio-blk-pci,id=disk0,drive=other,num-queues=2,vectors=3")}
        | {"disk": ("-blockdev", f"driver=qcow2,node-name=other,{FILE}/a")},
        {},
    ),
    (
        "memory that the destination has taken already",
        {},
        {
            "machine": ("-machine", "q35,memory-backend=pc.ram"),
            "memory": (
                *("-m", MEMORY, "-object"),
                f"memory-backend-ram,id=pc.ram,size={BYTES},prealloc=on",
            ),
        },
    ),
]
