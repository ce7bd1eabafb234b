"""One KVM host of a lab: run scripts on it, put files there and get them, start guests in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import network, process, transfer
from lab.agent import PATIENCE, Agent, Result
from lab.inside.client import OnOutput
from lab.machine import HOT_PLUG_PORT, Files
from vmferry.errors import UsageError
from vmferry.host.process import ProcessId

GUESTS = "/run/labguests"
_ENDS_WITHIN = 3.0


@dataclass(frozen=True, slots=True)
class Guest:
    """A nested guest that `labguest` keeps on a host. Its QMP socket there is `qmp_socket`."""

    host: Host
    name: str

    @property
    def qmp_socket(self) -> str:
        return f"{GUESTS}/{self.name}/qmp.sock"

    async def run(self, script: str, *, timeout: float = 60.0) -> Result:
        """Run a script in the guest; as `Host.run`, but errors of the agent there are 255."""
        words = ["labguest", "run", self.name, "-c", script, "--timeout", str(timeout)]
        return await self.host.run(words, timeout=timeout + 30.0)

    async def qmp(self, command: str, **arguments: object) -> Any:
        """What its QEMU answers. Argument names are QMP's with _ for -. Raises LabError."""
        values = {name.replace("_", "-"): value for name, value in arguments.items()}
        words = ["labguest", "qmp", self.name, command, json.dumps(values)]
        return json.loads((await self.host.run(words)).check().stdout)

    async def stop(self) -> None:
        """End it; nothing where it has ended. Raises LabError."""
        (await self.host.run(["labguest", "stop", self.name])).check()


class Host:
    """A host that is up. `index` 0 is `a`, 1 is `b`; `address` is on the network of the lab."""

    def __init__(self, index: int, files: Files, qemu: ProcessId) -> None:
        self.index = index
        self.name = network.NAMES[index]
        self.address = network.address(index)
        self.files = files
        self.qemu = qemu
        self.agent = Agent(f"host {self.name}", files.agent_sockets, self._last_words)

    async def run(
        self,
        script: str | Sequence[str],
        *,
        arguments: Sequence[str] = (),
        stdin: bytes = b"",
        timeout: float = 60.0,
        patience: float = PATIENCE,
        on_output: OnOutput | None = None,
    ) -> Result:
        """Run a script as root, or a command where it is a sequence of words.

        A script is bash's unless its first line names an interpreter. After `timeout` seconds it is
        killed. What it leaves in the background goes on, with its output elsewhere. `on_output`
        hears each piece of output, and whether it is of the errors. As many as eight at once.
        Raises LabError where the host does not answer.
        """
        return await self.agent.run(
            script,
            arguments=arguments,
            stdin=stdin,
            timeout=timeout,
            patience=patience,
            on_output=on_output,
        )

    async def put(self, source: Path, target: str) -> None:
        """Copy a file or a folder onto the host, as `target`. Raises LabError or UsageError."""
        await transfer.put(self.agent, source, target)

    async def get(self, source: str, target: Path) -> None:
        """Copy a file from the host. Raises LabError or UsageError."""
        await transfer.get(self.agent, source, target)

    async def start_guest(
        self,
        name: str,
        *,
        smp: int = 2,
        memory: str = "512M",
        cpu: str = "host",
        queues: int = 0,
        ip: str | None = None,
        append: str = "",
        incoming: str | None = None,
        qemu: Sequence[str] = (),
        timeout: float = 420.0,
    ) -> Guest:
        """Start a Linux guest under KVM on this host and wait until its agent answers.

        With `queues` it has a vhost card with so many on the bridge, and `ip` (as
        `192.168.77.50/24`). `append`: more words for its kernel; `qemu`: more arguments. With
        `incoming` it waits for a migration at that URI. Raises LabError.
        """
        words = ["labguest", "start", name, "--smp", str(smp), "--memory", memory, "--cpu", cpu]
        words += ["--queues", str(queues), f"--append={append}"]
        words += ["--ip", ip] if ip else []
        words += ["--incoming", incoming] if incoming else []
        (await self.run([*words, "--", *qemu], timeout=timeout)).check()
        return Guest(self, name)

    async def plug_disk(self) -> None:
        """Plug an NVMe disk of 64 MiB in: QEMU can keep no state of one. Raises LabError."""
        backend = {"driver": "null-co", "node-name": "nvme", "size": 64 * 1024**2}
        device = {"driver": "nvme", "id": "nvme", "serial": "lab", "drive": "nvme"}
        commands: list[tuple[str, dict[str, Any]]] = [
            ("blockdev-add", {**backend, "read-zeroes": True}),
            ("device_add", {**device, "bus": HOT_PLUG_PORT}),
        ]
        await process.ask(self.qemu, self.files, commands)
        look = "lspci -n | grep -q ' 0108: ' && exit"
        script = f"for i in {{1..100}}; do {look}; sleep 0.1; done; exit 1"
        (await self.run(script)).check()

    def alive(self) -> bool:
        return self.qemu.alive()

    def _last_words(self) -> str:
        # QEMU removes its sockets a moment before it has ended.
        return process.said(self.files) if self.qemu.wait_dead(_ENDS_WITHIN) else ""


def host_index(name: str) -> int:
    """The number of the host of that name. Raises UsageError."""
    if name not in network.NAMES:
        raise UsageError(f"there is no host '{name}'; hosts are {' and '.join(network.NAMES)}")
    return network.NAMES.index(name)
