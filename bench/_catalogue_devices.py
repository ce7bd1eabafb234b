"""The catalogue's misconfigurations of cards, disks and zero copy."""

from __future__ import annotations

from bench._catalogue_case import Case, Guest, better, wrong
from vmferry.fastpath.finding import Level

OFFERED, NEGOTIATED, EFFECTIVE = Level.OFFERED, Level.NEGOTIATED, Level.EFFECTIVE
MAC = "mac=52:54:01:00:00:77"
_QUEUES_ONLY = "script=no,downscript=no"


def card(backend: str, device: str) -> tuple[str, ...]:
    """A card of one's own beside what `labguest` knows."""
    return ("-netdev", backend, "-device", f"{device},netdev=n0,{MAC},id=net0,romfile=")


def tap(options: str) -> str:
    return f"tap,id=n0,ifname=plant,{_QUEUES_ONLY},{options}"


def disks(count: int, controller: str, *more: str) -> tuple[str, ...]:
    """A virtio-scsi controller with so many empty disks."""
    words = [*more, "-device", f"virtio-scsi-pci,id=scsi0{controller}"]
    for number in range(count):
        backend = f"driver=null-co,node-name=null{number},size=1073741824,read-zeroes=on"
        words += ["-blockdev", backend, "-device", f"scsi-hd,bus=scsi0.0,drive=null{number}"]
    return tuple(words)


def blk(options: str, *more: str) -> tuple[str, ...]:
    """A virtio-blk disk."""
    backend = "driver=null-co,node-name=null0,size=1073741824,read-zeroes=on"
    return (*more, "-blockdev", backend, "-device", f"virtio-blk-pci,id=blk0,drive=null0{options}")


IOTHREAD = ("-object", "iothread,id=io0")
ON_BRIDGE = "ip link set plant master br0 up; ip link set br0 up"
WITH_ADDRESS = "lab.ip=192.168.77.77/24"
_PLANT = Guest(append=WITH_ADDRESS)


def _plant(backend: str, device: str, smp: int = 2, append: str = "") -> Guest:
    return Guest(smp=smp, append=f"{WITH_ADDRESS} {append}".strip(), qemu=card(backend, device))


VIRTIO = "virtio-net-pci"
TWO = _plant(tap("queues=2,vhost=on"), f"{VIRTIO},mq=on,vectors=6")

