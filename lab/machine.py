"""The machine that a host is: its options and QEMU's command line for it.

A prepared state fits only the machine it was made on: what the guest can see of the command line
depends on the options alone, never on which host of which lab it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lab.agent import PORTS
from lab.image import Image
from vmferry.units import GIB, MIB

_KERNEL_WORDS = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on"
    " lab.root=labhost"
)
# 1 GiB of it is one huge page, which a smaller machine has no place for.
_VTD_KERNEL_WORDS = "intel_iommu=on hugepagesz=1G hugepages=1"
HOT_PLUG_PORT = "spare"
# The second disk: what the host gets of this checkout. A prepared state has seen its size.
PAYLOAD_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Options:
    """What a host is. `memory` in bytes; `append` are more words for its kernel.

    `vtd`: an Intel IOMMU with an e1000e and an NVMe disk behind it, to hand to a guest.
    """

    vtd: bool = False
    cpus: int = 2
    memory: int = 0
    append: str = ""

    @property
    def memory_bytes(self) -> int:
        """What was asked for, or what is enough for the benches and two nested guests."""
        return self.memory or (6 * GIB if self.vtd else 3 * GIB)

    def to_json(self) -> dict[str, object]:
        """What makes one machine another; a memory that was left open is told."""
        return {**asdict(self), "memory": self.memory_bytes}


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one running host. Sockets lie in a folder of their own, with short paths."""

    folder: Path
    disk: Path

    @property
    def qmp(self) -> Path:
        return self.folder / "qmp.sock"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def errors(self) -> Path:
        return self.folder / "qemu.log"

    @property
    def agent_sockets(self) -> list[Path]:
        return [self.folder / f"agent-{number}.sock" for number in range(PORTS)]


def command_line(
    image: Image,
    options: Options,
    name: str,
    files: Files,
    *,
    link: str,
    payload: Path,
    incoming: bool,
) -> list[str]:
    """The program and its arguments.

    `link` is QEMU's netdev for the network between hosts, `payload` the file of the second disk.
    """
    words = image.toolbox.qemu()
    words += ["-name", f"guest={name},debug-threads=on"]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    words += ["-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]
    words += ["-smp", str(options.cpus), "-m", f"{options.memory_bytes // 1024**2}M"]
    words += ["-kernel", str(image.kernel), "-initrd", str(image.initrd)]
    append = f"{_KERNEL_WORDS} {_VTD_KERNEL_WORDS if options.vtd else ''} {options.append}"
    words += ["-append", " ".join(append.split())]
    if options.vtd:
        # First of all: devices made before it would not be behind it.
        words += ["-device", "intel-iommu,intremap=on,caching-mode=on,eim=on,aw-bits=48"]
    words += ["-drive", f"file={_escaped(files.disk)},if=none,id=disk,cache=unsafe,discard=unmap"]
    words += ["-device", "virtio-blk-pci,drive=disk"]
    second = f"file={_escaped(payload)},if=none,id=payload,format=raw,readonly=on"
    words += ["-drive", second, "-device", "virtio-blk-pci,drive=payload"]
    words += ["-netdev", f"{link},id=link", "-device", "virtio-net-pci,netdev=link,romfile="]
    words += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci,id=agent"]
    for number, path in enumerate(files.agent_sockets):
        chardev = f"socket,id=agent{number},path={_escaped(path)},server=on,wait=off"
        port = f"virtserialport,bus=agent.0,nr={number + 1},chardev=agent{number},name=lab.{number}"
        words += ["-chardev", chardev, "-device", port]
    words += ["-device", f"pcie-root-port,id={HOT_PLUG_PORT},chassis=1"]
    if options.vtd:
        words += ["-netdev", "user,id=outside,restrict=on"]
        words += ["-device", "e1000e,netdev=outside,romfile="]
    words += ["-serial", f"file:{files.console}"]
    words += ["-qmp", f"unix:{_escaped(files.qmp)},server=on,wait=off"]
    if incoming:
        words += ["-incoming", "defer"]
    return words


def link_between(folder: Path, index: int) -> str:
    """The netdev of host number `index`: the first waits for the other, who comes when it can."""
    address = f"addr.type=unix,addr.path={_escaped(folder / 'link.sock')}"
    if index == 0:
        return f"stream,server=on,{address}"
    return f"stream,server=off,reconnect-ms=200,{address}"


def _escaped(path: Path) -> str:
    """QEMU takes a comma for the end of a value."""
    return str(path).replace(",", ",,")
