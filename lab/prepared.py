"""Prepared states: a host that has booted, its memory in a file and its disk a layer to build on.

A host starts from one in seconds, and any number of hosts from the same one. It is kept beside the
image under the hash of the machine's options and of what makes its command line, so that another
emulator, kernel or option has a state of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import process
from lab.agent import Agent
from lab.errors import LabError
from lab.image import Image, Say
from lab.machine import PAYLOAD_BYTES, Files, Options, command_line, link_between
from lab.tools import run
from vmferry.host.process import ProcessId

_KEPT = 6
_BOOT_SECONDS = 180.0
_MOVE_SECONDS = 120.0
# Pages at fixed places in the file, zero pages not at all (QEMU 9.0 and later).
_CAPABILITIES: dict[str, Any] = {"capabilities": [{"capability": "mapped-ram", "state": True}]}


class NotLoadable(LabError):
    """QEMU does not take the prepared state: its files are damaged."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A finished state in its folder."""

    folder: Path

    @property
    def memory(self) -> Path:
        return self.folder / "memory"

    @property
    def disk(self) -> Path:
        return self.folder / "disk.qcow2"

    def discard(self) -> None:
        """Remove it; hosts that run from it go on."""
        shutil.rmtree(self.folder, ignore_errors=True)


async def prepare(image: Image, options: Options, say: Say) -> Prepared:
    """The state for such a host, from the cache or made now. Raises LabError."""
    prepared = Prepared(image.folder / f"prepared-{_key(options)}")
    if prepared.memory.is_file():
        with contextlib.suppress(OSError):
            prepared.folder.touch()
        return prepared
    async with _locked(prepared.folder.with_suffix(".lock"), say):
        if not prepared.memory.is_file():
            say("booting a host once, to keep its state")
            for left in image.folder.glob("preparing-*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=image.folder, prefix="preparing-") as work:
                # Sockets want a shorter path than the cache may have.
                with tempfile.TemporaryDirectory(prefix="lab-") as sockets:
                    made = await _make(image, options, Path(work), Path(sockets))
                prepared.discard()
                made.rename(prepared.folder)
            _sweep(image)
    return prepared


async def load(process_id: ProcessId, files: Files, prepared: Prepared) -> None:
    """Have a QEMU that waits go on from the state. Raises NotLoadable."""
    commands = [
        ("migrate-set-capabilities", _CAPABILITIES),
        ("migrate-incoming", {"uri": f"file:{prepared.memory}"}),
    ]
    try:
        await process.ask(process_id, files, commands)
        await _until_moved(process_id, files)
        await process.ask(process_id, files, [("cont", {})])
    except LabError as error:
        raise NotLoadable(f"the prepared state {prepared.folder} is damaged: {error}") from None


def new_disk(image: Image, below: Path, kind: str, disk: Path) -> None:
    """A disk that keeps only what is written to it. Raises LabError."""
    words = image.toolbox.words("usr/bin/qemu-img", "create", "-q", "-f", "qcow2")
    hint = "if the cache is damaged: `./dev lab clean`, and the next `up` builds it again"
    run([*words, "-b", str(below), "-F", kind, str(disk)], hint=hint)


def _key(options: Options) -> str:
    digest = hashlib.sha256(json.dumps(options.to_json(), sort_keys=True).encode())
    for name in ("machine.py", "prepared.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:12]


@contextlib.asynccontextmanager
async def _locked(path: Path, say: Say) -> AsyncIterator[None]:
    """Hold a lock; while somebody else has it, Ctrl-C is still heard."""
    with path.open("w") as lock:
        waiting = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say("the same state is being prepared: waiting for it")
                waiting = True
                await asyncio.sleep(0.2)
        yield


async def _make(image: Image, options: Options, work: Path, sockets: Path) -> Path:
    result = work / "result"
    result.mkdir()
    made = Prepared(result)
    files = Files(sockets, made.disk)
    payload = work / "payload"
    with payload.open("wb") as file:
        file.truncate(PAYLOAD_BYTES)
    new_disk(image, image.disk, "raw", made.disk)
    words = command_line(
        image,
        options,
        "lab-preparing",
        files,
        link=link_between(sockets, 0),
        payload=payload,
        incoming=False,
    )
    qemu = process.start(words, files, image.toolbox.qemu_environment(), tied=True)
    try:
        agent = Agent("the host", files.agent_sockets)
        await until_up(agent, qemu, files, _BOOT_SECONDS)
        commands: list[tuple[str, dict[str, Any]]] = [
            ("stop", {}),
            ("migrate-set-capabilities", _CAPABILITIES),
            ("migrate-set-parameters", {"max-bandwidth": 0}),
            ("migrate", {"uri": f"file:{made.memory}"}),
        ]
        await process.ask(qemu, files, commands)
        await _until_moved(qemu, files)
        with contextlib.suppress(LabError):
            await process.ask(qemu, files, [("quit", {})])
            await asyncio.to_thread(qemu.wait_dead, 10.0)
    finally:
        process.end(qemu)
    return result


async def until_up(agent: Agent, qemu: ProcessId, files: Files, seconds: float) -> None:
    """Return when the agent in a machine answers. Raises LabError with what the machine said."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while True:
        if files.agent_sockets[-1].exists() or not qemu.alive() or loop.time() > until:
            break
        await asyncio.sleep(0.02)
    try:
        (await agent.run(["true"], patience=max(1.0, until - loop.time()))).check()
    except LabError as error:
        state = "runs" if qemu.alive() else "has ended"
        raise LabError(
            f"{agent.name} did not come up ({error}); QEMU {state}: {process.said(files)}"
        ) from None


async def _until_moved(qemu: ProcessId, files: Files) -> None:
    """Wait for the end of a migration to or from a file. Raises LabError."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _MOVE_SECONDS
    while True:
        (answer,) = await process.ask(qemu, files, [("query-migrate", {})])
        if answer.get("status") == "completed":
            return
        if answer.get("status") in ("failed", "cancelled") or loop.time() > until:
            why = answer.get("error-desc", answer.get("status", "it took too long"))
            raise LabError(f"{why}: {process.said(files)}")
        await asyncio.sleep(0.05)


def _sweep(image: Image) -> None:
    """Keep the states that were used last."""
    folders = (path for path in image.folder.glob("prepared-*") if path.is_dir())
    states = sorted(folders, key=lambda path: path.stat().st_mtime)
    for path in states[:-_KEPT]:
        shutil.rmtree(path, ignore_errors=True)
