"""`vmferry console VM`: the terminal on the serial console of a VM."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path

from vmferry.cli.options import VmNameArgument
from vmferry.cli.output import Output
from vmferry.errors import UsageError

DETACH = b"\x1d"  # Ctrl-]
# A VM that moved away has its next console within this time.
_MOVE_SECONDS = 5.0
_CHUNK = 4096


def console(vm: VmNameArgument) -> None:
    """Attach to the serial console; Ctrl-] leaves.

    It follows a local move.
    """
    from vmferry.hypervisor.qemu.lifecycle import current_instance
    from vmferry.vm.registry import Vm, lookup

    def folder_of(one: Vm) -> Path | None:
        instance = current_instance(one)
        return instance.folder if instance is not None and instance.alive() else None

    output = Output(as_json=False)
    found = lookup(vm)
    folder = folder_of(found)
    if folder is None:
        raise UsageError(f"'{vm}' does not run", hint=f"`vmferry status {vm}` tells more")
    output.note(f"connected to the console of '{vm}'; Ctrl-] leaves")
    while folder is not None:
        with _connected(folder, vm) as line, _raw_terminal():
            detached = _copy(line)
        if detached:
            output.note("\ndetached")
            return
        left, folder = folder, None
        end = time.monotonic() + _MOVE_SECONDS
        while folder is None and time.monotonic() < end:
            now = folder_of(found)
            folder = now if now != left else None
            time.sleep(0.05)
        if folder is not None:
            output.note(f"\n'{vm}' has moved; connected again")
    output.note(f"\nthe console of '{vm}' has closed")


@contextlib.contextmanager
def _connected(folder: Path, name: str) -> Iterator[socket.socket]:
    """The console's socket. It serves one client; a lock file tells the second one so."""
    with (folder / "console.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"somebody else is attached to the console of '{name}'") from None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            try:
                line.connect(str(folder / "console.sock"))
            except OSError as error:
                raise UsageError(
                    f"the console of '{name}' cannot be reached: {error.strerror}"
                ) from None
            yield line


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _copy(line: socket.socket) -> bool:
    """Copy both ways. True when the user detached, False when the console closed."""
    stdin, stdout = 0, 1
    sources: list[int | socket.socket] = [line]
    if sys.stdin is not None:
        sources.append(stdin)
    while True:
        ready, _, _ = select.select(sources, [], [])
        if line in ready:
            try:
                data = line.recv(_CHUNK)
            except ConnectionError:
                data = b""
            if not data:
                return False
            _write_all(stdout, data)
        if stdin in ready:
            data = os.read(stdin, _CHUNK)
            if not data:
                sources.remove(stdin)
                continue
            keys, detach, _ = data.partition(DETACH)
            try:
                line.sendall(keys)
            except ConnectionError:
                return False
            if detach:
                return True


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
