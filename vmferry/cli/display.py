"""Shows a move while it runs: on a terminal, as plain lines, or as NDJSON.

All three draw the same immutable snapshots and hold no knowledge of the move themselves. Messages
may come from a signal handler, so one that arrives while something is being written waits for it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from vmferry.cli.output import printable
from vmferry.precopy.progress import Estimate, Snapshot
from vmferry.report.words import story
from vmferry.units import format_duration, format_network_rate, format_rate, format_size

STAGES = ("1 mark all", "2 copy in passes", "3 switchover")
_NUMBERS = {"setup": 1, "passes": 2, "switchover": 3, "handover": 3, "done": 4}

LIVE_SECONDS = 0.25
RECORD_SECONDS = 0.25
PLAIN_SECONDS = 5.0
# Passes may be shorter than anybody can read.
PLAIN_PASS_SECONDS = 1.0

NOT_AS_IT_GOES = "will not converge as it goes"


class Display:
    """The base of the three: what is due when, and messages in their place."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._drawn_at: float | None = None
        self._drawn: Snapshot | None = None
        self._last: Snapshot | None = None
        self._messages: deque[str] = deque()
        self._writing = False

    def update(self, snapshot: Snapshot) -> None:
        """Show `snapshot` if something is due; there may be many more than can be shown."""
        self._last = snapshot
        now = self._clock()
        since = None if self._drawn_at is None else now - self._drawn_at
        if since is not None and not self._due(snapshot, since):
            return
        self._drawn_at, self._drawn = now, snapshot
        self._write(lambda: self._draw(snapshot))

    def message(self, text: str) -> None:
        """Say something beside the progress; safe in a signal handler."""
        self._messages.append(text)
        if not self._writing:
            self._write(lambda: None)

    def stop(self) -> None:
        """Leave the terminal as it was; may be called twice."""

    def record(self, record: Mapping[str, Any]) -> None:
        """One line for programs, where they listen."""

    def close(self, outcome: Mapping[str, Any]) -> None:
        """Stop and tell how the move ended."""
        self.stop()
        self._write(lambda: self._tell(outcome))

    def _write(self, write: Callable[[], None]) -> None:
        self._writing = True
        try:
            write()
            while self._messages:
                self._say(self._messages.popleft())
        finally:
            self._writing = False

    def _due(self, snapshot: Snapshot, since: float) -> bool:
        raise NotImplementedError

    def _draw(self, snapshot: Snapshot) -> None:
        raise NotImplementedError

    def _say(self, text: str) -> None:
        raise NotImplementedError

    def _tell(self, outcome: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _new_stage(self, snapshot: Snapshot) -> bool:
        return self._drawn is None or self._drawn.stage != snapshot.stage

    def _new_pass(self, snapshot: Snapshot) -> bool:
        return self._drawn is None or self._drawn.pass_number != snapshot.pass_number


class RecordDisplay(Display):
    """NDJSON on `stream` and nothing else there; messages go to `beside`."""

    def __init__(
        self, stream: TextIO, beside: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._stream = stream
        self._beside = beside

    def _due(self, snapshot: Snapshot, since: float) -> bool:
        return since >= RECORD_SECONDS or self._new_stage(snapshot) or self._new_pass(snapshot)

    def _draw(self, snapshot: Snapshot) -> None:
        self.record({"event": "progress", "format": 1, **dataclasses.asdict(snapshot)})

    def _say(self, text: str) -> None:
        print(printable(text), file=self._beside, flush=True)

    def _tell(self, outcome: Mapping[str, Any]) -> None:
        self.record(outcome)

    def record(self, record: Mapping[str, Any]) -> None:
        print(json.dumps(record), file=self._stream, flush=True)


class PlainDisplay(Display):
    """A line for each stage and pass, and one every few seconds between them; for logs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._warned = False
        self._stream = stream

    def _due(self, snapshot: Snapshot, since: float) -> bool:
        if self._new_stage(snapshot) or (snapshot.will_not_converge and not self._warned):
            return True
        return since >= (PLAIN_PASS_SECONDS if self._new_pass(snapshot) else PLAIN_SECONDS)

    def _draw(self, snapshot: Snapshot) -> None:
        number = stage_number(snapshot)
        name = STAGES[number - 1] if number <= len(STAGES) else "done"
        outlook = going(snapshot)
        if snapshot.will_not_converge:
            # The reason is long, and hardly changes from line to line.
            outlook = NOT_AS_IT_GOES if self._warned else outlook
            self._warned = True
        line = [name, *fields(snapshot), outlook]
        self._say(f"{format_duration(snapshot.t):>8}  " + ", ".join(part for part in line if part))

    def _say(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)

    def _tell(self, outcome: Mapping[str, Any]) -> None:
        self._say(story(outcome))


def make_display(
    *, as_json: bool, stream: TextIO | None = None, beside: TextIO | None = None
) -> Display:
    """The display that fits `stream` (standard output); `beside` is standard error."""
    stream = stream or sys.stdout
    if as_json:
        return RecordDisplay(stream, beside or sys.stderr)
    if stream.isatty() and os.environ.get("TERM") not in (None, "", "dumb"):
        # rich is heavy, and most runs in scripts need none of it.
        from vmferry.cli.live_display import LiveDisplay

        return LiveDisplay(stream)
    return PlainDisplay(stream)


def stage_number(snapshot: Snapshot) -> int:
    """1 to 3, as in STAGES; 4 when all is done."""
    return _NUMBERS[snapshot.stage]


def fields(snapshot: Snapshot) -> list[str]:
    """The figures of a snapshot, each with its unit; none before the first byte."""
    if snapshot.sent == 0:
        return []
    told = [
        f"pass {snapshot.pass_number}",
        f"dirty left {format_size(snapshot.dirty_left)}",
        f"sent {format_size(snapshot.sent)}",
        format_network_rate(snapshot.speed),
    ]
    if snapshot.dirty_rate is not None:
        told.append(f"guest dirties {format_rate(snapshot.dirty_rate)}")
    if snapshot.throttle:
        told.append(f"throttled by {snapshot.throttle} %")
    return told


def going(snapshot: Snapshot) -> str:
    """When it will be done, or the numbers that say why it will not; empty where none is known."""
    if snapshot.estimate is not None and snapshot.will_not_converge:
        return f"{NOT_AS_IT_GOES}: {_why_not(snapshot.estimate)}"
    if snapshot.eta is not None:
        return f"done in {_interval(*snapshot.eta)}"
    if snapshot.pass_eta is not None:
        return f"this pass done in {_interval(*snapshot.pass_eta)}"
    return ""


def _why_not(estimate: Estimate) -> str:
    remedies = " or ".join(
        f"at least {format_rate(remedy.after)}"
        if remedy.change == "bandwidth"
        else f"a downtime limit of {format_duration(remedy.after / 1000)}"
        for remedy in estimate.remedies
    )
    enough = f" {remedies[0].upper()}{remedies[1:]} would do." if remedies else ""
    return f"{estimate.why}{enough}"


def _interval(low: float, high: float | None) -> str:
    if high is None:
        return f"{format_duration(low)} at the least, perhaps never"
    shortest, longest = format_duration(low), format_duration(high)
    if shortest == longest:
        return f"about {shortest}"
    if low < 0.0005:
        return f"at most {longest}"
    return f"{shortest} to {longest}"
