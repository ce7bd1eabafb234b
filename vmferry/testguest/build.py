"""Builds the test guest: a distribution's kernel, busybox and our page writer. No root needed.

The result is cached under the hash of everything of ours that goes into it. A cached build is used
without asking the package archive: it works offline, and its kernel stays the same.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import platform
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from vmferry.host import paths
from vmferry.testguest import cpio
from vmferry.testguest.modules import ModuleTree
from vmferry.testguest.packages import BuildError, dependencies, run, unpack
from vmferry.testguest.settings import PageWriterSettings

# The first that the package archive has is taken. Debian's cloud kernel boots fastest: it has no
# drivers for real hardware.
_KERNEL_PACKAGES = (
    "linux-image-cloud-amd64",
    "linux-image-amd64",
    "linux-image-virtual",
    "linux-image-generic",
)
_PARTS = ("linux-modules-", "linux-binary-")
# What init loads: `pci` always, the others by virtio device type where such a device is there.
_DRIVERS = {
    "pci": ("virtio_pci",),
    "virtio-1": ("virtio_net",),
    "virtio-2": ("virtio_blk",),
    "virtio-3": ("virtio_console",),
    "virtio-4": ("virtio_rng",),
    "virtio-5": ("virtio_balloon",),
    "virtio-8": ("virtio_scsi", "sd_mod"),
}
_KERNEL_WORDS = (
    "console=ttyS0",
    "quiet",
    "oops=panic",  # an oops may be the only trace of a lost page
    "nokaslr",
    "mitigations=off",
    "random.trust_cpu=on",
    # The kernel mistrusts the time stamp counter of TCG and would read the HPET, which costs an
    # exit and QEMU's big lock each time: beats were up to 25 ms late instead of 5 ms.
    "tsc=reliable",
)
_BUILDER_FILES = ("build.py", "cpio.py", "modules.py", "packages.py")
_COMPILE = ("gcc", "-std=gnu17", "-O2", "-Wall", "-static", "-pthread")


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What QEMU boots: `-kernel` and `-initrd`."""

    kernel: Path
    initrd: Path
    kernel_version: str


def build() -> GuestImage:
    """The test guest of these sources, from the cache or built now. Raises BuildError."""
    if platform.machine() != "x86_64":
        raise BuildError(f"the test guest is for x86_64; this machine is {platform.machine()}")
    folder = paths.cache_dir() / "testguest"
    folder.mkdir(exist_ok=True)
    place = folder / _key()
    if not place.exists():
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.exists():  # else another builder was faster
                with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as work:
                    _build(Path(work)).rename(place)
    record = json.loads((place / "image.json").read_text())
    return GuestImage(place / "vmlinuz", place / "initrd", record["kernel_version"])


def kernel_command_line(settings: PageWriterSettings, extra: str = "") -> str:
    """The words for `-append`: a quiet serial console, the page writer's settings, then `extra`."""
    fixed = " ".join(_KERNEL_WORDS)
    words = (f"pagewriter.{key}={value}" for key, value in settings.wire().items())
    return " ".join((fixed, *words, *extra.split()))


def _key() -> str:
    package = resources.files("vmferry.testguest")
    files = [*(package / "guest").iterdir(), *(package / name for name in _BUILDER_FILES)]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        data = file.read_bytes()
        digest.update(f"{file.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]


def _build(work: Path) -> Path:
    """Build in the folder `work` and return the finished folder in it."""
    kernel_package, parts = _kernel_packages(work)
    programs = _compile(work)
    root = unpack([*parts, "busybox-static"], work)
    version = kernel_package.removeprefix("linux-image-")
    tree = ModuleTree(root)
    kernel = _first(root, f"boot/vmlinuz-{version}", f"usr/lib/modules/{version}/vmlinuz")
    busybox = _first(root, "bin/busybox", "usr/bin/busybox")

    applets = run([str(busybox), "--list"], work).decode().split()
    links = {f"bin/{name}": "busybox" for name in applets if name != "busybox"}
    files = {
        "init": programs["init"],
        "bin/pagewriter": programs["pagewriter"],
        "bin/busybox": busybox.read_bytes(),
    }
    executable = frozenset(files)
    for what, drivers in _DRIVERS.items():
        order = tree.load_order(*drivers)
        files[f"modules/{what}"] = "".join(f"{name}\n" for name in order).encode()
        files |= {f"modules/{name}.ko": tree.contents(name) for name in order}

    result = work / "result"
    result.mkdir()
    (result / "vmlinuz").write_bytes(kernel.read_bytes())
    (result / "initrd").write_bytes(gzip.compress(cpio.pack(files, links, executable), 1, mtime=0))
    (result / "image.json").write_text(json.dumps({"format": 1, "kernel_version": version}))
    return result


def _kernel_packages(work: Path) -> tuple[str, list[str]]:
    """The kernel's package and all that hold its parts, which are others in some releases."""
    for meta in _KERNEL_PACKAGES:
        for image in dependencies(meta, work):
            if image.startswith("linux-image-"):
                parts = dependencies(image, work)
                return image, [image, *(part for part in parts if part.startswith(_PARTS))]
    raise BuildError(
        f"the package archive has none of {', '.join(_KERNEL_PACKAGES)}",
        hint="sudo apt-get update",
    )


def _first(root: Path, *names: str) -> Path:
    """The first of `names` that the packages held."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise BuildError(f"the packages of this distribution have no {' and no '.join(names)}")


def _compile(work: Path) -> dict[str, bytes]:
    """init.c is one program and all the other sources are the other one."""
    programs = work / "programs"
    programs.mkdir()
    for source in (resources.files("vmferry.testguest") / "guest").iterdir():
        (programs / source.name).write_bytes(source.read_bytes())
    writer = sorted(file.name for file in programs.glob("*.c") if file.name != "init.c")
    run([*_COMPILE, "-o", "init", "init.c"], programs)
    run([*_COMPILE, "-o", "pagewriter", *writer], programs)
    return {name: (programs / name).read_bytes() for name in ("init", "pagewriter")}
