"""The catalogue's misconfigurations of spinlocks, clocks, the migration's thread and the IOMMU."""

from __future__ import annotations

from bench._catalogue_case import Case, Guest, Lab, better, wrong
from vmferry.fastpath.finding import Level

OFFERED, NEGOTIATED, EFFECTIVE = Level.OFFERED, Level.NEGOTIATED, Level.EFFECTIVE
# The vCPUs' threads, by the names that debug-threads=on gives them.
_THREAD = 'tid() { grep -l "^CPU $1/" /proc/$PID/task/*/comm | cut -d/ -f5; }; '
PIN_APART = f"{_THREAD}taskset -pc 0 $(tid 0); taskset -pc 1 $(tid 1)"
_PIN_IN_PAIRS = f"{_THREAD}for n in 0 1 2 3; do taskset -pc $((n / 2)) $(tid $n); done"
_CLOCK = "/sys/devices/system/clocksource/clocksource0/current_clocksource"

SPINLOCKS = (
    Case(
        "a named CPU model",
        (better("pv-unhalt", OFFERED, r"kvm-pv-unhalt: off\n.*EPYC"),),
        Guest(cpu="EPYC"),
        "locks",
    ),
    Case(
        "a named CPU model, and more vCPUs than cores",
        (
            wrong("pv-unhalt", OFFERED, r"4 vCPUs and 0 of others on CPUs 0-1"),
            wrong("pv-effect", EFFECTIVE, r"of the window"),
        ),
        Guest(smp=4, cpu="EPYC"),
        "locks",
    ),
    Case(
        "PV spinlocks refused on the host's own model",
        (better("pv-unhalt", OFFERED, r"kvm-pv-unhalt: off\n.*host"),),
        Guest(cpu="host,kvm-pv-unhalt=off"),
        "locks",
    ),
    Case(
        "PV spinlocks without their kin",
        (better("pv-kin", OFFERED, r"kvm-pv-tlb-flush: off"),),
        Guest(cpu="EPYC,kvm-pv-unhalt=on"),
        "locks",
    ),
    Case(
        "one of the kin refused",
        (better("pv-kin", OFFERED, r"kvm-pv-sched-yield: off"),),
        Guest(cpu="host,kvm-pv-sched-yield=off"),
        "locks",
    ),
    Case(
        "the hint of own cores without pinning",
        (wrong("pv-hint", OFFERED, r"vCPU 0 on 0-1"),),
        Guest(cpu="host,kvm-hint-dedicated=on"),
        "locks",
    ),
    Case(
        "the hint of own cores on an overcommitted host",
        (
            wrong("pv-hint", OFFERED, r"4 vCPUs"),
            wrong("pv-effect", EFFECTIVE, r"of the window"),
        ),
        Guest(smp=4, cpu="host,kvm-hint-dedicated=on"),
        "locks",
        outside=_PIN_IN_PAIRS,
    ),
    Case(
        "the hint of own cores, and another VM on them",
        (wrong("pv-hint", OFFERED, r"2 vCPUs and 2 of others"),),
        Guest(cpu="host,kvm-hint-dedicated=on"),
        "locks",
        before="labguest start other --smp 2 --memory 256M",
        outside=PIN_APART,
        after="labguest stop other",
    ),
    Case(
        "the hint of own cores with a named CPU model",
        (better("pv-hint-model", OFFERED, r"EPYC"),),
        Guest(cpu="EPYC,kvm-pv-unhalt=on,kvm-hint-dedicated=on"),
        "locks",
        outside=PIN_APART,
    ),
    Case(
        "nopvspin in the guest",
        (wrong("pv-chosen", NEGOTIATED, r"cmdline: nopvspin"),),
        Guest(append="nopvspin"),
        "locks",
    ),
    Case(
        "nopvspin, and more vCPUs than cores",
        (wrong("pv-effect", EFFECTIVE, r"of the window"),),
        Guest(smp=4, append="nopvspin"),
        "locks",
    ),
    Case(
        "PV spinlocks asked of TCG",
        (wrong("pv-unhalt", OFFERED, r"kvm-pv-unhalt=on(.|\n)*kvm-pv-unhalt: off"),),
        Guest(accel="tcg", cpu="max,kvm-pv-unhalt=on"),
        "locks",
    ),
    Case(
        "no PV spinlocks, seen from inside",
        (better("pv-unhalt", OFFERED, r"CPUID 0x40000001, eax: 0x"),),
        Guest(cpu="EPYC"),
        "locks",
        target="guest",
    ),
)

