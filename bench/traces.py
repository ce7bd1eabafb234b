"""Does a forecast from a recording that is cut early say what happened? FOLDER [AFTER_PASS …]

Every `*.jsonl` of FOLDER is cut after pass 2 (or the passes given) and forecast from there; what
happened is read from the whole file. A recording that ended only long after its passes hovered is
one that did not converge: its load ended first. `strict` leaves out the sample that shows the cut
pass to be over.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from vmferry.precopy.case_of import case_of, cut
from vmferry.precopy.forecast import Forecast, forecast_many
from vmferry.precopy.passes import PassTracker
from vmferry.precopy.sample import Sample
from vmferry.precopy.trace import Trace, read_trace
from vmferry.precopy.trend import falls
from vmferry.units import MIB


@dataclass(frozen=True, slots=True)
class Happened:
    """How the recorded migration really went."""

    converged: bool
    throttled: bool
    seconds: float
    bytes: int

    @property
    def scenario(self) -> str:
        if self.throttled:
            return "throttled"
        return "converges" if self.converged else "does-not-converge"


def happened(trace: Trace) -> Happened:
    """From the last sample with figures, and whether the passes still fell before the end."""
    tracker = PassTracker()
    last: Sample | None = None
    throttled = False
    for item in trace.inputs:
        tracker.receive(item)
        if isinstance(item, Sample) and item.total > 0:
            last = item
            throttled = throttled or item.throttle > 0
    if last is None:
        raise SystemExit("a recording without figures")
    dirty = [one.dirty_bytes for one in tracker.passes if one.n > 1 and not one.switchover]
    hovered = not falls(dirty[: len(dirty) * 3 // 4])
    converged = last.status == "completed" and (throttled or not hovered)
    return Happened(converged, throttled, last.total_time_ms / 1000, last.transferred)


def told(forecast: Forecast) -> str:
    """The scenario that a forecast names."""
    if forecast.given["auto_converge"] and forecast.verdict == "converges":
        return "throttled"
    return forecast.verdict


def main() -> None:
    """Forecast every recording of the folder and print a line for each, and the errors."""
    arguments = [one for one in sys.argv[1:] if one != "strict"]
    strict = len(arguments) < len(sys.argv[1:])
    if not arguments:
        raise SystemExit(__doc__)
    files = sorted(Path(arguments[0]).glob("*.jsonl"))
    for after in [int(one) for one in arguments[1:]] or [2]:
        _report(files, after, strict)


def _report(files: list[Path], after: int, strict: bool) -> None:
    right = 0
    errors = defaultdict(list)
    print(f"after pass {after}")
    for file in files:
        with file.open() as lines:
            trace = read_trace(lines, file.name)
        truth = happened(trace)
        early = cut(trace, after)
        if strict:
            early = Trace(early.header, early.items[:-1])
        forecast = forecast_many([case_of(early)])[0]
        good = told(forecast) == truth.scenario
        right += good
        line = f"  {file.stem:28} {truth.scenario:18} {told(forecast):18}"
        line += f" p {forecast.p_converge:.2f} {'' if good else 'WRONG'}"
        if forecast.total_ms is not None and forecast.bytes is not None and truth.converged:
            off_time = forecast.total_ms.p50 / 1000 / truth.seconds - 1
            off_bytes = forecast.bytes.p50 / truth.bytes - 1
            errors[truth.scenario].append((abs(off_time), abs(off_bytes)))
            line += (
                f"  {truth.seconds:6.1f} s {off_time:+6.1%}"
                f"  {truth.bytes / MIB:6.0f} MiB {off_bytes:+6.1%}"
            )
        print(line)
    print(f"  {right} of {len(files)} right")
    for scenario, pairs in errors.items():
        time, size = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"  {scenario}: median error of time {time:.1%}, of bytes {size:.1%}")


if __name__ == "__main__":
    main()
