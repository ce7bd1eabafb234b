"""One QEMU process of a VM: who it is, where its files are, and its record on disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vmferry.host.files import write_in_one_step
from vmferry.host.paths import instances_dir
from vmferry.host.process import ProcessId
from vmferry.vm.spec import VmSpec

Role = Literal["source", "destination"]

RECORD = "instance.json"
TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class InstanceFiles:
    """The files of an instance, by the folder that has them."""

    folder: Path

    @property
    def control_socket(self) -> Path:
        """QMP for the guardian of a move."""
        return self.folder / "control.sock"

    @property
    def observer_socket(self) -> Path:
        """QMP for a look from outside (`vmferry status`), also during a move."""
        return self.folder / "observer.sock"

    @property
    def recovery_socket(self) -> Path:
        """QMP for those who settle a move after its guardian."""
        return self.folder / "recovery.sock"

    @property
    def heartbeat_socket(self) -> Path:
        return self.folder / "heartbeat.sock"

    @property
    def agent_socket(self) -> Path:
        return self.folder / "agent.sock"

    @property
    def console_socket(self) -> Path:
        return self.folder / "console.sock"

    @property
    def console_log(self) -> Path:
        return self.folder / "console.log"

    @property
    def stderr_log(self) -> Path:
        return self.folder / "stderr.log"


@dataclass(frozen=True, slots=True)
class Instance:
    """A QEMU process that vmferry started. `spec` is what it was started from, resolved."""

    id: str
    vm: str
    folder: Path
    process: ProcessId
    role: Role
    version: tuple[int, int, int]
    spec: VmSpec

    @property
    def files(self) -> InstanceFiles:
        return InstanceFiles(self.folder)

    def alive(self) -> bool:
        return self.process.alive()

    def ended_by_itself(self) -> bool:
        """Of a dead one: whether QEMU ended in order. It removes its sockets then."""
        return not self.files.control_socket.exists()

    def stderr(self) -> str:
        """What QEMU last wrote to its standard error; that is where its real errors are."""
        return read_tail(self.files.stderr_log)

    def save(self) -> None:
        """Write the record, in one step."""
        record = {
            "format": 1,
            "id": self.id,
            "vm": self.vm,
            "process": self.process.to_json(),
            "role": self.role,
            "version": list(self.version),
            "spec": self.spec.model_dump(mode="json"),
        }
        write_in_one_step(self.folder / RECORD, json.dumps(record))

    def remove(self) -> None:
        """Remove the folder of a dead instance. Raises RuntimeError while it lives."""
        if self.alive():
            raise RuntimeError(f"instance {self.id} of '{self.vm}' still runs")
        shutil.rmtree(self.folder, ignore_errors=True)


def load_instance(folder: Path) -> Instance | None:
    """The instance that `folder` records, or None where that is missing or no such record."""
    try:
        data: dict[str, Any] = json.loads((folder / RECORD).read_bytes())
        major, minor, micro = (int(part) for part in data["version"])
        role: Role = "destination" if data["role"] == "destination" else "source"
        return Instance(
            id=str(data["id"]),
            vm=str(data["vm"]),
            folder=folder.resolve(),
            process=ProcessId.from_json(data["process"]),
            role=role,
            version=(major, minor, micro),
            spec=VmSpec.model_validate(data["spec"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def list_instances() -> list[Instance]:
    """Every recorded instance of this user, dead ones too."""
    found = (load_instance(folder) for folder in sorted(instances_dir().iterdir()))
    return [instance for instance in found if instance is not None]


def read_tail(path: Path) -> str:
    """The end of a log, stripped; empty where there is none."""
    with contextlib.suppress(OSError), path.open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL_BYTES))
        return log.read().decode(errors="replace").strip()
    return ""
