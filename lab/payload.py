"""What each host gets of this checkout when it starts: vmferry, compiled, and its test guest.

It is no part of the image, so that an edit of vmferry is in the next `up` without a build. It comes
as a disk that holds nothing but an archive: by the agent it took longer than all the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from lab import places, python_parts
from lab.agent import Agent
from lab.errors import LabError
from lab.image import Image, Say, locked
from lab.machine import PAYLOAD_BYTES
from vmferry.testguest import build as testguest

_CACHE_INSIDE = "root/.cache/vmferry/testguest"
# Other checkouts have payloads of their own here, and may be about to send them.
_KEPT = 6


async def install(agent: Agent) -> None:
    """Unpack the payload that is a host's second disk. Raises LabError."""
    (
        await agent.run(["tar", "-x", "-b", "512", "-f", "/dev/vdb", "-C", "/"], timeout=120.0)
    ).check()


def make(image: Image, say: Say) -> Path:
    """The archive for hosts of this image, from the cache or made now. Raises LabError."""
    guest = testguest.build()
    path = places.cache() / f"vmferry-{_key(image, guest.kernel.parent.name)}.tar"
    if _used(path):
        return path
    with locked("payload", say, "another command packs vmferry: waiting for it"):
        if _used(path):
            return path
        _sweep()
        with tempfile.TemporaryDirectory(dir=places.cache(), prefix="packing-") as work:
            root = Path(work) / "root"
            root.mkdir()
            python_parts.install_code(root, image.toolbox)
            draft = Path(work) / "draft.tar"
            with tarfile.open(draft, "w") as archive:
                archive.add(root / python_parts.CODE, python_parts.CODE, filter=_owned_by_root)
                inside = f"{_CACHE_INSIDE}/{guest.kernel.parent.name}"
                archive.add(guest.kernel.parent, inside, filter=_owned_by_root)
            if draft.stat().st_size > PAYLOAD_BYTES:
                raise LabError("vmferry and its test guest do not fit on a host's second disk")
            with draft.open("ab") as file:
                file.truncate(PAYLOAD_BYTES)
            draft.rename(path)
    return path


def _used(path: Path) -> bool:
    """Whether it is there; it then is the last one to be removed."""
    with contextlib.suppress(OSError):
        os.utime(path)
        return True
    return False


def _sweep() -> None:
    """Remove what killed packers left, and payloads that were used long ago; the lock is held."""
    for left in places.cache().glob("packing-*"):
        shutil.rmtree(left, ignore_errors=True)
    payloads = sorted(places.cache().glob("vmferry-*.tar"), key=lambda one: one.stat().st_mtime)
    for old in payloads[: -_KEPT + 1]:
        old.unlink()


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _key(image: Image, guest: str) -> str:
    digest = hashlib.sha256(f"{image.key} {guest}".encode())
    for path in sorted((python_parts.ROOT / "vmferry").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