NET = (
    Case(
        "one queue for two vCPUs",
        (better("net-queues", OFFERED, r"1 queue pair\b"),),
        _plant(tap("vhost=on"), VIRTIO),
        "net",
        outside=ON_BRIDGE,
    ),
    Case(
        "two queues for four vCPUs",
        (better("net-queues", OFFERED, r"2 queue pairs(.|\n)*4 vCPUs"),),
        _plant(tap("queues=2,vhost=on"), f"{VIRTIO},mq=on,vectors=6", smp=4),
        "net",
        outside=ON_BRIDGE,
    ),
    Case(
        "mq=on on a tap with one queue",
        (wrong("net-queues", OFFERED, r"mq=on(.|\n)*1 queue pair\b"),),
        _plant(tap("vhost=on"), f"{VIRTIO},mq=on,vectors=6"),
        "net",
        outside=ON_BRIDGE,
    ),
    Case(
        "mq=on on the user network",
        (wrong("net-queues", OFFERED, r"on user(.|\n)*mq=on"),),
        _plant("user,id=n0", f"{VIRTIO},mq=on,vectors=6"),
    ),
    Case(
        "mq=off in front of two queues",
        (wrong("net-queues", OFFERED, r"mq=off(.|\n)*2 queue pairs"),),
        _plant(tap("queues=2,vhost=on"), f"{VIRTIO},mq=off"),
        "net",
        outside=ON_BRIDGE,
    ),
    Case(
        "a tap that was made without multi_queue",
        (better("net-queues", OFFERED, r"tap plant: one queue \(no multi_queue\)"),),
        _plant(tap("vhost=on"), VIRTIO),
        "net",
        before="ip tuntap add dev plant mode tap vnet_hdr; ip link set plant master br0 up",
    ),
    Case(
        "more queues than vCPUs",
        (better("net-queues", OFFERED, r"4 queue pairs(.|\n)*2 vCPUs"),),
        _plant(tap("queues=4,vhost=on"), f"{VIRTIO},mq=on,vectors=10"),
        "net",
        outside=ON_BRIDGE,
    ),
    Case(
        "two queues for one vCPU",
        (better("net-queues", OFFERED, r"2 queue pairs(.|\n)*1 vCPU\b"),),
        _plant(tap("queues=2,vhost=on"), f"{VIRTIO},mq=on,vectors=6", smp=1),
        "net",
        outside=ON_BRIDGE,
    ),
    Case(
        "too few vectors for the queues",
        (
            wrong("net-vectors", OFFERED, r"vectors=3"),
            wrong("net-spread", EFFECTIVE, r"all queues together: \d"),
        ),
        _plant(tap("queues=2,vhost=on"), f"{VIRTIO},mq=on,vectors=3"),
        "net",
        outside=ON_BRIDGE,
    ),
    Case(
        "two queues without vhost",
        (wrong("net-vhost", OFFERED, r"vhost-net opened 0 times"),),
        _plant(tap("queues=2,vhost=off"), f"{VIRTIO},mq=on,vectors=6"),
        "net",
        outside=ON_BRIDGE,
    ),
    Case(
        "one queue without vhost",
        (better("net-vhost", OFFERED, r"vhost-net opened 0 times"),),
        _plant(tap("vhost=off"), VIRTIO, smp=1),
        "net",
        outside=ON_BRIDGE,
    ),
    Case(
        "a guest that switched its queues off",
        (wrong("net-enabled", NEGOTIATED, r"numqueues 1 numdisabled 1"),),
        TWO,
        "net",
        outside=ON_BRIDGE,
        inside="ethtool -L eth0 combined 1",
    ),
    Case(
        "a guest that uses one of two vCPUs",
        (wrong("net-enabled", NEGOTIATED, r"CPUs online: 1 of 2 vCPUs"),),
        _plant(tap("queues=2,vhost=on"), f"{VIRTIO},mq=on,vectors=6", append="nr_cpus=1"),
        "net",
        outside=ON_BRIDGE,
    ),
    Case(
        "interrupts of all queues on one vCPU",
        (wrong("net-spread", EFFECTIVE, r"the busiest CPU has (9|100)"),),
        TWO,
        "net",
        outside=ON_BRIDGE,
        inside=(
            "for irq in $(sed -n 's/^ *\\([0-9]*\\):.*put.*/\\1/p' /proc/interrupts); do "
            "echo 0 > /proc/irq/$irq/smp_affinity_list; done"
        ),
    ),
    Case(
        "a card that imitates hardware",
        (better("net-model", OFFERED, r"e1000 on tap"),),
        _plant(tap("vhost=off"), "e1000"),
        outside=ON_BRIDGE,
    ),
    Case(
        "a host without vhost-net",
        (better("net-host", OFFERED, r"/dev/vhost-net: not there"),),
        None,
        before="rmmod vhost_net; rm -f /dev/vhost-net",
        after="modprobe vhost_net",
        target="host",
    ),
    Case(
        "one queue, seen from inside",
        (better("net-queues", OFFERED, r"ethtool -l eth0, maximum: 1"),),
        _plant(tap("vhost=on"), VIRTIO),
        "net",
        outside=ON_BRIDGE,
        target="guest",
    ),
)