CLOCKS = (
    Case(
        "clocksource=hpet in the guest",
        (
            wrong("clock-source", NEGOTIATED, r"current_clocksource: hpet(.|\n)*clocksource=hpet"),
            wrong("clock-cost", EFFECTIVE, r"by libc: [\d,]+ ns"),
        ),
        Guest(append="clocksource=hpet"),
    ),
    Case(
        "a guest that was switched to acpi_pm",
        (
            wrong("clock-source", NEGOTIATED, r"current_clocksource: acpi_pm"),
            wrong("clock-cost", EFFECTIVE, r"by libc: [\d,]+ ns"),
        ),
        Guest(),
        inside=f"echo acpi_pm > {_CLOCK}",
    ),
    Case(
        "no kvmclock offered",
        (wrong("kvmclock", OFFERED, r"kvmclock: off"),),
        Guest(cpu="host,kvmclock=off"),
    ),
    Case(
        "a kvmclock that is not said to be one for all vCPUs",
        (
            wrong("kvmclock", OFFERED, r"kvmclock-stable-bit: off"),
            wrong("clock-cost", EFFECTIVE, r"the one over the other: (0|1\.[0-4])"),
        ),
        Guest(cpu="host,kvmclock-stable-bit=off"),
    ),
    Case(
        "no-kvmclock in the guest",
        (wrong("clock-source", NEGOTIATED, r"cmdline: no-kvmclock"),),
        Guest(append="no-kvmclock"),
    ),
    Case(
        "a kvm-clock that is read by system calls",
        (wrong("clock-cost", EFFECTIVE, r"the one over the other: (0|1\.[0-4])(.|\n)*kvm-clock"),),
        Guest(append="no-kvmclock-vsyscall"),
    ),
    Case(
        "a host that counts time by hpet",
        (wrong("host-clock", OFFERED, r"current_clocksource: hpet"),),
        Guest(),
        before=f"echo hpet > {_CLOCK}",
        after=f"echo tsc > {_CLOCK}",
    ),
    Case(
        "a host on acpi_pm, without a VM",
        (wrong("host-clock", OFFERED, r"current_clocksource: acpi_pm"),),
        None,
        before=f"echo acpi_pm > {_CLOCK}",
        after=f"echo tsc > {_CLOCK}",
        target="host",
    ),
    Case(
        "a clock that is not stable, seen from inside",
        (wrong("kvmclock", OFFERED, r"CPUID 0x40000001, eax: 0x"),),
        Guest(cpu="host,kvmclock-stable-bit=off"),
        target="guest",
    ),
)

_SPLIT = "/sys/module/kvm/parameters/eager_page_split"
_ALL_ON_ONE = "for one in /proc/$PID/task/*; do taskset -pc 0 ${one##*/}; done"

MIGRATION = (
    Case(
        "all threads of a VM on one core",
        (wrong("migration-cpus", OFFERED, r"on 0; |on 0\n"),),
        Guest(smp=1),
        outside=_ALL_ON_ONE,
    ),
    Case(
        "the migration's thread on the vCPU's core",
        (wrong("migration-cost", EFFECTIVE, r"the migration ran: \d(.|\n)*on 0\b"),),
        Guest(smp=1),
        "migration",
        outside=_ALL_ON_ONE,
    ),
    Case(
        "huge pages split by the vCPUs",
        (wrong("eager-page-split", OFFERED, r"eager_page_split: N"),),
        Guest(),
        before=f"echo N > {_SPLIT}",
        after=f"echo Y > {_SPLIT}",
    ),
    Case(
        "auto-converge at work",
        (better("migration-throttle", EFFECTIVE, r"cpu-throttle-percentage: \d\d"),),
        Guest(smp=1),
        "throttled-migration",
    ),
)

VTD = Lab(vtd=True)
_SP_OFF = Lab(vtd=True, append="intel_iommu=on,sp_off")
NVME = (
    "dev=$(lspci -D -n | awk '$2 == \"0108:\" {print $1}'); modprobe vfio-pci; "
    "echo vfio-pci > /sys/bus/pci/devices/$dev/driver_override; "
    "echo $dev > /sys/bus/pci/devices/$dev/driver/unbind 2>/dev/null; "
    "echo $dev > /sys/bus/pci/drivers_probe; "
)
_NO_THP = "echo never > /sys/kernel/mm/transparent_hugepage/enabled; "
_THP = "echo always > /sys/kernel/mm/transparent_hugepage/enabled"
PAGES = "echo 160 > /proc/sys/vm/nr_hugepages; "
# The one NVMe disk of the host, by its class.
DEVICE = ("-device", "vfio-pci,host=@NVME@")
HUGE = (
    *("-object", "memory-backend-memfd,id=ram,size=256M,hugetlb=on,hugetlbsize=2M,prealloc=on"),
    *("-machine", "memory-backend=ram"),
)
_OFF = "/sys/module/vfio_iommu_type1/parameters/disable_hugepages"

# Their leaves in the IOMMU's tables are judged in the tests alone: the lab's kernel is one that may
# oops when these are read.
LARGE_PAGES = (
    Case(
        "sp_off on the host's command line",
        (wrong("iommu-sp-off", OFFERED, r"sp_off"),),
        None,
        target="host",
        lab=_SP_OFF,
    ),
    Case(
        "VFIO told to map page by page",
        (wrong("vfio-huge-pages", OFFERED, r"disable_hugepages: Y"),),
        None,
        before=f"modprobe vfio-pci; modprobe vfio_iommu_type1; echo Y > {_OFF}",
        after=f"echo N > {_OFF}",
        target="host",
        lab=VTD,
    ),
    Case(
        "a device in a VM whose RAM lies in small pages",
        (better("ram-pages", NEGOTIATED, r"KernelPageSize: 4"),),
        Guest(memory="256M", qemu=DEVICE),
        before=NVME + _NO_THP,
        after=_THP,
        deep=True,
        lab=VTD,
    ),
    Case(
        "huge pages in vain, since VFIO maps page by page",
        (wrong("vfio-huge-pages", OFFERED, r"disable_hugepages: Y"),),
        Guest(memory="256M", qemu=(*HUGE, *DEVICE)),
        before=f"{NVME}{PAGES}modprobe vfio_iommu_type1; echo Y > {_OFF}",
        after=f"echo N > {_OFF}; echo 0 > /proc/sys/vm/nr_hugepages",
        deep=True,
        lab=VTD,
    ),
    Case(
        "huge pages in vain, since of sp_off",
        (wrong("iommu-sp-off", OFFERED, r"sp_off"),),
        Guest(memory="256M", qemu=(*HUGE, *DEVICE)),
        before=NVME + PAGES,
        after="echo 0 > /proc/sys/vm/nr_hugepages",
        deep=True,
        lab=_SP_OFF,
    ),
)
