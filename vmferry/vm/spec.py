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
    model_validator,
)

from vmferry.errors import UsageError
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import KIB, MIB, format_size
from vmferry.vm.extra_arguments import check_extra_arguments
from vmferry.vm.fields import (
    Count,
    CpuModel,
    ExistingFile,
    ExistingFolder,
    Interface,
    Kernel,
    MacAddress,
    Machine,
    Name,
    Port,
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
    """`model` is QEMU's; without it `host` under KVM and `max` under TCG."""

    count: Count = 1
    model: CpuModel | None = None


def _check_ram(size: int) -> int:
    if not MIB <= size <= 64 * 1024**4:
        raise ValueError(f"{format_size(size)} is out of range; allowed: 1MiB to 64TiB")
    if size % RAM_STEP:
        raise ValueError(f"{size} bytes is not a multiple of 8KiB")
    return size


class Memory(_Model):
    """Guest RAM. `path` is a folder: each instance makes its own unnamed file in it.

    So two instances on one host never share RAM, which would ruin the running one.
    """

    size: Annotated[Size, AfterValidator(_check_ram)]
    backend: Literal["ram", "memfd", "file", "hugepages"] = "ram"
    path: ExistingFolder | None = None

    @model_validator(mode="after")
    def _path_fits_backend(self) -> Self:
        if self.backend == "file" and self.path is None:
            raise ValueError("backend 'file' needs path, a folder for the RAM's file")
        if self.backend in ("ram", "memfd") and self.path is not None:
            raise ValueError(f"backend '{self.backend}' takes no path; allowed: file, hugepages")
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

    No NVMe: QEMU cannot migrate it.
    """

    path: ExistingFile
    format: Literal["raw", "qcow2"] = "raw"
    interface: Literal["virtio", "scsi"] = "virtio"
    cache: Literal["writeback", "none", "unsafe"] = "writeback"
    readonly: StrictBool = False


class Forward(_Model):
    """A port of the host's loopback address that leads to a port of the guest."""

    host: Port
    guest: Port
    protocol: Literal["tcp", "udp"] = "tcp"


class Nic(_Model):
    """A network card: QEMU's own user network, or a tap on a bridge of the host.

    Without `mac`, one that follows from the VM's name and the card's place.
    """

    kind: Literal["user", "bridge"] = "user"
    bridge: Interface | None = None
    mac: MacAddress | None = None
    model: Literal["virtio", "e1000", "e1000e"] = "virtio"
    forward: tuple[Forward, ...] = ()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.kind == "bridge" and self.bridge is None:
            raise ValueError("kind 'bridge' needs bridge, the name of a bridge of the host")
        if self.kind == "user" and self.bridge is not None:
            raise ValueError("kind 'user' takes no bridge")
        if self.kind == "bridge" and self.forward:
            raise ValueError("forward is for kind 'user'; a guest on a bridge is reached directly")
        return self


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
    nic: tuple[Nic, ...] = ()
    testguest: PageWriterSettings | None = None
    qemu: Qemu = Qemu()

    @property
    def is_testguest(self) -> bool:
        return self.boot.kernel == TESTGUEST

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
        _refuse_twins("disk path", [disk.path for disk in self.disk if not disk.readonly])
        _refuse_twins("nic mac", [nic.mac for nic in self.nic if nic.mac])
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
