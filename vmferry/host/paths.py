"""Where things are kept, by the XDG base directory rules. Every folder is the user's own (0700)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vmferry.errors import UsageError


def state_dir() -> Path:
    """Durable state: the journal and what each VM is."""
    return _own(_base("XDG_STATE_HOME", ".local/state") / "vmferry")


def cache_dir() -> Path:
    """What can be built again: kernels and images of the test guest."""
    return _own(_base("XDG_CACHE_HOME", ".cache") / "vmferry")


def runtime_dir() -> Path:
    """Sockets and process records; short, since a socket's path has at most 107 bytes."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and Path(base).is_absolute():
        return _own(Path(base) / "vmferry")
    return _own(Path("/tmp") / f"vmferry-{os.getuid()}")


def journal_file() -> Path:
    return state_dir() / "journal.sqlite"


def vms_dir() -> Path:
    return _own(state_dir() / "vms")


def vm_dir(name: str) -> Path:
    """The folder of one VM; it may not exist."""
    return vms_dir() / name


def instances_dir() -> Path:
    return _own(runtime_dir() / "instances")


def locks_dir() -> Path:
    """Durable state: the runtime folder may differ between two logins, a lock must not."""
    return _own(state_dir() / "locks")


def _base(variable: str, default: str) -> Path:
    value = os.environ.get(variable)
    # The XDG specification says to ignore a relative path.
    return Path(value) if value and Path(value).is_absolute() else Path.home() / default


def _own(folder: Path) -> Path:
    """Make `folder` ours alone; a folder that another user planted is refused."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {folder}: {error.strerror}",
            hint="XDG_STATE_HOME, XDG_CACHE_HOME and XDG_RUNTIME_DIR say where things are kept",
        ) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UsageError(f"{folder} belongs to somebody else", hint="set XDG_RUNTIME_DIR")
    if stat.S_IMODE(status.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder
