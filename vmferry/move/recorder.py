"""Records a move as it goes: trace lines to the journal and to whoever shows it, passes, cost.

Recording must never harm the move: where the journal cannot take lines, it says so once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from vmferry.journal import Journal, JournalError
from vmferry.move.cost import CostMeter
from vmferry.policy.base import Action, ActionResult, Input, SetBandwidth, SetDowntimeLimit
from vmferry.precopy.forecast import Forecast, Verdict
from vmferry.precopy.foresight import Foresight, foretold
from vmferry.precopy.sample import Event, Sample, has_ended
from vmferry.precopy.trace import Item, Note, Trace

# Each flush is a write to the disk that is waited for.
_FLUSH_SECONDS = 2.0


class Recorder:
    """Hears every input of the controller and every stage of the move.

    With `foretells` it makes forecasts meanwhile: each holds the guardian up for some ms.
    """

    def __init__(
        self,
        journal: Journal,
        run: str,
        foresight: Foresight,
        cost: CostMeter,
        emit: Callable[[str], None],
        *,
        foretells: bool = True,
    ) -> None:
        self.tracker = foresight.tracker
        # How it would have gone on; None where not even a speed was seen.
        self.verdict: Verdict | Literal["unknown"] | None = None
        self._foresight = foresight
        self._foretells = foretells
        self.last: Sample | None = None
        self.error = ""
        self._items: list[Item] = []
        self._header: Mapping[str, Any] = {}
        self._journal: Journal | None = journal
        self._run = run
        self._cost = cost
        self._emit = emit
        self._lines: list[str] = []
        self._flushed = time.monotonic()

    def hear(self, item: Input) -> None:
        """One input of the controller, in order."""
        match item:
            case Sample():
                self.error = item.error or self.error
                if item.total > 0 or self.last is None:
                    # A cancelled migration has lost its figures.
                    self.last = item
                self._cost.poll()
                # The raw reply is long, and the journal has it.
                self._items.append(replace(item, raw={}))
                self._foresight.receive(item)
                self.line({"t": _t(item.t), "query-migrate": item.raw})
                self._foretell(item.t)
            case Event():
                self._items.append(item)
                self._foresight.receive(item)
                raw = {"event": item.name, "data": item.data}
                self.line({"t": _t(item.t), "event": raw, "side": item.side})
            case ActionResult():
                result = item.error if item.error is not None else "ok"
                action = action_json(item.action)
                self._items.append(Note(item.t, "action", action, result))
                self.line({"t": _t(item.t), "action": action, "result": result})

    def foretell(self) -> None:
        """Before the start: what is foretold, where enough is known."""
        found = self._made(self._foresight.before)
        if found is not None:
            words = foretold(found, self._foresight.known.source)
            self._emit(json.dumps({"message": words}))
            self.line({"t": 0.0, "forecast": found.to_json()})

    def judge(self, *, anew: bool = False) -> None:
        """Keep the verdict of the latest forecast, or of one that is made `anew`.

        That takes some ms, in which nothing else is done: not where the VM may stand still for its
        switchover. None where the migration came to nothing that could be explained.
        """
        latest = self._foresight.latest
        if anew:
            latest = self._made(self._foresight.due) or latest
        if latest is not None:
            self.verdict = latest.verdict
        elif self.last is not None and self.last.transferred > 0:
            self.verdict = "unknown"

    def _foretell(self, t: float) -> None:
        """Write down the forecast that is due, if one is."""
        found = self._made(self._foresight.due) if self._foretells else None
        if found is not None:
            self.line({"t": _t(t), "forecast": found.to_json()})

    def _made(self, forecast: Callable[[], Forecast | None]) -> Forecast | None:
        """The forecast. Whatever is wrong with it, the move goes on."""
        try:
            return forecast()
        except Exception as error:
            self._foretells = False
            message = f"there are no more forecasts, by a bug: {type(error).__name__}: {error}"
            self._emit(json.dumps({"message": message}))
            return None

    @property
    def trace(self) -> Trace:
        """What was recorded so far of the migration itself."""
        return Trace(self._header, tuple(self._items))

    def ended_at(self) -> float:
        """Seconds from `migrate` to the end: the VM running at the destination, or QEMU's end."""
        times = [one.t for one in self._items if isinstance(one, Event) and _is_end(one)]
        return times[-1] if times else (self.last.t if self.last is not None else 0.0)

    def line(self, line: Mapping[str, Any]) -> None:
        """One line of the recorded trace."""
        self._header = line.get("vmferry", self._header)
        text = json.dumps(line)
        self._lines.append(text)
        self._emit(text)
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand what has gathered to the journal; without room there, tell it once and go on."""
        lines, self._lines = self._lines, []
        self._flushed = time.monotonic()
        if self._journal is None or not lines:
            return
        try:
            self._journal.append(self._run, lines)
        except JournalError as error:
            self._journal = None
            message = {"message": f"the run is no longer recorded: {error.message}"}
            self._emit(json.dumps(message))


def action_json(action: Action) -> dict[str, Any]:
    """An action as the recorded trace has it."""
    match action:
        case SetDowntimeLimit(limit):
            return {"kind": "downtime-limit", "milliseconds": limit}
        case SetBandwidth(bandwidth):
            return {"kind": "bandwidth", "bytes_per_second": bandwidth}
    return {"kind": "abandon", "why": action.why}


def _is_end(event: Event) -> bool:
    if event.side == "destination":
        return event.name == "RESUME"
    return has_ended(event)


def _t(t: float) -> float:
    return round(t, 6)
