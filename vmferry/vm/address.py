"""How the user names a VM and the place it shall go to.

A VM: `NAME` or `qmp:PATH`. A destination: `local`, `tcp:HOST:PORT` or `unix:PATH`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from vmferry.errors import UsageError
from vmferry.vm.fields import check_name

VM_RULE = "the name of a VM (`vmferry ls`) or qmp:PATH, the QMP socket of any QEMU"
DESTINATION_RULE = "local, tcp:HOST:PORT or unix:PATH"

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?", re.ASCII)
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?", re.ASCII)
_SOCKET_PATH_MAX = 107


@dataclass(frozen=True, slots=True)
class VmName:
    """A VM that vmferry runs."""

    name: str

    @property
    def key(self) -> str:
        """What a move of it locks."""
        return self.name


@dataclass(frozen=True, slots=True)
class QmpAddress:
    """Any QEMU, by its QMP socket. `path` is absolute."""

    path: Path

    @property
    def key(self) -> str:
        """What a move of it locks: the same for every name of one socket."""
        return f"qmp:{os.path.realpath(self.path)}"


VmAddress = VmName | QmpAddress


@dataclass(frozen=True, slots=True)
class Local:
    """A second instance on this host."""


@dataclass(frozen=True, slots=True)
class Tcp:
    """Where a QEMU waits with `-incoming`. `host` has no brackets."""

    host: str
    port: int

    @property
    def uri(self) -> str:
        """As QEMU's migrate takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Unix:
    """A socket where a QEMU waits with `-incoming`. `path` is absolute."""

    path: Path

    @property
    def uri(self) -> str:
        return f"unix:{self.path}"


Destination = Local | Tcp | Unix


def parse_vm(text: str) -> VmAddress:
    """The VM that `text` names. Whether it exists is not looked at. Raises UsageError."""
    scheme, colon, rest = text.partition(":")
    if not colon:
        try:
            return VmName(check_name(text))
        except ValueError as error:
            raise UsageError(str(error)) from None
    if scheme == "qmp":
        path = _socket_path("qmp", rest)
        if "/libvirt/" in os.path.realpath(path):
            raise UsageError(
                f"{path} is the socket of a VM that libvirt manages",
                hint="name it as libvirt:URI#DOMAIN once vmferry can attach to libvirt",
            )
        return QmpAddress(path)
    if scheme == "libvirt":
        raise UsageError(f"{_shown(text)}: vmferry cannot attach to libvirt yet")
    raise UsageError(f"{_shown(text)} is not a VM; allowed: {VM_RULE}")


def parse_destination(text: str) -> Destination:
    """The place that `text` names. Raises UsageError."""
    if text == "local":
        return Local()
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "tcp":
        return _tcp(text, rest)
    if colon and scheme == "unix":
        path = _socket_path("unix", rest)
        if "," in str(path):
            raise UsageError(f"{_shown(text)}: QEMU takes no comma in the path of a socket")
        return Unix(path)
    if colon and scheme in ("ssh", "libvirt"):
        raise UsageError(
            f"{_shown(text)}: vmferry cannot move a VM to {scheme}: yet; allowed: "
            f"{DESTINATION_RULE}"
        )
    raise UsageError(f"{_shown(text)} is not a destination; allowed: {DESTINATION_RULE}")


def _tcp(text: str, rest: str) -> Tcp:
    host, _, port = rest.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    pattern = _IPV6 if bracketed else _HOST
    if pattern.fullmatch(host) is None or (bracketed and ":" not in host):
        raise UsageError(f"{_shown(text)} is not like tcp:HOST:PORT or tcp:[IPV6]:PORT")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise UsageError(f"{_shown(text)} names no port; allowed: 1 to 65535")
    return Tcp(host, int(port))


def _socket_path(scheme: str, text: str) -> Path:
    if not text:
        raise UsageError(f"{scheme}: needs the path of a socket, such as {scheme}:/run/vm.sock")
    if not text.isprintable():
        raise UsageError(f"{scheme}:{_shown(text)}: the path has control characters in it")
    path = Path(text).absolute()
    if len(bytes(path)) > _SOCKET_PATH_MAX:
        raise UsageError(
            f"{scheme}:{_shown(text)}: the path of a socket has at most {_SOCKET_PATH_MAX} bytes"
        )
    return path


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
