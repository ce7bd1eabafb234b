"""One run as its trace tells it, sorted by kind of line. Reads only; draws nothing.

Every kind but `query-migrate` may be missing: any polling loop can write a trace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmferry.precopy.explain import Explanation, explain
from vmferry.precopy.passes import PassTracker
from vmferry.precopy.sample import ENDED, Event, Sample
from vmferry.precopy.trace import Item, Trace, TraceError, item_of
from vmferry.report.told import FORMAT, Told
from vmferry.units import format_rate


@dataclass(frozen=True, slots=True)
class Beat:
    """What the guest's heartbeats told in about 100 ms: the longest gap and the work counter."""

    t: float
    side: str
    max_gap_ms: float
    work: int


@dataclass(frozen=True, slots=True)
class Step:
    """A change of stage, or an action and what became of it."""

    t: float
    text: str


@dataclass(slots=True)
class Recording:
    """The lines of one run. Times in seconds since migrate was issued.

    `rehearsal`, `profile` and `xray` are what a rehearsal found, None in other runs.
    """

    header: Mapping[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    beats: list[Beat] = field(default_factory=list)
    parameters: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    forecasts: list[Told] = field(default_factory=list)
    rehearsal: Mapping[str, Any] | None = None
    profile: Mapping[str, Any] | None = None
    xray: Mapping[str, Any] | None = None
    tracker: PassTracker = field(default_factory=PassTracker)
    items: list[Item] = field(default_factory=list)

    @classmethod
    def read(cls, lines: Iterable[Mapping[str, Any]]) -> Recording:
        """Sort the lines of a trace; kinds that this version does not know are passed over."""
        recording = cls()
        for line in lines:
            recording._take(line)
        return recording

    def _take(self, line: Mapping[str, Any]) -> None:
        if "vmferry" in line:
            self.header = line["vmferry"]
            return
        with contextlib.suppress(TraceError):
            self.items.append(item_of(line))
        t = float(line.get("t", 0.0))
        if "query-migrate" in line:
            # A loop that polls on after the end says nothing new, hours later perhaps.
            if not (self.samples and self.samples[-1].status in ENDED):
                sample = Sample.from_reply(t, line["query-migrate"])
                self.samples.append(sample)
                self.tracker.receive(sample)
        elif "event" in line:
            raw = line["event"]
            side = str(line.get("side", "source"))
            event = Event(t, str(raw.get("event", "")), raw.get("data") or {}, side)
            self.events.append(event)
            self.tracker.receive(event)
        elif "guest" in line:
            self._take_beat(t, line["guest"])
        elif "parameters" in line:
            self.parameters.append((t, line["parameters"]))
        elif "action" in line:
            self.steps.append(Step(t, _action_text(line["action"], line.get("result"))))
        elif "stage" in line:
            self.steps.append(Step(t, f"vmferry: {line['stage']}"))
        elif "forecast" in line:
            if line["forecast"].get("format") == FORMAT:
                self.forecasts.append(Told.read(t, line["forecast"]))
        elif "rehearsal" in line:
            self.rehearsal = line["rehearsal"]
        elif "profile" in line:
            self.profile = line["profile"]
        elif "xray" in line:
            self.xray = line["xray"]

    def _take_beat(self, t: float, guest: Mapping[str, Any]) -> None:
        gap, work = guest.get("max_gap_ms"), guest.get("work")
        if gap is not None and work is not None:
            self.beats.append(Beat(t, str(guest.get("side", "source")), float(gap), int(work)))

    @property
    def last_sample(self) -> Sample | None:
        return self.samples[-1] if self.samples else None

    @property
    def span(self) -> tuple[float, float]:
        """The first and the last moment that anything is known of, in seconds."""
        times = [0.0]
        times += [s.t for s in self.samples]
        times += [e.t for e in self.events]
        times += [b.t for b in self.beats]
        times += [s.t for s in self.steps]
        return min(times), max(times)

    @property
    def pass_starts(self) -> list[float]:
        """When each pass began."""
        current = self.tracker.current
        records = [*self.tracker.passes, *([current] if current else [])]
        return [record.start_ms / 1000 for record in records]

    @property
    def trace(self) -> Trace:
        """The recording as `vmferry explain` and `vmferry forecast` take it."""
        return Trace(self.header, tuple(self.items))

    def explanation(self, migration_cpu_seconds: float | None = None) -> Explanation | None:
        """Why the migration does what it does; None where it has not begun to send."""
        return explain(self.trace, migration_cpu_seconds) if self.samples else None

    def limit_at(self, t: float) -> float | None:
        """QEMU's `downtime-limit` at time `t`, in seconds; None where nobody recorded it."""
        value = self._parameter("downtime-limit", t)
        if value is None:
            value = self._limits.get("downtime_limit_ms")
        return None if value is None else float(value) / 1000

    def cap_at(self, t: float) -> float | None:
        """QEMU's `max-bandwidth` at time `t`, in bytes per second; None: unlimited or unknown."""
        value = self._parameter("max-bandwidth", t)
        if value is None:
            value = self._limits.get("bandwidth")
        return float(value) if value else None

    @property
    def promised_downtime_ms(self) -> float | None:
        """What the user was promised, in milliseconds."""
        value = self._limits.get("max_downtime_ms")
        return None if value is None else float(value)

    @property
    def _limits(self) -> Mapping[str, Any]:
        return self.header.get("limits") or {}

    def _parameter(self, name: str, t: float) -> Any:
        value = None
        for at, parameters in self.parameters:
            # The first set holds from the start, even where it was read a little later.
            if name in parameters and (value is None or at <= t):
                value = parameters[name]
        return value


def _action_text(action: Mapping[str, Any], result: Any) -> str:
    match action:
        case {"kind": "downtime-limit", "milliseconds": int(limit)}:
            text = f"the downtime limit becomes {limit} ms"
        case {"kind": "bandwidth", "bytes_per_second": int(rate)}:
            text = f"the bandwidth becomes {format_rate(rate) if rate else 'unlimited'}"
        case {"kind": "abandon", "why": why}:
            text = f"the migration is abandoned: {why}"
        case _:
            text = ", ".join(f"{key} {value}" for key, value in action.items())
    return f"vmferry: {text}" + ("" if result == "ok" else f", refused: {result}")
