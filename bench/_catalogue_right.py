"""The catalogue's right set-ups: what raises an alarm here raises a false one."""

from __future__ import annotations

from bench._catalogue_case import Case, Guest
from bench._catalogue_devices import IOTHREAD, ON_BRIDGE, TWO, VIRTIO, blk, card, disks, tap
from bench._catalogue_vcpus import DEVICE, HUGE, NVME, PAGES, VTD

_ADDRESS = "lab.ip=192.168.77.77/24"
_PV = "kvm-pv-unhalt=on,kvm-pv-tlb-flush=on,kvm-pv-ipi=on,kvm-pv-sched-yield=on"
_FOUR = Guest(
    smp=4,
    append=_ADDRESS,
    qemu=card(tap("queues=4,vhost=on"), f"{VIRTIO},mq=on,vectors=10"),
)

RIGHT = (
    Case("two queues for two vCPUs", (), TWO, "net", outside=ON_BRIDGE),
    Case("four queues for four vCPUs on two cores", (), _FOUR, "net", outside=ON_BRIDGE),
    Case(
        "one queue for one vCPU",
        (),
        Guest(smp=1, append=_ADDRESS, qemu=card(tap("vhost=on"), VIRTIO)),
        "net",
        outside=ON_BRIDGE,
    ),
    Case(
        "queues whose vectors QEMU reckons",
        (),
        Guest(append=_ADDRESS, qemu=card(tap("queues=2,vhost=on"), f"{VIRTIO},mq=on")),
        "net",
        outside=ON_BRIDGE,
    ),
    Case("two queues, and nobody sends", (), TWO, outside=ON_BRIDGE),
    Case("two queues, and one connection", (), TWO, "one-flow", outside=ON_BRIDGE),
    Case("the user network", (), Guest(qemu=card("user,id=n0", VIRTIO))),
    Case("the user network with one vCPU", (), Guest(smp=1, qemu=card("user,id=n0", VIRTIO))),
    Case("neither card nor further disk", (), Guest(), "locks"),
    Case("zero copy off while large packets are sent", (), TWO, "send-large", outside=ON_BRIDGE),
    Case(
        "virtio-scsi with an iothread",
        (),
        Guest(qemu=disks(1, ",iothread=io0", *IOTHREAD)),
        "disk",
    ),
    Case("virtio-blk with an iothread", (), Guest(qemu=blk(",iothread=io0", *IOTHREAD)), "disk"),
    Case(
        "two controllers with an iothread each",
        (),
        Guest(
            qemu=(
                *blk(",iothread=io0", *IOTHREAD),
                *("-object", "iothread,id=io1", "-device", "virtio-scsi-pci,id=s1,iothread=io1"),
                *("-blockdev", "driver=null-co,node-name=second,size=1073741824,read-zeroes=on"),
                *("-device", "scsi-hd,bus=s1.0,drive=second"),
            )
        ),
        "disk",
    ),
    Case("a disk of one vCPU", (), Guest(smp=1, qemu=disks(1, "")), "disk"),
    Case("PV spinlocks with more vCPUs than cores", (), Guest(smp=4), "locks"),
    Case("a named CPU model with PV spinlocks and kin", (), Guest(cpu=f"EPYC,{_PV}"), "locks"),
    Case("a named CPU model with one vCPU", (), Guest(smp=1, cpu="EPYC"), "locks"),
    Case("a guest under TCG", (), Guest(accel="tcg", cpu="max"), "locks"),
    Case(
        "one vCPU whose clock is the TSC",
        (),
        Guest(smp=1),
        inside="echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
    ),
    Case("a guest seen from inside", (), TWO, "net", outside=ON_BRIDGE, target="guest"),
    Case("a host alone", (), None, target="host"),
    Case(
        "a migration on a core of its own",
        (),
        Guest(smp=1),
        "migration",
        outside=(
            "for one in /proc/$PID/task/*; do taskset -pc 1 ${one##*/}; done; "
            "taskset -pc 0 $(grep -l '^CPU 0/' /proc/$PID/task/*/comm | cut -d/ -f5)"
        ),
    ),
    Case("an older machine type", (), Guest(qemu=("-machine", "pc-q35-7.0")), "locks"),
    Case(
        "a device with RAM in huge pages",
        (),
        Guest(memory="256M", qemu=(*HUGE, *DEVICE)),
        before=NVME + PAGES,
        after="echo 0 > /proc/sys/vm/nr_hugepages",
        deep=True,
        lab=VTD,
    ),
)
