"""Dirty curves that were measured outside of any run, one JSON object a line, the newest last.

A file of its own beside the journal, as for probes: a measurement is no run, and loses nothing but
itself where it cannot be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmferry.errors import UsageError
from vmferry.host.paths import state_dir
from vmferry.journal.kept import append, newest_first
from vmferry.precopy.profile import DirtyProfile

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class KeptCurve:
    """What was measured of `vm` (the journal's name), until `at` (unix time), in `seconds`."""

    vm: str
    at: float
    seconds: float
    profile: DirtyProfile

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "vm": self.vm,
            "at": round(self.at, 3),
            "seconds": round(self.seconds, 3),
            "profile": self.profile.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> KeptCurve:
        """Raises LookupError, TypeError, ValueError or UsageError where it is not whole."""
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']}")
        profile = DirtyProfile.from_json(data["profile"])
        return cls(str(data["vm"]), float(data["at"]), float(data["seconds"]), profile)


def curves_file() -> Path:
    return state_dir() / "curves.jsonl"


def keep_curve(kept: KeptCurve) -> None:
    """Add it to the file. Raises OSError."""
    append(curves_file(), kept.to_json())


def newest_curve(vm: str) -> KeptCurve | None:
    """The latest of `vm`; lines that are not whole are passed over."""
    for data in newest_first(curves_file()):
        try:
            kept = KeptCurve.from_json(data)
        except (LookupError, TypeError, ValueError, UsageError):
            continue
        if kept.vm == vm:
            return kept
    return None
