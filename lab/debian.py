"""Makes a root file system from unpacked packages, without root and without their scripts.

No service manager and no user but root is there, so what the packages' own scripts would do comes
down to a few files.
"""

from __future__ import annotations

import concurrent.futures
import lzma
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from lab.errors import LabError
from lab.tools import Toolbox

_MERGED = ("bin", "sbin", "lib", "lib64")
_LEFT_OUT = (
    *("./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/info"),
    *("./usr/share/lintian", "./usr/share/bash-completion", "./usr/lib/python3*/test"),
)
_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", "mnt", "etc", "var/lib", "var/tmp")
_FILES = {
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/fstab": "",
}
_ALTERNATIVES = {
    "usr/bin/awk": "mawk",
    "usr/bin/which": "which.debianutils",
    "usr/bin/sh": "dash",
    "usr/bin/pager": "more",
}
# Drivers that neither an emulated host nor its guest has devices for.
_UNUSED_MODULES = (
    *("sound", "drivers/gpu", "drivers/media", "drivers/staging", "drivers/infiniband"),
    *("drivers/usb", "drivers/hid", "drivers/input", "drivers/iio", "drivers/bluetooth"),
    *(
        "drivers/net/wireless",
        "drivers/isdn",
        "drivers/comedi",
        "drivers/firewire",
        "drivers/hwmon",
    ),
    *("drivers/video", "drivers/mtd", "drivers/platform", "drivers/i2c", "drivers/leds"),
    *("drivers/thunderbolt", "drivers/nfc", "drivers/regulator", "drivers/power", "drivers/mmc"),
    *("net/wireless", "net/mac80211", "net/bluetooth", "net/nfc", "net/can", "drivers/net/can"),
    *("fs/xfs", "fs/btrfs", "fs/ocfs2", "fs/gfs2", "fs/ceph", "fs/nfs", "fs/nfsd", "fs/smb"),
    *("fs/bcachefs", "fs/jfs", "fs/f2fs", "fs/reiserfs", "fs/afs", "fs/orangefs"),
)
_ETHERNET = "drivers/net/ethernet"
_USED_ETHERNET = ("intel",)


def unpack(packages: Iterable[Path], root: Path) -> None:
    """Unpack package files into a new folder. Raises LabError."""
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in _FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(max_workers=3) as pool:
        try:
            list(pool.map(lambda package: _unpack_one(package, root), packages))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for name, text in _FILES.items():
        (root / name).write_text(text)
    for name in ("passwd", "group"):
        master = root / "usr/share/base-passwd" / f"{name}.master"
        if master.is_file():
            shutil.copyfile(master, root / "etc" / name)
    for link, target in _ALTERNATIVES.items():
        path = root / link
        if not path.is_symlink() and (path.parent / target).exists():
            path.symlink_to(target)


def _unpack_one(package: Path, root: Path) -> None:
    # --keep-directory-symlink: packages of older releases have a folder where we have a link.
    tar = ["tar", "-x", "-f", "-", "-C", str(root), "--keep-directory-symlink", "--numeric-owner"]
    tar += [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as archive:
        done = subprocess.run(tar, stdin=archive.stdout, capture_output=True, check=False)
        assert archive.stdout is not None and archive.stderr is not None
        # Where tar has ended early, dpkg-deb would wait for a reader for ever.
        archive.stdout.close()
        said = archive.stderr.read() + done.stderr
    if archive.returncode or done.returncode:
        words = said.decode(errors="replace").strip()[-1000:]
        raise LabError(f"cannot unpack {package.name}: {words}")


def prepare_modules(root: Path, version: str, toolbox: Toolbox) -> None:
    """Leave the modules that are of use, unpacked, and write their index. Raises LabError."""
    folder = root / "usr/lib/modules" / version
    for name in _UNUSED_MODULES:
        shutil.rmtree(folder / "kernel" / name, ignore_errors=True)
    ethernet = folder / "kernel" / _ETHERNET
    for maker in list(ethernet.iterdir()) if ethernet.is_dir() else ():
        if maker.is_dir() and maker.name not in _USED_ETHERNET:
            shutil.rmtree(maker)
    # An emulated machine takes a second for what takes this one a hundredth.
    for packed in list(folder.rglob("*.ko.xz")):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()
    toolbox.run("usr/bin/kmod", "-b", root, version, name="depmod")


def make_image(root: Path, image: Path, label: str, size: int, toolbox: Toolbox) -> None:
    """An ext4 file system of `size` bytes with all of `root` in it. Raises LabError.

    Without a journal and checksums: it is thrown away, never repaired.
    """
    toolbox.run(
        "usr/sbin/mke2fs",
        *("-q", "-t", "ext4", "-m", "0", "-L", label, "-d", root),
        *("-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=1,root_owner=0:0"),
        *(image, f"{size // 1024}k"),
    )


def room_for(root: Path) -> int:
    """The size of a file system that holds `root` and little more, in bytes."""
    blocks = count = 0
    for path in root.rglob("*"):
        count += 1
        if path.is_file() and not path.is_symlink():
            blocks += -(-path.stat().st_size // 4096)
    size = (blocks + count) * 4096
    return size + size // 8 + 32 * 1024**2
