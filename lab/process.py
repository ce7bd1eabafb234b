"""One QEMU process of the lab: started, asked by QMP, ended."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lab import places
from lab.errors import LabError
from lab.machine import Files
from vmferry.host.process import ProcessId
from vmferry.host.threads import cores_of
from vmferry.hypervisor.qemu.qmp import Qmp, QmpError

_START_SECONDS = 30.0
_END_SECONDS = 10.0
_POLL_SECONDS = 0.02

# Held so that those which end are reaped; the others outlive us.
_started: list[subprocess.Popen[bytes]] = []


def start(
    words: list[str], files: Files, environment: Mapping[str, str], *, tied: bool
) -> ProcessId:
    """Start QEMU. `tied`: it dies with the thread that started it. Raises LabError.

    All its threads run on one core: VMRUN changes a vCPU's pending interrupts without the lock that
    the other threads hold (helper_vmrun in svm_helper.c of QEMU 10.0.13), and where they run at the
    same time, interrupts get lost.
    """
    _started[:] = [one for one in _started if one.poll() is None]
    if tied:
        words = ["setpriv", "--pdeathsig", "KILL", *words]
    with files.errors.open("ab") as log, _on_one_core():
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                cwd="/",
                umask=0o177,
                start_new_session=True,
            )
        except OSError as error:
            raise LabError(f"cannot run {words[0]}: {error.strerror}") from None
        _started.append(process)
        # /proc has no command line of a process that has only just begun.
        while process.poll() is None and not Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.001)
    try:
        return ProcessId.of(process.pid)
    except ProcessLookupError:
        raise LabError(f"QEMU ended at once: {said(files)}") from None


@contextlib.contextmanager
def _on_one_core() -> Iterator[None]:
    """What is started meanwhile stays on the core with the fewest emulators of the same cache."""
    ours = os.sched_getaffinity(0)
    with (places.cache() / "start.lock").open("w") as lock:
        # Of two that start at once, the second has to see where the first is.
        fcntl.flock(lock, fcntl.LOCK_EX)
        taken = Counter(core for one in of_folder(places.cache()) for core in cores_of(one.pid))
        os.sched_setaffinity(0, {min(sorted(ours), key=lambda core: taken[core])})
        try:
            yield
        finally:
            os.sched_setaffinity(0, ours)


def end(process: ProcessId) -> None:
    """Kill it and wait until it is dead."""
    process.kill()
    for one in _started:
        if one.pid == process.pid:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(_END_SECONDS)
    process.wait_dead(_END_SECONDS)


def of_folder(folder: Path) -> Iterator[ProcessId]:
    """The processes whose command line names a folder: also those that nobody recorded."""
    needle = os.fsencode(folder) + b"/"
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if b"\0-name\0guest=" in line and needle in line:
                    yield ProcessId.of(int(entry.name))


async def ask(
    process: ProcessId, files: Files, commands: list[tuple[str, dict[str, Any]]]
) -> list[Any]:
    """Several QMP commands by one connection; waits until QEMU listens. Raises LabError."""
    qmp = await _connected(process, files)
    try:
        return [await qmp.execute(name, values, timeout=60.0) for name, values in commands]
    except QmpError as error:
        raise LabError(f"QEMU of {files.folder.name}: {error}: {said(files)}") from None
    finally:
        await qmp.close()


async def _connected(process: ProcessId, files: Files) -> Qmp:
    loop = asyncio.get_running_loop()
    until = loop.time() + _START_SECONDS
    while True:
        # The socket is there a moment before QEMU listens on it.
        if files.qmp.exists():
            try:
                return await Qmp.connect(files.qmp, timeout=_START_SECONDS)
            except QmpError as error:
                why = str(error)
        else:
            why = "it opened no QMP socket"
        if not process.alive():
            raise LabError(f"QEMU of {files.folder.name} has ended: {said(files)}")
        if loop.time() > until:
            raise LabError(f"QEMU of {files.folder.name} does not answer: {why}: {said(files)}")
        await asyncio.sleep(_POLL_SECONDS)


def said(files: Files) -> str:
    """The end of what QEMU and the machine's console said."""
    texts = []
    for path in (files.errors, files.console):
        with contextlib.suppress(OSError):
            texts.append(path.read_text(errors="replace").strip()[-1500:])
    return " / ".join(text for text in texts if text) or "it said nothing"
