"""Where the lab keeps things, beside vmferry's own folders."""

from __future__ import annotations

from pathlib import Path

from vmferry.host import paths

# The lab of `./dev lab`; those of tests and benches have names of their own.
COMMON = "lab"


def cache() -> Path:
    """Images and prepared states: all of it can be built again."""
    return _made(paths.cache_dir() / "lab")


def state(name: str) -> Path:
    """The disks of one lab's hosts; they may grow to gigabytes. It may not exist."""
    return _made(paths.state_dir() / "labs") / name


def runtime(name: str) -> Path:
    """The sockets, locks and records of one lab. It may not exist."""
    return _made(paths.runtime_dir() / "labs") / name


def names() -> list[str]:
    """Every lab that has left anything, whether it runs or not."""
    folders = (paths.state_dir() / "labs", paths.runtime_dir() / "labs")
    found = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
    return sorted(name for name in found if not name.startswith("."))


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
