"""Fetches and unpacks packages of this distribution, without root and without installing them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vmferry.errors import VmferryError

_PROVIDERS = {
    "gcc": "gcc libc6-dev",
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "readelf": "binutils",
    "zstd": "zstd",
}
# What most often helps where the tool is there and fails.
_REPAIRS = {
    "gcc": "sudo apt-get install gcc libc6-dev",
    "apt-get": "sudo apt-get update",
    "apt-cache": "sudo apt-get update",
}


class BuildError(VmferryError):
    """The test guest cannot be built; the hint is the command that provides what is missing."""


def run(command: Sequence[str], cwd: Path) -> bytes:
    """Standard output of a tool. Raises BuildError with the tool's own message."""
    if shutil.which(command[0]) is None:
        raise BuildError(
            f"the test guest cannot be built: there is no {command[0]}",
            hint=f"sudo apt-get install {_PROVIDERS[command[0]]}",
        )
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False
    )
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()
        raise BuildError(
            f"the test guest cannot be built: {' '.join(command[:2])} said: {message[-2000:]}",
            hint=_REPAIRS.get(command[0]),
        )
    return done.stdout


def dependencies(package: str, cwd: Path) -> list[str]:
    """The packages that `package` depends on; empty where the archive does not have it."""
    try:
        output = run(["apt-cache", "depends", "--no-recommends", "--no-suggests", package], cwd)
    except BuildError as error:
        if "No packages found" in error.message:
            return []
        raise
    lines = (line.strip().removeprefix("|") for line in output.decode().splitlines())
    return [line.removeprefix("Depends: ") for line in lines if line.startswith("Depends: ")]


def unpack(packages: Sequence[str], cwd: Path) -> Path:
    """Download `packages` and return the folder with all their files. Raises BuildError."""
    downloads, root = cwd / "downloads", cwd / "root"
    downloads.mkdir()
    # As root, apt would fetch as the user _apt, who may not write here, and warn about it.
    run(["apt-get", "-o", "APT::Sandbox::User=root", "download", *packages], downloads)
    for archive in sorted(downloads.glob("*.deb")):
        run(["dpkg-deb", "-x", str(archive), str(root)], cwd)
    return root
