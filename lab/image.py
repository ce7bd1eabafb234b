"""Builds what hosts and guests boot, from Debian packages, into the cache. No root needed.

A build is kept under the hash of everything of ours that goes into it, and is used without asking
the archive again: it works offline and stays the same. It appears in one step when all of it is
there; of an interrupted one nothing is ever used.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import debian, places, python_parts
from lab.archive import Archive
from lab.errors import LabError
from lab.kernel import plain_kernel
from lab.tools import Toolbox, run
from vmferry.testguest import cpio
from vmferry.testguest.modules import ModuleTree

Say = Callable[[str], None]

SUITE = "trixie"
_BASE = (
    *("base-files", "base-passwd", "bash", "busybox-static", "coreutils", "dash", "debianutils"),
    *("ethtool", "findutils", "grep", "hostname", "iperf3", "iproute2", "iputils-ping", "kmod"),
    *("libc-bin", "mawk", "mount", "pciutils", "procps", "python3", "sed", "util-linux"),
)
_HOST = (
    *_BASE,
    *("bpftrace", "cpio", "diffutils", "e2fsprogs", "gzip", "less", "lz4", "psmisc", "socat"),
    *("qemu-system-x86", "qemu-utils", "strace", "tar", "tcpdump", "xz-utils"),
)
_HOST_KERNEL = "linux-image-amd64"
_GUEST_KERNEL = "linux-image-cloud-amd64"
_HOST_DISK = 8 * 1024**3
# ext4 asks for crc32c by name only.
_HOST_BOOT_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
_GUEST_BOOT_MODULES = (*_HOST_BOOT_MODULES, "virtio_scsi", "sd_mod", "overlay")
_INSIDE = ("__init__.py", "agent.py", "client.py", "frames.py", "guests.py")
_COMPILE = ("gcc", "-std=gnu17", "-O2", "-static", "-pthread")
_FORMAT = 1
_KEPT = 3
_IN_USE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Image:
    """A finished build: what QEMU boots a host from, and the emulator itself."""

    folder: Path

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def toolbox(self) -> Toolbox:
        return Toolbox(self.folder / "root")

    @property
    def kernel(self) -> Path:
        return self.folder / "host-vmlinux"

    @property
    def initrd(self) -> Path:
        return self.folder / "host-initrd"

    @property
    def disk(self) -> Path:
        return self.folder / "host.ext4"


def find() -> Image | None:
    """The build of these sources, where it is in the cache."""
    image = Image(places.cache() / _key())
    parts = (image.folder / "lab.json", image.kernel, image.initrd, image.disk, image.toolbox.root)
    return image if all(part.exists() for part in parts) else None


def build(say: Say) -> Image:
    """The build of these sources, from the cache or made now. Raises LabError."""
    if platform.machine() != "x86_64":
        raise LabError(f"the lab is for x86-64; this machine is {platform.machine()}")
    image = find()
    if image is not None:
        with contextlib.suppress(OSError):
            image.folder.touch()
        return image
    with locked("build", say, "another build of the lab is under way: waiting for it"):
        image = find()  # another builder was faster
        if image is None:
            _sweep()
            with tempfile.TemporaryDirectory(dir=places.cache(), prefix="building-") as work:
                done = _build(Path(work), say)
                target = places.cache() / _key()
                # What lies there lacks a part: somebody took it away.
                shutil.rmtree(target, ignore_errors=True)
                done.rename(target)
            image = Image(target)
            forget_others(image)
    return image


def clean() -> int:
    """Remove all builds and prepared states; returns their bytes. No lab may run."""
    size = sum(
        path.lstat().st_blocks * 512 for path in places.cache().rglob("*") if not path.is_symlink()
    )
    with locked("build", lambda _: None, ""):
        for path in places.cache().iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix != ".lock":
                path.unlink()
    return size


@contextlib.contextmanager
def locked(name: str, say: Say, waiting: str) -> Iterator[None]:
    """Hold a lock of the cache; says `waiting` where somebody else has it."""
    with (places.cache() / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _key() -> str:
    here = Path(__file__).parent
    names = ("archive.py", "debian.py", "image.py", "kernel.py", "python_parts.py", "tools.py")
    files = [*(here / name for name in names), *(here / "inside").glob("*.*"), python_parts.LOCK]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        data = file.read_bytes()
        digest.update(f"{file.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]


def forget_others(image: Image) -> None:
    """Keep this build and the three used last: other checkouts may have builds of their own.

    None goes that was used within the hour, since a host may be starting from it.
    """
    builds = [path.parent for path in places.cache().glob("*/lab.json")]
    others = sorted(
        (one for one in builds if one != image.folder), key=lambda one: one.stat().st_mtime
    )
    for old in others[:-_KEPT]:
        if time.time() - old.stat().st_mtime > _IN_USE_SECONDS:
            shutil.rmtree(old, ignore_errors=True)


def _sweep() -> None:
    """Remove what killed builders left; the lock is held."""
    for path in places.cache().glob("building-*"):
        shutil.rmtree(path, ignore_errors=True)


def _build(work: Path, say: Say) -> Path:
    say(f"building the lab, once: asking the Debian mirror for {SUITE}")
    archive = Archive(SUITE, work / "apt")
    host_kernel, guest_kernel = (archive.kernel(one) for one in (_HOST_KERNEL, _GUEST_KERNEL))
    host, guest = archive.closure(*_HOST), archive.closure(*_BASE)
    names = sorted({*host, *guest, host_kernel, guest_kernel})
    say(f"fetching {len(names)} packages")
    downloads = work / "packages"
    archive.download(names, downloads)

    def files(wanted: list[str]) -> list[Path]:
        by_name = {file.name.partition("_")[0]: file for file in downloads.glob("*.deb")}
        return [by_name[name] for name in wanted]

    result = work / "result"
    result.mkdir()
    say("unpacking them")
    root, guest_root = result / "root", work / "guest"
    debian.unpack(files([*host, host_kernel]), root)
    debian.unpack(files([*guest, guest_kernel]), guest_root)
    toolbox = Toolbox(root)
    say("preparing Python")
    python_parts.install_libraries(root, toolbox, work)
    version = python_parts.python_version(root)
    compiled, plain = (one / f"usr/lib/python{version}" for one in (root, guest_root))
    shutil.rmtree(plain)
    shutil.copytree(compiled, plain, symlinks=True)

    say("making the images")
    inside = root / "lab"
    inside.mkdir(exist_ok=True)
    _kernel(guest_root, guest_kernel, toolbox, inside / "guest-vmlinux", work)
    debian.prepare_modules(guest_root, _version(guest_kernel), toolbox)
    (inside / "guest-initrd").write_bytes(
        _initrd(guest_root, _version(guest_kernel), _GUEST_BOOT_MODULES)
    )
    _install_inside(guest_root, "guest-init.sh", toolbox)
    size = debian.room_for(guest_root)
    debian.make_image(guest_root, inside / "guest.ext4", "labguest", size, toolbox)

    _kernel(root, host_kernel, toolbox, result / "host-vmlinux", work)
    debian.prepare_modules(root, _version(host_kernel), toolbox)
    (result / "host-initrd").write_bytes(_initrd(root, _version(host_kernel), _HOST_BOOT_MODULES))
    _install_inside(root, "host-init.sh", toolbox)
    debian.make_image(root, result / "host.ext4", "labhost", _HOST_DISK, toolbox)
    for part in (inside, root / "usr/lib/modules"):
        shutil.rmtree(part)  # only hosts have use for it
    record = {"format": _FORMAT, "suite": SUITE, "host": host_kernel, "guest": guest_kernel}
    (result / "lab.json").write_text(json.dumps(record))
    return result


def _version(kernel_package: str) -> str:
    return kernel_package.removeprefix("linux-image-")


def _kernel(root: Path, package: str, toolbox: Toolbox, target: Path, work: Path) -> None:
    def unpack_lz4(data: bytes) -> bytes:
        packed, plain = work / "kernel.lz4", work / "kernel"
        packed.write_bytes(data)
        toolbox.run("usr/bin/lz4", "-d", "-f", "-q", packed, plain)
        return plain.read_bytes()

    packed = root / "boot" / f"vmlinuz-{_version(package)}"
    target.write_bytes(plain_kernel(packed.read_bytes(), unpack_lz4))
    packed.unlink()


def _initrd(root: Path, version: str, modules: tuple[str, ...]) -> bytes:
    """What finds the root file system and goes on there."""
    tree = ModuleTree(root / "usr/lib/modules" / version)
    order = tree.load_order(*modules)
    files = {
        "init": (Path(__file__).parent / "inside" / "boot-init.sh").read_bytes(),
        "bin/busybox": (root / "usr/bin/busybox").read_bytes(),
        "modules/order": "".join(f"{name}\n" for name in order).encode(),
        **{f"modules/{name}.ko": tree.contents(name) for name in order},
    }
    executable = frozenset(("init", "bin/busybox"))
    links = {"bin/sh": "busybox"}
    return gzip.compress(cpio.pack(files, links, executable), 1, mtime=0)


def _install_inside(root: Path, init: str, toolbox: Toolbox) -> None:
    """The lab's own files in a root file system: its first program, the agent and its client."""
    source = Path(__file__).parent / "inside"
    package = root / "lab/python/lab/inside"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text('"""What the lab brings into its machines."""\n')
    for name in _INSIDE:
        shutil.copyfile(source / name, package / name)
    programs = root / "usr/local/bin"
    programs.mkdir(parents=True, exist_ok=True)
    run([*_COMPILE, "-o", programs / "labload", source / "labload.c"])
    scripts = {root / "lab/init": init}
    if init == "host-init.sh":
        scripts |= {programs / name: f"{name}.sh" for name in ("labguest", "vmferry")}
    for target, name in scripts.items():
        shutil.copyfile(source / name, target)
        target.chmod(0o755)
    python_parts.compile_all(root, ["lab/python"], toolbox)
