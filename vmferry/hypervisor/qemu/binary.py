"""What the QEMU program on this host is: where, which version, what its machine names stand for."""

from __future__ import annotations

import functools
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vmferry.errors import UsageError

Version = tuple[int, int, int]

_ARCHITECTURES = {"arm64": "aarch64", "i686": "x86_64"}
_VERSION = re.compile(r"version (\d+)\.(\d+)\.(\d+)")
_ALIAS = re.compile(r"^(\S+)\s.*\(alias of (\S+?)\)", re.MULTILINE)
_STORAGE = ("virtio-blk-pci", "virtio-scsi-pci")
_ASK_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Binary:
    """A QEMU program. `aliases` maps `q35` to `pc-q35-7.2`."""

    path: str
    version: Version
    aliases: dict[str, str]


def find_binary(name: str | None) -> Binary:
    """The program `name` (a path or a name on PATH; None is this machine's own architecture).

    Raises UsageError where it is missing or is no QEMU.
    """
    machine = platform.machine()
    wanted = name or f"qemu-system-{_ARCHITECTURES.get(machine, machine)}"
    path = shutil.which(wanted)
    if path is None:
        raise UsageError(
            f"there is no program {wanted}",
            hint="install QEMU (on Debian and Ubuntu: apt install qemu-system-x86), or set "
            "qemu.binary in the specification",
        )
    path = str(Path(path).absolute())
    return _ask(path, Path(path).stat().st_mtime_ns)


def spreading_models(path: str) -> frozenset[str]:
    """The storage devices whose queues this QEMU can spread over several iothreads. Raises
    UsageError."""
    return _ask_spreading(path, Path(path).stat().st_mtime_ns)


@functools.cache
def _ask_spreading(path: str, _changed: int) -> frozenset[str]:
    found = {model: _run(path, "-device", f"{model},help") for model in _STORAGE}
    return frozenset(model for model, text in found.items() if "iothread-vq-mapping=" in text)


@functools.cache
def _ask(path: str, _changed: int) -> Binary:
    found = _VERSION.search(_run(path, "--version"))
    if found is None:
        raise UsageError(f"{path} is not a QEMU: `{path} --version` tells no version")
    version = (int(found[1]), int(found[2]), int(found[3]))
    return Binary(path, version, dict(_ALIAS.findall(_run(path, "-machine", "help"))))


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASK_SECONDS,
            check=False,
        )
    except OSError as error:
        raise UsageError(f"cannot run {command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"`{' '.join(command)}` does not end") from None
    return done.stdout
