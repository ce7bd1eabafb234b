"""QEMU's command line for one instance of a VM.

Two instances of one VM may live on one host, since a local move makes a second one. What must not
collide, and the rule for each:

- QMP sockets, console, heartbeat and agent sockets, console log: in the instance's own folder.
- RAM in files or huge pages: each instance makes its own unnamed file in the folder given. With a
  shared file the incoming RAM would overwrite the running VM's.
- Forwarded ports: QEMU opens them when it starts, and the source has them. A destination starts
  without; `late_commands` opens them when the source is gone.
- Taps: the bridge helper makes a new tap for each instance. Both have the same MAC; the destination
  announces itself when it resumes.
- Disk images: QEMU locks them. A destination (`-incoming`) opens them inactive, without locks, and
  the source drops its own at switchover.
- Extra arguments: `{instance}` becomes the instance's folder; VNC and gdb sockets must have it.

Both sides must have the same devices in the same order, or QEMU cannot load the stream: nothing
here but these rules may depend on which side it is.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vmferry.hypervisor.qemu.instance import InstanceFiles
from vmferry.testguest.build import GuestImage, kernel_command_line
from vmferry.vm.spec import Disk, Forward, Nic, VmSpec

HEARTBEAT_PORT = "vmferry.heartbeat"
AGENT_PORT = "vmferry.agent"

_NIC_MODELS = {"virtio": "virtio-net-pci", "e1000": "e1000", "e1000e": "e1000e"}
_ACCELERATORS = {"kvm": "kvm", "tcg": "tcg,thread=multi"}
# The machine's own name for its RAM: the stream then fits a QEMU that was started with plain -m.
_RAM = "pc.ram"


def command_line(
    spec: VmSpec, files: InstanceFiles, image: GuestImage | None, *, incoming: bool
) -> list[str]:
    """The program and its arguments. `spec` is resolved; `image` is there for a test guest."""
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
    if spec.is_testguest:
        words += _guest_channels(files)
    words += _disks(spec.disk)
    for index, nic in enumerate(spec.nic):
        words += _nic(spec.name, index, nic, with_forwards=not incoming)
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
    if memory.backend in ("ram", "memfd"):
        return f"memory-backend-{memory.backend},id={_RAM},size={memory.size}"
    folder = memory.path or "/dev/hugepages"
    return f"memory-backend-file,id={_RAM},size={memory.size},mem-path={_escaped(folder)},share=on"


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


def _guest_channels(files: InstanceFiles) -> list[str]:
    words = ["-device", "virtio-serial-pci,id=channels"]
    for number, (name, port, path) in enumerate(
        (
            ("heartbeat", HEARTBEAT_PORT, files.heartbeat_socket),
            ("agent", AGENT_PORT, files.agent_socket),
        ),
        start=1,
    ):
        words += ["-chardev", f"socket,id={name},path={_escaped(path)},server=on,wait=off"]
        words += [
            "-device",
            f"virtserialport,bus=channels.0,nr={number},chardev={name},name={port}",
        ]
    return words


def _disks(disks: tuple[Disk, ...]) -> list[str]:
    words = []
    if any(disk.interface == "scsi" for disk in disks):
        words += ["-device", "virtio-scsi-pci,id=scsi"]
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
        device = "virtio-blk-pci" if disk.interface == "virtio" else "scsi-hd,bus=scsi.0"
        words += ["-device", f"{device},drive={node},id=drive{index},bootindex={index + 1}"]
    return words


def _nic(name: str, index: int, nic: Nic, *, with_forwards: bool) -> list[str]:
    backend = f"user,id=net{index}" if nic.kind == "user" else f"bridge,id=net{index}"
    if nic.bridge is not None:
        backend += f",br={nic.bridge}"
    if with_forwards:
        backend += "".join(f",hostfwd={_rule(forward)}" for forward in nic.forward)
    mac = nic.mac or mac_address(name, index)
    # No boot ROM: the VM does not boot from the network, and the ROM's size would have to agree.
    device = f"{_NIC_MODELS[nic.model]},id=nic{index},netdev=net{index},mac={mac},romfile="
    return ["-netdev", backend, "-device", device]


def _rule(forward: Forward) -> str:
    return f"{forward.protocol}:127.0.0.1:{forward.host}-:{forward.guest}"


def _escaped(value: object) -> str:
    """A value in QEMU's `key=value,…` syntax: a comma is doubled."""
    return str(value).replace(",", ",,")
