"""What happened when, in words: stages, actions and events of both sides, in the order of time."""

from __future__ import annotations

from vmferry.precopy.sample import Event
from vmferry.report.recording import Recording, Step

MIGRATION_WORDS = {
    ("source", "setup"): "migration set up",
    ("source", "active"): "copying in passes",
    ("source", "pre-switchover"): "stopped and ready to switch over",
    ("source", "device"): "sending the device state",
    ("source", "completed"): "everything sent and taken",
    ("destination", "setup"): "waiting for the VM",
    ("destination", "active"): "receiving",
    ("destination", "completed"): "everything loaded",
}


def timeline(recording: Recording) -> list[Step]:
    """Everything but the passes, which have a table of their own."""
    told = [Step(e.t, _words(e)) for e in recording.events if e.name != "MIGRATION_PASS"]
    return sorted(recording.steps + told, key=lambda step: step.t)


def _words(event: Event) -> str:
    if event.name == "STOP":
        return f"{event.side}: the vCPUs stopped"
    if event.name == "RESUME":
        return f"{event.side}: the vCPUs run"
    if event.name == "MIGRATION":
        status = str(event.data.get("status", ""))
        return f"{event.side}: {MIGRATION_WORDS.get((event.side, status), f'migration {status}')}"
    return f"{event.side}: {event.name}"
