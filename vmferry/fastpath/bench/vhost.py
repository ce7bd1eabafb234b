"""The kernel's vhost threads of one QEMU, and the parameter of vhost_net, set when it is loaded."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from vmferry.errors import VmferryError
from vmferry.host.threads import tids_of, times_of

_PARAMETER = Path("/sys/module/vhost_net/parameters/experimental_zcopytx")


class VhostError(VmferryError):
    """vhost_net cannot be loaded as the benchmark needs it."""


def threads(pid: int) -> list[int]:
    """Their ids: threads of QEMU itself since Linux 6.4, the kernel's own before."""
    wanted = f"vhost-{pid}"
    own = [(pid, tid) for tid in tids_of(pid)]
    others = [(int(path.name),) * 2 for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [tid for leader, tid in (*own, *others) if _name(leader, tid) == wanted]


def seconds_run(tids: list[int]) -> float:
    """What they ran so far, together."""
    total = 0.0
    for tid in tids:
        with contextlib.suppress(OSError):
            total += times_of(tid, tid, "").ran
    return total


def _name(leader: int, tid: int) -> str:
    try:
        return Path(f"/proc/{leader}/task/{tid}/comm").read_text().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def zero_copy(wanted: bool) -> Iterator[None]:
    """vhost_net with zero copy on or off for one `with`. Raises VhostError where VMs use it."""
    before = _value()
    _load(wanted)
    try:
        yield
    finally:
        if before is None:
            _modprobe("-r", "vhost_net")
        else:
            _load(before)


def problem() -> str:
    """Why vhost_net cannot be loaded anew here; empty where it can."""
    try:
        with zero_copy(True):
            return ""
    except VhostError as error:
        return error.message


def _value() -> bool | None:
    try:
        return _PARAMETER.read_text().strip() not in ("0", "N")
    except OSError:
        return None


def _load(wanted: bool) -> None:
    if _value() == wanted:
        return
    if _value() is not None:
        _modprobe("-r", "vhost_net")
    _modprobe("vhost_net", f"experimental_zcopytx={int(wanted)}")
    if _value() != wanted:
        raise VhostError("this kernel's vhost_net has no experimental_zcopytx that can be set")


def _modprobe(*words: str) -> None:
    try:
        done = subprocess.run(("modprobe", *words), capture_output=True, text=True, check=False)
    except OSError as error:
        raise VhostError(f"modprobe cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        said = done.stderr.strip() or f"status {done.returncode}"
        raise VhostError(f"`modprobe {' '.join(words)}` failed: {said} (do running VMs use vhost?)")
