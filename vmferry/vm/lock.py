"""One move a VM: a lock that survives a crash of its owner without outliving it.

The lock is a file that names its owner: pid, start time and boot. An owner that is dead holds
nothing, so the next one takes the lock over. A guard file, locked by the kernel for the moment of
the change, keeps two from taking it at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vmferry.errors import RefusedError
from vmferry.host.files import write_in_one_step
from vmferry.host.paths import locks_dir
from vmferry.host.process import ProcessId


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, and what for (`migrate`, `stop` …)."""

    process: ProcessId
    purpose: str


@dataclass(frozen=True, slots=True)
class MoveLock:
    """A lock that is held. Make it with `acquire`."""

    key: str
    holder: Holder

    @classmethod
    def acquire(cls, key: str, purpose: str, owner: ProcessId | None = None) -> Self:
        """Lock `key`: a VM's name, or for a VM of somebody else `qmp:` and its socket's real path.

        `owner` is this process where it is not given. Raises RefusedError that names who has it.
        """
        lock = cls(key, Holder(owner or ProcessId.of(os.getpid()), purpose))
        with _guard():
            held = _read(key)
            if held is not None and held.process.alive():
                raise RefusedError(
                    f"'{key}' is busy: {held.purpose} by process {held.process.pid}",
                    hint="wait until that has ended",
                )
            record = {"key": key, "purpose": purpose, "process": lock.holder.process.to_json()}
            write_in_one_step(_file(key), json.dumps(record))
        return lock

    def release(self) -> None:
        """Give it up. One that somebody took over meanwhile is left alone."""
        with _guard():
            if _read(self.key) == self.holder:
                _file(self.key).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_holder(key: str) -> Holder | None:
    """Who holds `key` now; None where nobody does who is alive."""
    held = _read(key)
    return held if held is not None and held.process.alive() else None


def forget_dead_holders() -> None:
    """Remove the locks whose owners are dead; they hold nothing."""
    with _guard():
        for path in locks_dir().glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if not ProcessId.from_json(json.loads(path.read_bytes())["process"]).alive():
                    path.unlink()


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    with (locks_dir() / "guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _file(key: str) -> Path:
    return locks_dir() / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()}.json"


def _read(key: str) -> Holder | None:
    path = _file(key)
    try:
        data = json.loads(path.read_bytes())
        return Holder(ProcessId.from_json(data["process"]), str(data["purpose"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RefusedError(
            f"the lock file of '{key}' is damaged, so it cannot be told who holds it",
            hint=f"if no vmferry works on it, remove {path}",
        ) from None