SCSI = (
    Case(
        "virtio-scsi with one queue",
        (better("scsi-queues", OFFERED, r"num_queues: 1\b"),),
        Guest(qemu=disks(1, ",num_queues=1,iothread=io0", *IOTHREAD)),
        "disk",
    ),
    Case(
        "a machine type from before a queue for each vCPU",
        (better("scsi-queues", OFFERED, r"pc-q35-5\.1"),),
        Guest(qemu=("-machine", "pc-q35-5.1", *disks(1, ",iothread=io0", *IOTHREAD))),
        "disk",
    ),
    Case(
        "virtio-scsi with more queues than vCPUs",
        (better("scsi-queues", OFFERED, r"num_queues: 8"),),
        Guest(qemu=disks(1, ",num_queues=8,iothread=io0", *IOTHREAD)),
        "disk",
    ),
    Case(
        "virtio-scsi with too few vectors",
        (
            wrong("scsi-vectors", OFFERED, r"vectors: 3"),
            wrong("scsi-spread", EFFECTIVE, r"all queues together: \d"),
        ),
        Guest(qemu=disks(1, ",num_queues=2,vectors=3,iothread=io0", *IOTHREAD)),
        "disk",
    ),
    Case(
        "one iothread for eight disks and many queues",
        (better("scsi-threads", OFFERED, r"iothread: io0(.|\n)*: 8"),),
        Guest(qemu=disks(8, ",num_queues=2,iothread=io0", *IOTHREAD)),
        "disk",
    ),
    Case(
        "the main loop for all disks",
        (better("scsi-threads", OFFERED, r"none: the main loop"),),
        Guest(qemu=disks(4, ",num_queues=2")),
        "disk",
    ),
    Case(
        "virtio-blk with one queue",
        (better("scsi-queues", OFFERED, r"blk0 num-queues: 1\b"),),
        Guest(qemu=blk(",num-queues=1,iothread=io0", *IOTHREAD)),
        "disk",
    ),
    Case(
        "virtio-blk with more queues than vCPUs",
        (better("scsi-queues", OFFERED, r"blk0 num-queues: 6"),),
        Guest(qemu=blk(",num-queues=6,iothread=io0", *IOTHREAD)),
        "disk",
    ),
    Case(
        "virtio-blk with too few vectors",
        (wrong("scsi-vectors", OFFERED, r"vectors: 2"),),
        Guest(qemu=blk(",num-queues=2,vectors=2,iothread=io0", *IOTHREAD)),
        "disk",
    ),
    Case(
        "a guest kernel that is told to use one queue",
        (wrong("scsi-enabled", NEGOTIATED, r"/sys/block/\*/mq: vda: 1"),),
        Guest(
            append="virtio_blk.num_request_queues=1",
            qemu=blk(",num-queues=2,iothread=io0", *IOTHREAD),
        ),
        "disk",
    ),
    Case(
        "disks of a guest that uses one of two vCPUs",
        (wrong("scsi-enabled", NEGOTIATED, r"CPUs online: 1 of 2 vCPUs"),),
        Guest(append="nr_cpus=1", qemu=disks(1, ",num_queues=2,iothread=io0", *IOTHREAD)),
        "disk",
    ),
)

_ZCOPY_ON = "rmmod vhost_net; modprobe vhost_net experimental_zcopytx=1"
_ZCOPY_OFF = "rmmod vhost_net; modprobe vhost_net"
_OWN_BRIDGE = (
    "ip link add brp type bridge; ip link set brp up; ip address add 192.168.77.1/24 dev brp"
)

ZERO_COPY = (
    Case(
        "zero copy on, and nothing behind the bridge",
        (
            better("zcopy-default", OFFERED, r"experimental_zcopytx: 1"),
            wrong("zcopy-effect", EFFECTIVE, r"ports of brp beside plant: none"),
        ),
        TWO,
        "send-large",
        before=f"{_ZCOPY_ON}; ip address del 192.168.77.11/24 dev br0; {_OWN_BRIDGE}",
        outside="ip link set plant master brp up",
        after=(
            f"ip link del brp; ip address add 192.168.77.11/24 dev br0; sleep 0.5; {_ZCOPY_OFF}"
        ),
    ),
    Case(
        "zero copy on, and a card that cannot gather",
        (wrong("zcopy-effect", EFFECTIVE, r"scatter-gather: eth0 off"),),
        TWO,
        "send-large",
        before=_ZCOPY_ON,
        outside=ON_BRIDGE,
        after=f"sleep 0.5; {_ZCOPY_OFF}",
    ),
    Case(
        "zero copy on, and packets too short for it",
        (wrong("zcopy-effect", EFFECTIVE, r"packets of \d+ bytes on the average"),),
        TWO,
        "send-small",
        before=_ZCOPY_ON,
        outside="ip link set plant up",
        after=f"sleep 0.5; {_ZCOPY_OFF}",
    ),
    Case(
        "zero copy on, on the host alone",
        (better("zcopy-default", OFFERED, r"experimental_zcopytx: 1"),),
        None,
        before=_ZCOPY_ON,
        after=_ZCOPY_OFF,
        target="host",
    ),
)
