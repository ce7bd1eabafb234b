"""A specification as libvirt's domain XML, with the reason for each fast path beside its elements.

It is for people who run their VMs by libvirt and want to see, or take over, how vmferry would have
them. What libvirt has no element for is said in a comment.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from vmferry.testguest.build import GuestImage, kernel_command_line
from vmferry.units import KIB, MIB
from vmferry.vm.cpu_model import CpuModel, parse_cpu_model
from vmferry.vm.fields import PAGE_SIZES
from vmferry.vm.spec import Disk, Nic, Scsi, VmSpec

# libvirt's names for what QEMU calls kvm-….
_KVM_FEATURES = ("hint-dedicated", "poll-control", "pv-ipi")
_OTHER_KVM_FEATURES = frozenset({"kvmclock", "kvmclock-stable-bit", "kvm-pv-unhalt"})
# libvirt refuses a CPU feature that it does not know by that name (its src/cpu_map); all others are
# called as QEMU calls them.
_CPU_FEATURES = {
    **{name.replace("_", "-"): name for name in ("cmp_legacy", "ds_cpl", "fxsr_opt", "lahf_lm")},
    **{name.replace("_", "-"): name for name in ("nodeid_msr", "perfctr_core", "perfctr_nb")},
    "tsc-adjust": "tsc_adjust",
    "pclmulqdq": "pclmuldq",
    "sse3": "pni",
    "ffxsr": "fxsr_opt",
    "sse4-1": "sse4.1",
    "sse4-2": "sse4.2",
    "xd": "nx",
    "i64": "lm",
}
# What QEMU takes beside features and libvirt says elsewhere, or not at all.
_NO_CPU_FEATURES = re.compile(
    r"(hv|xen|x|host|legacy|tcg)-.*|enforce|check|migratable|pmu|lmce|l3-cache|kvm|cpuid-0xb"
    r"|fill-mtrr-mask|full-cpuid-auto-level|vmware-cpuid-freq"
)
_CPU_MODES = {"host": "host-passthrough", "max": "maximum"}
_GAP = "  "


def libvirt_xml(
    spec: VmSpec,
    image: GuestImage | None,
    host_cpus: int,
    notes: Mapping[str, Sequence[str]],
) -> str:
    """The domain of a resolved `spec`. `notes` has sentences for each fast path by its name;
    `image` is there for a test guest."""
    return _Domain(spec, image, host_cpus, notes).text()


class _Domain:
    def __init__(
        self,
        spec: VmSpec,
        image: GuestImage | None,
        host_cpus: int,
        notes: Mapping[str, Sequence[str]],
    ) -> None:
        self._spec = spec
        self._image = image
        self._host_cpus = host_cpus
        self._notes = notes
        self._kvm = spec.qemu.accelerator != "tcg"
        self._model = parse_cpu_model(spec.cpu.model or "host")
        self._iothreads = spec.iothreads

    def text(self) -> str:
        domain = Element("domain", type="kvm" if self._kvm else "qemu")
        SubElement(domain, "name").text = self._spec.name
        self._memory(domain)
        SubElement(domain, "vcpu", placement="static").text = str(self._spec.cpu.count)
        if self._iothreads:
            SubElement(domain, "iothreads").text = str(len(self._iothreads))
        self._pins(domain)
        self._boot(domain)
        self._features(domain)
        self._cpu(domain)
        self._clock(domain)
        self._devices(SubElement(domain, "devices"))
        if self._spec.qemu.extra:
            _comment(domain, "left out: qemu.extra, which is QEMU's own language")
        ElementTree.indent(domain, _GAP)
        return ElementTree.tostring(domain, encoding="unicode")

    def _note(self, parent: Element, feature: str) -> None:
        for note in self._notes.get(feature, ()):
            _comment(parent, f"{feature}: {note}")

    def _memory(self, domain: Element) -> None:
        memory = self._spec.memory
        SubElement(domain, "memory", unit="KiB").text = str(memory.size // KIB)
        if memory.size % MIB:
            _comment(
                domain,
                "libvirt makes it a whole number of MiB; under TCG with QEMU before 9.0 such a VM "
                "loses writes in a move",
            )
        self._note(domain, "large-pages")
        if memory.backend == "hugepages":
            page = memory.page_size or PAGE_SIZES[0]
            pages = SubElement(SubElement(domain, "memoryBacking"), "hugepages")
            SubElement(pages, "page", size=str(page // KIB), unit="KiB")
        elif memory.backend in ("memfd", "file"):
            SubElement(SubElement(domain, "memoryBacking"), "source", type=memory.backend)

    def _pins(self, domain: Element) -> None:
        self._note(domain, "migration-thread")
        pins = self._spec.cpu.pin
        if not pins:
            return
        tune = SubElement(domain, "cputune")
        for vcpu, cpu in enumerate(pins):
            SubElement(tune, "vcpupin", vcpu=str(vcpu), cpuset=str(cpu))
        others = ",".join(map(str, sorted(set(range(self._host_cpus)) - set(pins))))
        if others:
            SubElement(tune, "emulatorpin", cpuset=others)
            for number in range(len(self._iothreads)):
                SubElement(tune, "iothreadpin", iothread=str(number + 1), cpuset=others)

    def _boot(self, domain: Element) -> None:
        boot = self._spec.boot
        system = SubElement(domain, "os")
        machine = self._spec.qemu.machine
        # A program of another name is for this machine.
        _, named, target = (self._spec.qemu.binary or "").rpartition("qemu-system-")
        arch = target if named else platform.machine()
        SubElement(system, "type", arch=arch, machine=machine).text = "hvm"
        kernel, initrd, append = boot.kernel, boot.initrd, boot.append
        if self._spec.is_testguest and self._image is not None:
            kernel, initrd = str(self._image.kernel), str(self._image.initrd)
            append = kernel_command_line(self._spec.page_writer, append or "")
        for tag, value in (("kernel", kernel), ("initrd", initrd), ("cmdline", append)):
            if value is not None:
                SubElement(system, tag).text = value

    def _features(self, domain: Element) -> None:
        features = SubElement(domain, "features")
        SubElement(features, "acpi")
        SubElement(features, "apic")
        self._note(features, "pv-spinlocks")
        if not self._kvm:
            return
        unhalt = _state(self._model, "kvm-pv-unhalt")
        if unhalt is not None:
            SubElement(features, "pvspinlock", state=unhalt)
        states = {name: _state(self._model, f"kvm-{name}") for name in _KVM_FEATURES}
        if any(states.values()):
            kvm = SubElement(features, "kvm")
            for name, state in states.items():
                if state is not None:
                    SubElement(kvm, name, state=state)
        without = sorted(
            name
            for name in self._model.features
            if name.startswith("kvm-")
            and name not in _OTHER_KVM_FEATURES
            and name.removeprefix("kvm-") not in _KVM_FEATURES
        )
        if without:
            _comment(features, f"libvirt has no element for {', '.join(without)}")

    def _cpu(self, domain: Element) -> None:
        model = self._model
        mode = _CPU_MODES.get(model.name)
        if mode is not None:
            cpu = SubElement(domain, "cpu", mode=mode)
        else:
            cpu = SubElement(domain, "cpu", mode="custom", match="exact")
            SubElement(cpu, "model", fallback="forbid").text = model.name
        left_out = []
        for name, value in model.features.items():
            state = _state(model, name)
            if name.startswith("kvm-") or name in ("kvmclock", "tsc-frequency"):
                continue
            if name == "kvmclock-stable-bit" or state is None or _NO_CPU_FEATURES.fullmatch(name):
                left_out.append(f"{name}={value}")
                continue
            policy = "require" if state == "on" else "disable"
            SubElement(cpu, "feature", policy=policy, name=_CPU_FEATURES.get(name, name))
        if left_out:
            _comment(cpu, f"left out, as QEMU's own: {', '.join(left_out)}")

    def _clock(self, domain: Element) -> None:
        self._note(domain, "clock")
        clock = SubElement(domain, "clock", offset="utc")
        if self._kvm:
            present = "no" if self._model.is_off("kvmclock") else "yes"
            SubElement(clock, "timer", name="kvmclock", present=present)
        frequency = self._model.features.get("tsc-frequency", "")
        if frequency.isdecimal():
            SubElement(clock, "timer", name="tsc", frequency=frequency)

    def _devices(self, devices: Element) -> None:
        if self._spec.qemu.binary is not None:
            SubElement(devices, "emulator").text = self._spec.qemu.binary
        self._note(devices, "scsi-queues")
        if any(disk.interface == "scsi" for disk in self._spec.disk):
            scsi = self._spec.scsi or Scsi()
            where = {"type": "scsi", "index": "0", "model": "virtio-scsi"}
            controller = SubElement(devices, "controller", where)
            self._serve(SubElement(controller, "driver"), scsi)
        for index, disk in enumerate(self._spec.disk):
            self._disk(devices, index, disk)
        self._note(devices, "net-queues")
        self._note(devices, "zero-copy")
        for nic in self._spec.nic:
            _interface(devices, nic)
        for device in self._spec.passthrough:
            _host_device(devices, device.host)
        SubElement(devices, "serial", type="pty")
        SubElement(devices, "memballoon", model="none")

    def _disk(self, devices: Element, index: int, disk: Disk) -> None:
        block = Path(disk.path).is_block_device()
        element = SubElement(devices, "disk", type="block" if block else "file", device="disk")
        driver = {"name": "qemu", "type": disk.format, "cache": disk.cache}
        self._serve(SubElement(element, "driver", driver), disk)
        SubElement(element, "source", {"dev" if block else "file": disk.path})
        prefix, bus = ("vd", "virtio") if disk.interface == "virtio" else ("sd", "scsi")
        SubElement(element, "target", dev=prefix + _letters(index), bus=bus)
        if disk.readonly:
            SubElement(element, "readonly")
        SubElement(element, "boot", order=str(index + 1))

    def _serve(self, driver: Element, device: Disk | Scsi) -> None:
        """Queues and iothreads; libvirt numbers its iothreads from 1."""
        if device.queues is not None:
            driver.set("queues", str(device.queues))
        numbers = [str(self._iothreads.index(one) + 1) for one in device.iothreads or ()]
        if len(numbers) == 1:
            driver.set("iothread", numbers[0])
        elif numbers:
            threads = SubElement(driver, "iothreads")
            for number in numbers:
                SubElement(threads, "iothread", id=number)


def _interface(devices: Element, nic: Nic) -> None:
    element = SubElement(devices, "interface", type=nic.kind)
    if nic.mac is not None:
        SubElement(element, "mac", address=nic.mac)
    if nic.bridge is not None:
        SubElement(element, "source", bridge=nic.bridge)
    SubElement(element, "model", type=nic.model)
    if nic.has_queues and nic.vhost is not None:
        driver = SubElement(element, "driver", name="vhost" if nic.vhost else "qemu")
        if nic.queues is not None and nic.queues > 1:
            driver.set("queues", str(nic.queues))
    if nic.forward:
        _comment(element, "left out: the forwarded ports")


def _host_device(devices: Element, host: str) -> None:
    element = SubElement(devices, "hostdev", mode="subsystem", type="pci", managed="yes")
    domain, bus, rest = host.split(":")
    slot, function = rest.split(".")
    parts = {"domain": domain, "bus": bus, "slot": slot, "function": function}
    address = {name: f"0x{value}" for name, value in parts.items()}
    SubElement(SubElement(element, "source"), "address", address)


def _state(model: CpuModel, feature: str) -> str | None:
    """on, off, or None where the model's own default holds."""
    return {"on": "on", "off": "off"}.get(model.features.get(feature, ""))


def _letters(index: int) -> str:
    """a to z, then aa and so on, as disks are named."""
    text = ""
    while index >= 0:
        text = chr(ord("a") + index % 26) + text
        index = index // 26 - 1
    return text


def _comment(parent: Element, text: str) -> None:
    # A comment may not have two dashes in a row, or one at its end.
    parent.append(ElementTree.Comment(f" {re.sub('-(?=-)', '- ', text)} "))
