"""The kinds of value in a VM specification, each with the check and the words of its error.

Paths are resolved against the `folder` of the validation context and must exist; without a
context (a specification read back from JSON) they are taken as they are, since the VM may run on
when a file has gone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, ValidationInfo

from vmferry.units import GIB, MIB, UnitError, format_size, parse_size

# Of the hosts that matter here, and of VT-d's second-stage tables too.
PAGE_SIZES = (2 * MIB, GIB)
NAME_RULE = "1 to 64 letters, digits, '.', '_' or '-', the first one a letter or digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_CPU_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+-]*", re.ASCII)
_MACHINE = re.compile(r"[a-z0-9][a-z0-9.-]{0,40}", re.ASCII)
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)
_PCI = re.compile(r"([0-9a-f]{4}:)?([0-9a-f]{2}:[01][0-9a-f]\.[0-7])", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)


def check_name(text: str) -> str:
    """`text` itself where it may name a VM: it becomes part of paths. Raises ValueError."""
    if _NAME.fullmatch(text) is None:
        shown = text if len(text) <= 70 else text[:67] + "..."
        raise ValueError(f"{shown!r} is no VM name; allowed: {NAME_RULE}")
    return text


def _text(text: str) -> str:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise ValueError(f"{text!r} has control characters in it")
    if not text:
        raise ValueError("is empty")
    return text


def _size(value: object) -> object:
    if isinstance(value, str):
        try:
            return parse_size(value)
        except UnitError as error:
            raise ValueError(str(error)) from None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is not a size such as '512MiB', '1GiB' or 4096")


def _matches(pattern: re.Pattern[str], allowed: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise ValueError(f"{text!r} is not {allowed}")
        return text

    return check


def _mac(text: str) -> str:
    lowered = text.lower()
    if _MAC.fullmatch(lowered) is None:
        raise ValueError(f"{text!r} is not a MAC address such as '52:54:00:12:34:56'")
    if int(lowered[:2], 16) & 1:
        raise ValueError(f"{text!r} is a group address; the first byte must be even")
    return lowered


def _pci(text: str) -> str:
    """With its domain, as /sys/bus/pci/devices has it."""
    match = _PCI.fullmatch(text.lower())
    if match is None:
        raise ValueError(f"{text!r} is not a PCI address such as '0000:01:00.0' (`lspci -D`)")
    return f"{match[1] or '0000:'}{match[2]}"


def _page_size(size: int) -> int:
    if size not in PAGE_SIZES:
        allowed = " or ".join(format_size(one).replace(" ", "") for one in PAGE_SIZES)
        raise ValueError(f"{format_size(size)} is no size of huge pages; allowed: {allowed}")
    return size


def _once_each(values: tuple[int, ...]) -> tuple[int, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value} is there twice")
    return values


def _resolve(text: str, info: ValidationInfo) -> Path | None:
    """The absolute path that the file means, or None where nothing is to be checked."""
    _text(text)
    folder = (info.context or {}).get("folder")
    if folder is None:
        return None
    try:
        return Path(os.path.normpath(Path(folder) / Path(text).expanduser()))
    except RuntimeError as error:
        raise ValueError(f"{text!r}: {error}") from None


def _existing(path: Path, *, folder: bool) -> str:
    try:
        if not path.exists():
            raise ValueError(f"there is no {'folder' if folder else 'file'} {path}")
        if folder and not path.is_dir():
            raise ValueError(f"{path} is not a folder")
        if not folder and path.is_dir():
            raise ValueError(f"{path} is a folder, not a file")
    except OSError as error:
        raise ValueError(f"cannot look at {path}: {error.strerror}") from None
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} cannot be read by this user")
    return str(path)


def _existing_file(text: str, info: ValidationInfo) -> str:
    path = _resolve(text, info)
    return text if path is None else _existing(path, folder=False)


def _existing_folder(text: str, info: ValidationInfo) -> str:
    path = _resolve(text, info)
    return text if path is None else _existing(path, folder=True)


def _kernel(text: str, info: ValidationInfo) -> str:
    return text if text == "testguest" else _existing_file(text, info)


Name = Annotated[str, AfterValidator(check_name)]
Text = Annotated[str, AfterValidator(_text)]
Size = Annotated[StrictInt, BeforeValidator(_size)]
Count = Annotated[StrictInt, Field(ge=1, le=255)]
# A tap has at most as many (MAX_TAP_QUEUES of the kernel).
Queues = Annotated[StrictInt, Field(ge=1, le=256)]
Places = Annotated[
    tuple[Annotated[StrictInt, Field(ge=0, le=65535)], ...], AfterValidator(_once_each)
]
PageSize = Annotated[Size, AfterValidator(_page_size)]
Port = Annotated[StrictInt, Field(ge=1, le=65535)]
CpuModel = Annotated[
    str, AfterValidator(_matches(_CPU_MODEL, "a CPU model such as 'max' or 'host,-avx'"))
]
Machine = Annotated[str, AfterValidator(_matches(_MACHINE, "a QEMU machine such as 'q35'"))]
Interface = Annotated[
    str, AfterValidator(_matches(_INTERFACE, "a name of a network interface such as 'br0'"))
]
MacAddress = Annotated[str, AfterValidator(_mac)]
PciAddress = Annotated[str, AfterValidator(_pci)]
ExistingFile = Annotated[str, AfterValidator(_existing_file)]
ExistingFolder = Annotated[str, AfterValidator(_existing_folder)]
Kernel = Annotated[str, AfterValidator(_kernel)]
