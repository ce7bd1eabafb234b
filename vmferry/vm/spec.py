"""The specification of one VM: what it is, whatever runs it. Read from TOML, kept as JSON.

`load_spec` checks all of a file and reports every problem at once: file, key, what is wrong, what
is allowed. The models check values; `vm/fields.py` has the kinds of value, `vm/problems.py` the
words.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    StrictBool,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from vmferry.errors import UsageError
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import KIB, MIB, format_size
from vmferry.vm.extra_arguments import check_extra_arguments
from vmferry.vm.fields import (
    PAGE_SIZES,
    Count,
    CpuModel,
    ExistingFile,
    ExistingFolder,
    Interface,
    Kernel,
    MacAddress,
    Machine,
    Name,
    PageSize,
    PciAddress,
    Places,
    Port,
    Queues,
    Size,
    Text,
)
from vmferry.vm.problems import describe

SPEC_MAX_BYTES = MIB
TESTGUEST = "testguest"
# QEMU rounds RAM up to this, and then refuses a memory backend of the size that was asked for.
RAM_STEP = 8 * KIB
# What the test guest's kernel and user space take at the least, beside a part of all RAM. The guest
# itself refuses what does not fit by less.
TESTGUEST_OWN_BYTES = 64 * MIB
TESTGUEST_OWN_PART = 16


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cpu(_Model):
    """`model` is QEMU's, with its features; without it `host` under KVM and `max` under TCG.

    `pin` has for each vCPU the one CPU of the host that it runs on; QEMU's other threads then keep
    off these.
    """

    count: Count = 1
    model: CpuModel | None = None
    pin: Places = ()

    @model_validator(mode="after")
    def _all_are_pinned(self) -> Self:
        if self.pin and len(self.pin) != self.count:
            raise ValueError(f"pin names {len(self.pin)} CPUs of the host for {self.count} vCPUs")
        return self


def _check_ram(size: int) -> int:
    if not MIB <= size <= 64 * 1024**4:
        raise ValueError(f"{format_size(size)} is out of range; allowed: 1MiB to 64TiB")
    if size % RAM_STEP:
        raise ValueError(f"{size} bytes is not a multiple of 8KiB")
    return size


class Memory(_Model):
    """Guest RAM. `path` is a folder: each instance makes its own unnamed file in it.

    So two instances on one host never share RAM, which would ruin the running one. Without
    `backend` it is `ram`, or `hugepages` where a passed-through device gains by them.
    """

    size: Annotated[Size, AfterValidator(_check_ram)]
    backend: Literal["ram", "memfd", "file", "hugepages"] | None = None
    path: ExistingFolder | None = None
    page_size: PageSize | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_recorded_once(cls, data: Any, info: ValidationInfo) -> Any:
        # In records, which have no context, huge pages had a folder once; their VMs may run on.
        if info.context is None and isinstance(data, dict) and data.get("backend") == "hugepages":
            return {key: value for key, value in data.items() if key != "path"}
        return data

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        backend = self.backend or "ram"
        if backend == "file" and self.path is None:
            raise ValueError("backend 'file' needs path, a folder for the RAM's file")
        if backend != "file" and self.path is not None:
            raise ValueError(f"backend '{backend}' takes no path; allowed: file")
        if backend != "hugepages" and self.page_size is not None:
            raise ValueError(f"backend '{backend}' takes no page_size; allowed: hugepages")
        page = self.page_size or PAGE_SIZES[0]
        if backend == "hugepages" and self.size % page:
            raise ValueError(
                f"size {format_size(self.size)} is not a multiple of the huge pages' "
                f"{format_size(page)}"
            )
        return self


class Boot(_Model):
    """A kernel to boot directly, or our test guest; without either the VM boots from its disks."""

    kernel: Kernel | None = None
    initrd: ExistingFile | None = None
    append: Text | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.kernel is None and (self.initrd is not None or self.append is not None):
            raise ValueError("initrd and append need kernel")
        if self.kernel == TESTGUEST and self.initrd is not None:
            raise ValueError("the test guest brings its own initrd")
        return self


class Disk(_Model):
    """A disk image. `writeback` is safe for a move: QEMU drops its cache when the VM goes over.

    `queues` and `iothreads` as in `Scsi`, which has them for disks with interface `scsi`. No NVMe:
    QEMU cannot migrate it.
    """

    path: ExistingFile
    format: Literal["raw", "qcow2"] = "raw"
    interface: Literal["virtio", "scsi"] = "virtio"
    cache: Literal["writeback", "none", "unsafe"] = "writeback"
    readonly: StrictBool = False
    queues: Queues | None = None
    iothreads: Places | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.interface == "scsi" and (self.queues is not None or self.iothreads is not None):
            raise ValueError("queues and iothreads of a disk with interface 'scsi' go into [scsi]")
        return self


class Scsi(_Model):
    """The virtio-scsi controller of the disks with interface `scsi`.

    `iothreads` are the numbers of the threads of QEMU that serve its queues; none: the main loop
    does. Devices that name the same number share the thread.
    """

    queues: Queues | None = None
    iothreads: Places | None = None


class Forward(_Model):
    """A port of the host's loopback address that leads to a port of the guest."""

    host: Port
    guest: Port
    protocol: Literal["tcp", "udp"] = "tcp"


