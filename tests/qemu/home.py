"""vmferry as a user calls it, in folders that the tests of one module share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qemu.qmp.legacy import QEMUMonitorProtocol

from tests import leftovers
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.instance import Instance, load_instance
from vmferry.testguest.agent import AgentClient

COMMAND = (sys.executable, "-c", "from vmferry.cli.main import main; main()")
PATIENCE = 60.0


class Home:
    """State and runtime folders of their own; a context manager that sees that nothing is left."""

    def __enter__(self) -> Home:
        # Short: the path of a socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="vfh-", dir="/tmp"))
        self.runtime = self.folder / "run"
        self.runtime.mkdir(mode=0o700)
        self.environment = os.environ | {
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_RUNTIME_DIR": str(self.runtime),
        }
        return self

    def __exit__(self, *_: object) -> None:
        found = leftovers.collect(self.runtime)
        shutil.rmtree(self.folder)
        assert not found, "left behind:\n  " + "\n  ".join(found)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command and do not wait for its end."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which must have this exit status."""
        return finish(self.start(*arguments), status)

    def records(self, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
        """What a command says with `--json`."""
        return lines_of(self.call(*arguments, "--json", status=status).stdout)

    def run(self, name: str, specification: str) -> None:
        """Start a VM of that name."""
        path = self.folder / f"{name}.toml"
        path.write_text(specification)
        self.call("run", str(path))

    def instance(self, name: str) -> Instance:
        """The instance that has the VM's name now."""
        link = self.folder / "state/vmferry/vms" / name / "current"
        instance = load_instance(link.readlink())
        assert instance is not None
        return instance

    def instances(self) -> list[str]:
        """The folders of all instances that there are."""
        return sorted(os.listdir(self.runtime / "vmferry/instances"))  # noqa: PTH208

    def agent(self, name: str) -> AgentClient:
        """The agent in the guest, where the VM is now."""
        return AgentClient(self.instance(name).files.agent_socket, timeout=PATIENCE)


def finish(process: subprocess.Popen[str], status: int = 0) -> subprocess.CompletedProcess[str]:
    """Wait for the end of a command, which must have this exit status and no traceback."""
    output, errors = process.communicate()
    assert process.returncode == status, f"{process.returncode}: {output[-2000:]}{errors}"
    assert "Traceback" not in errors
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def lines_of(output: str) -> list[dict[str, Any]]:
    """NDJSON, and nothing else."""
    return [json.loads(line) for line in output.splitlines()]


def until_stage(process: subprocess.Popen[str], stage: str) -> list[dict[str, Any]]:
    """The records of a `migrate --json` up to the first of that stage."""
    seen = []
    for line in process.stdout or ():
        seen.append(json.loads(line))
        if seen[-1].get("stage") == stage:
            return seen
    raise AssertionError(f"it ended before the stage {stage}: {finish(process, -1)}")


def ask(socket: Path, *commands: str) -> list[Any]:
    """What QEMU answers to some QMP commands, in a session of their own."""
    qmp = QEMUMonitorProtocol(str(socket))
    qmp.connect()
    try:
        return [qmp.cmd(command) for command in commands]
    finally:
        qmp.close()


def migration_settings(socket: Path) -> tuple[dict[str, Any], dict[str, bool]]:
    """All migration parameters and capabilities of a QEMU."""
    parameters, rows = ask(socket, "query-migrate-parameters", "query-migrate-capabilities")
    return parameters, {row["capability"]: row["state"] for row in rows}


def processes_of(home: Home) -> Iterator[ProcessId]:
    """Every process that knows of this home."""
    for one in leftovers.processes(home.runtime):
        yield one.process
