"""Two QEMUs without a guest: one that runs, one that waits for its VM. Seconds for a pair."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError
from qemu.qmp.legacy import QEMUMonitorProtocol

PATIENCE = 30.0
# No multiple of 256 KiB: QEMU before 9.0 under TCG else loses writes in a migration.
MEMORY = "16392k"
UUID = "11111111-1111-1111-1111-111111111111"

Options = Mapping[str, str | Sequence[str]]

# By what a test may want otherwise. `{folder}` is the test's, the same for both sides.
BASE: Options = {
    "machine": ("-machine", "q35"),
    "cpu": ("-cpu", "max"),
    "smp": ("-smp", "2"),
    "memory": ("-m", MEMORY),
    "uuid": ("-uuid", UUID),
    "boot": (),
    "disk": ("-blockdev", "driver=qcow2,node-name=node0,file.driver=file,file.filename={folder}/a"),
    "null": ("-blockdev", "driver=null-co,node-name=null0,size=4194304"),
    "netdev": ("-netdev", "user,id=net0"),
    "blk": ("-device", "virtio-blk-pci,id=disk0,drive=node0,num-queues=2,vectors=3"),
    "scsi": ("-device", "virtio-scsi-pci,id=scsi0,num_queues=1,vectors=4"),
    "nic": ("-device", "virtio-net-pci,id=nic0,netdev=net0,romfile=,mac=52:54:00:00:00:01"),
    "more": (),
}


@dataclass(frozen=True, slots=True)
class Bare:
    """A running QEMU; `socket` is its QMP socket, which nobody holds."""

    process: subprocess.Popen[bytes]
    socket: Path

    def ask(self, command: str, **arguments: Any) -> Any:
        return ask_at(self.socket, command, **arguments)


def ask_at(socket: Path, command: str, **arguments: Any) -> Any:
    """What a QEMU answers to one QMP command, in a session of its own."""
    qmp = QEMUMonitorProtocol(str(socket))
    qmp.connect()
    try:
        return qmp.cmd(command, **arguments)
    finally:
        qmp.close()


@contextlib.contextmanager
def bare(
    folder: Path, name: str, options: Options, *words: str, files: Sequence[int] = ()
) -> Iterator[Bare]:
    """A QEMU of `BASE` with `options` instead, gone when the block ends. It gets `files`."""
    socket = folder / f"{name}.sock"
    chosen = [word for group in {**BASE, **options}.values() for word in group]
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-no-user-config"),
        *("-display", "none", "-qmp", f"unix:{socket},server=on,wait=off"),
        *(word.replace("{folder}", str(folder)) for word in chosen),
        *words,
    ]
    errors = folder / f"{name}.log"
    with errors.open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=files
        )
    try:
        _wait(process, socket, errors)
        yield Bare(process, socket)
    finally:
        process.kill()
        process.wait()
        socket.unlink(missing_ok=True)


def _wait(process: subprocess.Popen[bytes], socket: Path, errors: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        if socket.exists():
            with contextlib.suppress(ConnectError):
                ask_at(socket, "query-status")
                return
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"QEMU does not answer: {errors.read_text()}")
        time.sleep(0.02)
