"""Builds the program that works in the guests, and puts it where the test guest starts it.

The kernel unpacks a second archive behind the test guest's over it: the program takes the place of
the page writer. So nothing of the test guest is built again.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from vmferry.errors import UsageError
from vmferry.host import paths
from vmferry.testguest import build as testguest
from vmferry.testguest import cpio
from vmferry.testguest.packages import BuildError, run
from vmferry.testguest.settings import PageWriterSettings

_COMPILE = ("gcc", "-std=gnu17", "-O2", "-Wall", "-static", "-pthread")
_NAME = "load"
_PLACE = "bin/pagewriter"


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU boots: `-kernel`, `-initrd` and the words of `-append`."""

    kernel: Path
    initrd: Path
    words: str


def image(folder: Path) -> Image:
    """The test guest with our program in it, its archive written to `folder`. Raises UsageError."""
    try:
        guest = testguest.build()
    except BuildError as error:
        raise UsageError(error.message, hint=error.hint) from None
    archive = cpio.pack({_PLACE: program().read_bytes()}, {}, frozenset({_PLACE}))
    initrd = folder / "initrd"
    initrd.write_bytes(guest.initrd.read_bytes() + gzip.compress(archive, 1, mtime=0))
    return Image(guest.kernel, initrd, testguest.kernel_command_line(PageWriterSettings()))


def program() -> Path:
    """The program, from the cache or compiled now. Raises UsageError where there is no gcc."""
    sources = sorted((resources.files("vmferry.fastpath") / "load").iterdir(), key=lambda f: f.name)
    contents = {source.name: source.read_bytes() for source in sources}
    digest = hashlib.sha256(repr((_COMPILE, sorted(contents.items()))).encode())
    place = paths.cache_dir() / "fastpath-load" / digest.hexdigest()[:16] / _NAME
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as work:
            for name, data in contents.items():
                (Path(work) / name).write_bytes(data)
            names = [name for name in contents if name.endswith(".c")]
            try:
                run([*_COMPILE, "-o", _NAME, *names], Path(work))
            except BuildError as error:
                raise UsageError(
                    f"the program for the guests cannot be built: {error.message}",
                    hint=f"{error.hint}; or copy {place} from a machine that has it",
                ) from None
            shutil.move(Path(work) / _NAME, place)
    return place
