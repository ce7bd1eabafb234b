"""Starts the test guest on a bare QEMU: what the tests of the guest itself need and no more."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from qemu.qmp import ConnectError
from qemu.qmp.legacy import QEMUMonitorProtocol

from vmferry.testguest.agent import AgentClient
from vmferry.testguest.build import build, kernel_command_line
from vmferry.testguest.settings import PageWriterSettings

# No multiple of 256 KiB: QEMU before 9.0 under TCG else loses writes in a migration.
MEMORY = "262152k"
PATIENCE = 60.0


class GuestVm:
    """One QEMU with the test guest, its files in `folder`, gone when the block ends."""

    def __init__(self, folder: Path, *arguments: str, **settings: object) -> None:
        folder.mkdir(exist_ok=True)
        image = build()
        self.folder = folder
        self.heartbeat = folder / "heartbeat.sock"
        self.console = folder / "console.log"
        self.agent = AgentClient(folder / "agent.sock", timeout=PATIENCE)
        writer = PageWriterSettings.model_validate(settings)
        self.command = [
            *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-m", MEMORY, "-smp", "2", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
            *("-append", kernel_command_line(writer)),
            *("-serial", f"file:{self.console}"),
            *("-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off"),
            *("-device", "virtio-serial-pci"),
        ]
        for name in ("heartbeat", "agent"):
            where = f"path={folder}/{name}.sock,server=on,wait=off"
            self.command += ["-chardev", f"socket,id={name},{where}"]
            self.command += ["-device", f"virtserialport,chardev={name},name=vmferry.{name}"]
        self.command += arguments

    def __enter__(self) -> GuestVm:
        """Start it and return when the page writer runs; a destination only when QMP answers."""
        with (self.folder / "stderr.log").open("w") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stderr=errors, stdout=errors
            )
        try:
            wait_for("QMP", self._connected, self)
            if "-incoming" not in self.command:
                wait_for("the ready line", self.ready, self)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(EOFError):  # it has quit
            self.qmp.close()
        self._end()

    def _connected(self) -> bool:
        socket = self.folder / "qmp.sock"
        if not socket.exists():
            return False
        self.qmp = QEMUMonitorProtocol(str(socket))
        try:
            self.qmp.connect()
        except ConnectError:  # nobody listens on it yet
            return False
        return True

    def _end(self) -> None:
        self.process.kill()
        self.process.wait()
        for socket in self.folder.glob("*.sock"):
            socket.unlink()

    def ready(self) -> bool:
        return "vmferry-guest ready" in self.said()

    def said(self) -> str:
        """What the guest wrote on its serial port."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def errors(self) -> str:
        return (self.folder / "stderr.log").read_text()

    def ask(self, command: str, **arguments: Any) -> Any:
        """One QMP command."""
        return self.qmp.cmd(command, **arguments)

    def event(self, name: str) -> dict[str, Any]:
        """The next event of this name."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            event = self.qmp.pull_event(wait=PATIENCE)
            if event is not None and event["event"] == name:
                return dict(event)
        raise TimeoutError(name)

    def guest_seconds_pass(self, seconds: float) -> None:
        """Wait until the guest's own clock has gone on by `seconds`."""
        start = self.agent.status()["guest_ns"]
        wait_for(
            "the guest's clock",
            lambda: self.agent.status()["guest_ns"] >= start + seconds * 1e9,
            self,
        )


def wait_for(what: str, condition: Callable[[], bool], vm: GuestVm) -> None:
    """Return when `condition` holds; the failure shows what the guest and QEMU said."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline or vm.process.poll() is not None:
            raise AssertionError(f"no {what}; console: {vm.said()!r}; QEMU: {vm.errors()!r}")
        time.sleep(0.01)