class Nic(_Model):
    """A network card: QEMU's own user network, or a tap on a bridge of the host.

    Without `mac`, one that follows from the VM's name and the card's place. `create_bridge`: the
    bridge is made where there is none, and removed with the last VM on it.
    """

    kind: Literal["user", "bridge"] = "user"
    bridge: Interface | None = None
    create_bridge: StrictBool = False
    mac: MacAddress | None = None
    model: Literal["virtio", "e1000", "e1000e"] = "virtio"
    forward: tuple[Forward, ...] = ()
    queues: Queues | None = None
    vhost: StrictBool | None = None
    zero_copy: StrictBool = False

    @property
    def has_queues(self) -> bool:
        """Whether it may have several queues, and vhost: others have one, served by QEMU."""
        return self.kind == "bridge" and self.model == "virtio"

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.kind == "bridge" and self.bridge is None:
            raise ValueError("kind 'bridge' needs bridge, the name of a bridge of the host")
        if self.kind == "user" and (self.bridge is not None or self.create_bridge):
            raise ValueError("kind 'user' takes no bridge")
        if self.kind == "bridge" and self.forward:
            raise ValueError("forward is for kind 'user'; a guest on a bridge is reached directly")
        asked = self.queues is not None or self.vhost is not None or self.zero_copy
        if asked and not self.has_queues:
            raise ValueError(
                "queues, vhost and zero_copy are for kind 'bridge' with model 'virtio'; others have"
                " one queue, which QEMU serves"
            )
        if self.zero_copy and self.vhost is False:
            raise ValueError("zero_copy needs vhost")
        return self


class Passthrough(_Model):
    """A PCI device of the host, given to the VM by VFIO. A VM that has one cannot be moved."""

    host: PciAddress


class Qemu(_Model):
    """How QEMU is run: `extra` goes to its command line last, `{instance}` in it is replaced by
    the folder of the instance."""

    binary: Text | None = None
    machine: Machine = "q35"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    extra: Annotated[tuple[Text, ...], AfterValidator(check_extra_arguments)] = ()


class VmSpec(_Model):
    """One VM. Sizes in bytes."""

    format: Literal[1] = 1
    name: Name
    cpu: Cpu = Cpu()
    memory: Memory
    boot: Boot = Boot()
    disk: tuple[Disk, ...] = ()
    scsi: Scsi | None = None
    nic: tuple[Nic, ...] = ()
    passthrough: tuple[Passthrough, ...] = ()
    testguest: PageWriterSettings | None = None
    qemu: Qemu = Qemu()

    @property
    def is_testguest(self) -> bool:
        return self.boot.kernel == TESTGUEST

    @property
    def iothreads(self) -> list[int]:
        """The numbers of all iothreads that its devices name."""
        served: list[Disk | Scsi] = [*self.disk, self.scsi or Scsi()]
        return sorted({number for one in served for number in one.iothreads or ()})

    @property
    def page_writer(self) -> PageWriterSettings:
        """The settings of the page writer; the defaults where the file says nothing."""
        return self.testguest or PageWriterSettings()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.boot.kernel is None and not self.disk:
            raise ValueError("nothing to boot: give boot.kernel or a [[disk]]")
        if self.testguest is not None and not self.is_testguest:
            raise ValueError(f"[testguest] needs boot.kernel = '{TESTGUEST}'")
        if self.scsi is not None and all(disk.interface != "scsi" for disk in self.disk):
            raise ValueError("[scsi] needs a [[disk]] with interface = 'scsi'")
        _refuse_twins("disk path", [disk.path for disk in self.disk if not disk.readonly])
        _refuse_twins("nic mac", [nic.mac for nic in self.nic if nic.mac])
        _refuse_twins("passthrough host", [one.host for one in self.passthrough])
        _refuse_twins(
            "forwarded port of the host",
            [f"{one.protocol} {one.host}" for nic in self.nic for one in nic.forward],
        )
        if self.is_testguest:
            self._check_testguest_fits()
        return self

    def _check_testguest_fits(self) -> None:
        if self.page_writer.disk and (not self.disk or self.disk[0].readonly):
            raise ValueError("testguest.disk needs a [[disk]] that can be written")
        owned = self.page_writer.owned_bytes
        size = self.memory.size
        room = size - TESTGUEST_OWN_BYTES - size // TESTGUEST_OWN_PART
        if owned > room:
            raise ValueError(
                f"the page writer owns {format_size(owned)}, which does not fit: memory.size"
                f" {format_size(size)} leaves it {format_size(max(room, 0))}"
            )


def _refuse_twins(what: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{what} {value} is there twice")


def load_spec(path: Path) -> VmSpec:
    """The VM that the TOML file `path` describes. Raises UsageError naming every problem."""
    data = _read_toml(path)
    name_given = "name" in data
    data.setdefault("name", path.stem)
    try:
        return VmSpec.model_validate(data, context={"folder": path.absolute().parent})
    except ValidationError as error:
        problems = describe(error, VmSpec)
    if not name_given:
        problems = [
            f"{problem} (it comes from the file's name: set name)"
            if problem.startswith("name:")
            else problem
            for problem in problems
        ]
    if len(problems) == 1:
        raise UsageError(f"{path}: {problems[0]}")
    listed = "".join(f"\n  {problem}" for problem in problems)
    raise UsageError(f"{path}: {len(problems)} problems{listed}")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder, not a VM specification")
        if not path.exists():
            raise UsageError(f"there is no file {path}")
        if not path.is_file():
            raise UsageError(f"{path} is not a regular file")
        if path.stat().st_size > SPEC_MAX_BYTES:
            raise UsageError(f"{path} is too large for a VM specification (at most 1 MiB)")
        text = path.read_bytes().decode()
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise UsageError(f"{path} is not a TOML file: it is not UTF-8 text") from None
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read {path}: {reason}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{path} is not valid TOML: it is nested too deeply") from None
