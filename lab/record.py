"""What is known of a lab that runs, for the commands that come after the one that started it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import places
from lab.errors import LabError
from lab.machine import Options
from vmferry.host.files import write_in_one_step
from vmferry.host.process import ProcessId

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Record:
    """One lab. `ready`: `up` has done all it does. `owner` is the process it may not outlive."""

    name: str
    options: Options
    hosts: tuple[ProcessId, ...]
    ready: bool
    owner: ProcessId | None

    def save(self) -> None:
        data = {
            "format": _FORMAT,
            "name": self.name,
            "options": self.options.to_json(),
            "hosts": [one.to_json() for one in self.hosts],
            "ready": self.ready,
            "owner": self.owner.to_json() if self.owner else None,
        }
        write_in_one_step(_file(self.name), json.dumps(data))


def load(name: str) -> Record | None:
    """The record of a lab; None where there is none. Raises LabError where it is damaged."""
    path = _file(name)
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        return Record(
            name=str(data["name"]),
            options=Options(**data["options"]),
            hosts=tuple(ProcessId.from_json(one) for one in data["hosts"]),
            ready=bool(data["ready"]),
            owner=ProcessId.from_json(data["owner"]) if data["owner"] else None,
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError):
        raise LabError(
            f"the record of the lab cannot be read: {path}",
            hint="`./dev lab down` ends what runs and removes it",
        ) from None


def own_process() -> ProcessId:
    return ProcessId.of(os.getpid())


def _file(name: str) -> Path:
    return places.runtime(name) / "lab.json"
