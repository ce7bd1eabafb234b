"""Runs programs: the machine's own, and those of an unpacked Debian through its own loader."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib")


def run(
    words: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    hint: str | None = None,
) -> str:
    """Standard output of a program. Raises LabError with the program's own words."""
    if shutil.which(words[0]) is None:
        raise LabError(f"the lab needs {words[0]}", hint="run `./dev setup`")
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C", **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        name = Path(words[0]).name
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise LabError(f"{name} failed with status {done.returncode}: {said}", hint=hint)
    return done.stdout


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The programs of an unpacked Debian: they run here, with its libraries and not ours."""

    root: Path

    def words(self, program: str, *arguments: str | Path, name: str | None = None) -> list[str]:
        """The command that runs `program`, a path in the Debian; as `name` where one is given."""
        libraries = ":".join(str(self.root / folder) for folder in _LIBRARIES)
        loader = str(self.root / "usr/lib64/ld-linux-x86-64.so.2")
        words = [loader, "--library-path", libraries]
        words += ["--argv0", name or str(self.root / program), str(self.root / program)]
        return [*words, *map(str, arguments)]

    def run(self, program: str, *arguments: str | Path, name: str | None = None) -> str:
        """Standard output of that program. Raises LabError."""
        environment = {
            "MKE2FS_CONFIG": str(self.root / "etc/mke2fs.conf"),
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONPATH": "",
        }
        return run(self.words(program, *arguments, name=name), environment=environment)

    def qemu(self) -> list[str]:
        """The beginning of QEMU's command line."""
        folders = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
        found = [word for folder in folders for word in ("-L", str(self.root / folder))]
        return [*self.words("usr/bin/qemu-system-x86_64", name="qemu-system-x86_64"), *found]

    def qemu_environment(self) -> dict[str, str]:
        """What QEMU needs beside its arguments."""
        return {"QEMU_MODULE_DIR": str(self.root / "usr/lib/x86_64-linux-gnu/qemu")}
