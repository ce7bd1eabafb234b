"""What each layer of tests needs from the machine. A missing part fails the run, never skips."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Component:
    """A program that tests start, and the Debian package that has it."""

    program: str
    package: str


REPOSITORY = (Component("git", "git"), Component("bash", "bash"))
GUEST = (
    Component("qemu-system-x86_64", "qemu-system-x86"),
    Component("qemu-img", "qemu-utils"),
    Component("gcc", "gcc"),
    Component("dpkg-deb", "dpkg"),
    Component("ip", "iproute2"),
    Component("apt-get", "apt"),
    Component("zstd", "zstd"),
    Component("unshare", "util-linux"),
)

BY_LAYER = {"pure": REPOSITORY, "qemu": GUEST, "lab": GUEST}


def missing(layers: Iterable[str]) -> list[Component]:
    """What the given layers need and this machine lacks, in a fixed order."""
    needed = dict.fromkeys(part for layer in sorted(layers) for part in BY_LAYER[layer])
    return [part for part in needed if shutil.which(part.program) is None]


def complaint(parts: list[Component]) -> str:
    """What is missing and the command that installs it."""
    programs = ", ".join(part.program for part in parts)
    packages = " ".join(dict.fromkeys(part.package for part in parts))
    return (
        f"the chosen tests need {programs}; install: "
        f"apt-get install --no-install-recommends {packages} (or run ./dev setup)"
    )
