"""vmferry's libraries and vmferry itself for the Python of another Debian, without running it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import shutil
import sys
import tomllib
from pathlib import Path

from lab.errors import LabError
from lab.tools import Toolbox, run

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
LIBRARIES = "lab/libraries"
CODE = "lab/code"

# Every wheel that runs with the C library of Debian 12 and later.
_PLATFORMS = tuple(
    f"manylinux_2_{minor}_x86_64" for minor in (36, 35, 34, 31, 28, 27, 26, 17, 12, 5)
)
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _needed() -> set[str]:
    """The names of all libraries that vmferry needs to run, and what those need."""
    found: set[str] = set()
    with (ROOT / "pyproject.toml").open("rb") as file:
        waiting: list[str] = tomllib.load(file)["project"]["dependencies"]
    while waiting:
        need = waiting.pop()
        match = _NAME.match(need)
        if match and "extra ==" not in need and _plain(match[0]) not in found:
            found.add(_plain(match[0]))
            # What is for other systems than this is not installed.
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                waiting += importlib.metadata.requires(match[0]) or []
    return found


def pinned(lock: str, names: set[str]) -> str:
    """The part of a lock file that pins these names, with its hashes."""
    entries = re.findall(r"^(?:[^#\s].*\n)(?:    .*\n?)*", lock, re.MULTILINE)
    kept = [entry for entry in entries if _plain(_NAME.match(entry)[0]) in names]  # type: ignore[index]
    return "".join(kept)


def install_libraries(root: Path, toolbox: Toolbox, work: Path) -> None:
    """Put vmferry's libraries, as locked, into a root file system. Raises LabError."""
    version = python_version(root)
    wanted = work / "requirements.txt"
    wanted.write_text(pinned(LOCK.read_text(), _needed()))
    platforms = [word for one in _PLATFORMS for word in ("--platform", one)]
    run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-input", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile"),
            *("--implementation", "cp", "--python-version", version, *platforms),
            *("--target", str(root / LIBRARIES), "-r", str(wanted)),
        ],
        hint="vmferry's libraries for the lab's Python come from where pip gets its packages",
    )
    compile_all(root, [f"usr/lib/python{version}", LIBRARIES], toolbox)


def install_code(root: Path, toolbox: Toolbox) -> None:
    """Put vmferry's code, as it is in this checkout now, into a folder. Raises LabError."""
    shutil.copytree(
        ROOT / "vmferry", root / CODE / "vmferry", ignore=shutil.ignore_patterns("__pycache__")
    )
    compile_all(root, [CODE], toolbox)


def compile_all(root: Path, folders: list[str], toolbox: Toolbox) -> None:
    """Compile Python files for the toolbox's Python: on the emulated host it takes ten times as
    long, and again in each new host."""
    program = f"usr/bin/python{python_version(toolbox.root)}"
    where = [str(root / folder) for folder in folders]
    options = ["-q", "--invalidation-mode", "unchecked-hash"]
    toolbox.run(program, "-m", "compileall", *options, "-s", root, "-p", "/", *where)


def python_version(root: Path) -> str:
    """Such as `3.13`. Raises LabError where the root file system has no Python."""
    link = root / "usr/bin/python3"
    if not link.is_symlink():
        raise LabError(f"there is no Python in {root}")
    return link.readlink().name.removeprefix("python")
