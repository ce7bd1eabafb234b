"""What probes of the network found, one JSON object a line, the newest last.

A file of its own beside the journal: a probe is no run, and loses nothing but itself where it
cannot be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmferry.host.paths import state_dir
from vmferry.journal.kept import append, newest_first
from vmferry.precopy.quantiles import Quantiles

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of the way to `place`, which is this machine's name for a destination.

    `speed` in bytes per second; `limited` says that it went as fast as the probe was allowed to,
    so that the way carries at least that. What it cost: `seconds` and `bytes`. `at` is unix time.
    """

    place: str
    at: float
    speed: Quantiles
    limited: bool
    seconds: float
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "to": self.place,
            "at": round(self.at, 3),
            "speed": self.speed.to_json(),
            "limited": self.limited,
            "seconds": round(self.seconds, 3),
            "bytes": self.bytes,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Probe:
        """Raises LookupError, TypeError or ValueError where it is not whole."""
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']}")
        p10, p50, p90 = (float(data["speed"][name]) for name in ("p10", "p50", "p90"))
        return cls(
            place=str(data["to"]),
            at=float(data["at"]),
            speed=Quantiles(p10, p50, p90),
            limited=bool(data["limited"]),
            seconds=float(data["seconds"]),
            bytes=int(data["bytes"]),
        )


def probes_file() -> Path:
    return state_dir() / "probes.jsonl"


def keep_probe(probe: Probe) -> None:
    """Add it to the file. Raises OSError."""
    append(probes_file(), probe.to_json())


def newest_probe(place: str) -> Probe | None:
    """The latest of the way to `place`; lines that are not whole are passed over."""
    for data in newest_first(probes_file()):
        try:
            probe = Probe.from_json(data)
        except (LookupError, TypeError, ValueError):
            continue
        if probe.place == place:
            return probe
    return None
