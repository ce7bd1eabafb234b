"""QEMU's command line for one instance of a VM.

Two instances of one VM may live on one host, since a local move makes a second one. What must not
collide, and the rule for each:

- QMP sockets, console, heartbeat and agent sockets, console log: in the instance's own folder.
- RAM in files or huge pages: each instance makes its own unnamed file. With a shared file the
  incoming RAM would overwrite the running VM's.
- Forwarded ports: QEMU opens them when it starts, and the source has them. A destination starts
  without; `late_commands` opens them when the source is gone.
- Taps: each instance gets new ones. The guest has the same MAC on both; the destination announces
  itself when it resumes.
- Disk images: QEMU locks them. A destination (`-incoming`) opens them inactive, without locks, and
  the source drops its own at switchover.
- Passed-through devices: there is one of each, and QEMU does not migrate a VM that has one.
- Extra arguments: `{instance}` becomes the instance's folder; VNC and gdb sockets must have it.

Both sides must have the same devices in the same order, or QEMU cannot load the stream: nothing
here but these rules may depend on which side it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmferry.hypervisor.qemu.instance import InstanceFiles
from vmferry.testguest.build import GuestImage, kernel_command_line
from vmferry.vm.fields import PAGE_SIZES
from vmferry.vm.spec import Disk, Forward, Nic, Scsi, VmSpec

HEARTBEAT_PORT = "vmferry.heartbeat"
AGENT_PORT = "vmferry.agent"

# A device's properties, its driver first.
_Device = dict[str, Any]

_NIC_MODELS = {"virtio": "virtio-net-pci", "e1000": "e1000", "e1000e": "e1000e"}
_ACCELERATORS = {"kvm": "kvm", "tcg": "tcg,thread=multi"}
# The machine's own name for its RAM: the stream then fits a QEMU that was started with plain -m.
_RAM = "pc.ram"


def command_line(
    spec: VmSpec,
    files: InstanceFiles,
    image: GuestImage | None,
    taps: Mapping[int, str] | None = None,
    *,
    incoming: bool,
) -> list[str]:
    """The program and its arguments. `spec` is resolved; `image` is there for a test guest.

    `taps` has for a card on a bridge, by its place, what QEMU is told of its tap; a card without
    gets one from QEMU's bridge helper.
    """
    if spec.qemu.binary is None or spec.cpu.model is None:
        raise ValueError(f"the specification of '{spec.name}' is not resolved")
    words = [spec.qemu.binary]
    words += ["-name", f"guest={spec.name},debug-threads=on"]
    words += ["-nodefaults", "-no-user-config", "-display", "none"]
    words += ["-machine", f"{spec.qemu.machine},memory-backend={_RAM}"]
    words += ["-accel", _ACCELERATORS[spec.qemu.accelerator]]
    words += ["-cpu", spec.cpu.model, "-smp", str(spec.cpu.count)]
    words += ["-m", f"{spec.memory.size // 1024}k", "-object", _memory_backend(spec)]
    words += _boot(spec, image)
    words += _qmp(files)
    words += _console(files)
    for number in spec.iothreads:
        words += ["-object", f"iothread,id=iothread{number}"]
    devices: list[_Device] = []
    if spec.is_testguest:
        words += _guest_channels(files, devices)
    words += _disks(spec.disk, spec.scsi or Scsi(), devices)
    for index, nic in enumerate(spec.nic):
        words += _netdev(index, nic, (taps or {}).get(index), with_forwards=not incoming)
        devices.append(_card(spec.name, index, nic))
    for index, one in enumerate(spec.passthrough):
        devices.append({"driver": "vfio-pci", "host": one.host, "id": f"passthrough{index}"})
    words += _device_words(devices)
    if incoming:
        words += ["-incoming", "defer", "-S"]
    words += [word.replace("{instance}", str(files.folder)) for word in spec.qemu.extra]
    return words


def late_commands(spec: VmSpec) -> list[tuple[str, dict[str, Any]]]:
    """QMP commands for a destination once its source is gone: they open the forwarded ports.

    A `human-monitor-command` that fails returns QEMU's complaint as its text, and no error.
    """
    return [
        ("human-monitor-command", {"command-line": f"hostfwd_add net{index} {_rule(forward)}"})
        for index, nic in enumerate(spec.nic)
        for forward in nic.forward
    ]


def mac_address(name: str, index: int) -> str:
    """The MAC address of a VM's card number `index`: the same on every host, in QEMU's range."""
    digest = hashlib.sha256(f"{name}/{index}".encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def _memory_backend(spec: VmSpec) -> str:
    memory = spec.memory
    own = f"id={_RAM},size={memory.size}"
    if memory.backend == "file":
        return f"memory-backend-file,{own},mem-path={_escaped(memory.path)},share=on"
    if memory.backend == "hugepages":
        page = memory.page_size or PAGE_SIZES[0]
        # Taken at the start: a page that is missing later would kill the VM.
        return f"memory-backend-memfd,{own},hugetlb=on,hugetlbsize={page},prealloc=on"
    return f"memory-backend-{memory.backend or 'ram'},{own}"


def _boot(spec: VmSpec, image: GuestImage | None) -> list[str]:
    boot = spec.boot
    if boot.kernel is None:
        return []
    if not spec.is_testguest:
        words = ["-kernel", boot.kernel]
        if boot.initrd is not None:
            words += ["-initrd", boot.initrd]
        return [*words, "-append", boot.append] if boot.append is not None else words
    if image is None:
        raise ValueError(f"'{spec.name}' boots the test guest, and there is no image of it")
    line = kernel_command_line(spec.page_writer, boot.append or "")
    return ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", line]


def _qmp(files: InstanceFiles) -> list[str]:
    words = []
    for name, path in (
        ("control", files.control_socket),
        ("observer", files.observer_socket),
        ("recovery", files.recovery_socket),
    ):
        words += ["-chardev", f"socket,id={name},path={_escaped(path)},server=on,wait=off"]
        words += ["-mon", f"chardev={name},mode=control"]
    return words


def _console(files: InstanceFiles) -> list[str]:
    socket, log = _escaped(files.console_socket), _escaped(files.console_log)
    chardev = f"socket,id=console,path={socket},server=on,wait=off,logfile={log},logappend=on"
    return ["-chardev", chardev, "-serial", "chardev:console"]


def _guest_channels(files: InstanceFiles, devices: list[_Device]) -> list[str]:
    devices.append({"driver": "virtio-serial-pci", "id": "channels"})
    words = []
    for number, (name, port, path) in enumerate(
        (
            ("heartbeat", HEARTBEAT_PORT, files.heartbeat_socket),
            ("agent", AGENT_PORT, files.agent_socket),
        ),
        start=1,
    ):
        words += ["-chardev", f"socket,id={name},path={_escaped(path)},server=on,wait=off"]
        port_of_it = {"bus": "channels.0", "nr": number, "chardev": name, "name": port}
        devices.append({"driver": "virtserialport", **port_of_it})
    return words


def _disks(disks: tuple[Disk, ...], scsi: Scsi, devices: list[_Device]) -> list[str]:
    words = []
    if any(disk.interface == "scsi" for disk in disks):
        devices.append({"driver": "virtio-scsi-pci", "id": "scsi", **_queues("num_queues", scsi)})
    for index, disk in enumerate(disks):
        node = f"disk{index}"
        cache = {"direct": disk.cache == "none", "no-flush": disk.cache == "unsafe"}
        # The one look outside: QEMU wants to be told what kind of file an image is in.
        driver = "host_device" if Path(disk.path).is_block_device() else "file"
        file = {"driver": driver, "filename": disk.path, "cache": cache}
        blockdev = {
            "driver": disk.format,
            "node-name": node,
            "read-only": disk.readonly,
            "cache": cache,
            "file": file,
        }
        # JSON, since a path may have any letter.
        words += ["-blockdev", json.dumps(blockdev)]
        device = {"drive": node, "id": f"drive{index}", "bootindex": index + 1}
        if disk.interface == "virtio":
            served = _queues("num-queues", disk)
            devices.append({"driver": "virtio-blk-pci", **device, **served})
        else:
            devices.append({"driver": "scsi-hd", "bus": "scsi.0", **device})
    return words


def _queues(name: str, device: Disk | Scsi) -> _Device:
    """Its queues, under QEMU's name for them, and who serves them; QEMU's own choice where none is
    made."""
    properties: _Device = {} if device.queues is None else {name: device.queues}
    threads = [f"iothread{number}" for number in device.iothreads or ()]
    if len(threads) == 1:
        properties["iothread"] = threads[0]
    elif threads:
        properties["iothread-vq-mapping"] = [{"iothread": thread} for thread in threads]
    return properties


def _netdev(index: int, nic: Nic, tap: str | None, *, with_forwards: bool) -> list[str]:
    if nic.kind == "user":
        backend = f"user,id=net{index}"
    elif tap is None:
        backend = f"bridge,id=net{index},br={nic.bridge}"
    else:
        backend = f"tap,id=net{index},{tap}"
    if with_forwards:
        backend += "".join(f",hostfwd={_rule(forward)}" for forward in nic.forward)
    return ["-netdev", backend]


def _card(name: str, index: int, nic: Nic) -> _Device:
    mac = nic.mac or mac_address(name, index)
    card = {"driver": _NIC_MODELS[nic.model], "id": f"nic{index}", "netdev": f"net{index}"}
    queues = {}
    if nic.queues is not None:
        queues = {"mq": nic.queues > 1, "vectors": vectors(nic.queues)}
    # No boot ROM: the VM does not boot from the network, and the ROM's size would have to agree.
    return {**card, "mac": mac, **queues, "romfile": ""}


def _device_words(devices: list[_Device]) -> list[str]:
    """As `driver,key=value,…`; all of them as JSON where a value is a list, which only that can
    have: QEMU makes the devices in JSON after the others, whatever their order here."""
    if any(isinstance(value, list) for device in devices for value in device.values()):
        texts = [json.dumps(device) for device in devices]
    else:
        texts = [_plain(device) for device in devices]
    return [word for text in texts for word in ("-device", text)]


def _plain(device: _Device) -> str:
    switches = {True: "on", False: "off"}
    driver, *others = device.items()
    values = (
        f"{key}={switches[value] if isinstance(value, bool) else value}" for key, value in others
    )
    return ",".join([driver[1], *values])


def vectors(queues: int) -> int:
    """Interrupts of a virtio card: two for each pair of queues, for control and for changes."""
    return 2 * queues + 2


def _rule(forward: Forward) -> str:
    return f"{forward.protocol}:127.0.0.1:{forward.host}-:{forward.guest}"


def _escaped(value: object) -> str:
    """A value in QEMU's `key=value,…` syntax: a comma is doubled."""
    return str(value).replace(",", ",,")
