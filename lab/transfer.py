"""Copies files to and from a host through its agent."""

from __future__ import annotations

import asyncio
import io
import shlex
import tarfile
from pathlib import Path, PurePosixPath

from lab.agent import Agent
from vmferry.errors import UsageError

_SECONDS = 600.0


async def put(agent: Agent, source: Path, target: str) -> None:
    """Copy a file, or a folder with all in it, as `target`. Raises LabError or UsageError."""
    data, script = await asyncio.to_thread(_parcel, source, _absolute(target))
    (await agent.run(script, stdin=data, timeout=_SECONDS)).check()


async def get(agent: Agent, source: str, target: Path) -> None:
    """Copy a file as `target`, into it where that is a folder. Raises LabError or UsageError."""
    place = _absolute(source)
    result = (await agent.run(["cat", str(place)], timeout=_SECONDS)).check()
    await asyncio.to_thread(_write, target, place.name, result.stdout)


def _absolute(path: str) -> PurePosixPath:
    """What a host takes a path for: scripts start in /root."""
    return PurePosixPath("/root") / path


def _parcel(source: Path, place: PurePosixPath) -> tuple[bytes, str]:
    """What is sent, and the script that takes it."""
    name = shlex.quote(str(place))
    try:
        if not source.is_dir():
            mode = f"{source.stat().st_mode & 0o777:o}"
            script = f"mkdir -p {shlex.quote(str(place.parent))} && cat > {name}"
            return source.read_bytes(), f"{script} && chmod {mode} {name}"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(source, ".")
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from None
    return buffer.getvalue(), f"mkdir -p {name} && tar -x --no-same-owner -f - -C {name}"


def _write(target: Path, name: str, data: bytes) -> None:
    path = target / name if target.is_dir() else target
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
