"""`vmferry rehearse --watch`: short rehearsals over hours, since a load has a time of day."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmferry.cli.display import Display, RecordDisplay
from vmferry.cli.output import Output, table
from vmferry.units import format_size

if TYPE_CHECKING:
    from vmferry.precopy.profile import DirtyProfile
    from vmferry.precopy.progress import Snapshot
    from vmferry.rehearsal.request import RehearsalRequest

# The windows that decide how a migration ends, and that of a usual pass.
WINDOWS = (0.1, 0.3, 1.0)
# By exit status: it would converge, that is uncertain, it would not.
_RANKS = {0: 0, 8: 1, 7: 2}
HEADINGS = ("HOUR", "REHEARSALS", "IN 100 ms", "IN 300 ms", "IN 1 s")


class LineDisplay(Display):
    """A line for each rehearsal; while it runs what goes wrong, and no more."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output
        self._told = False

    def _due(self, snapshot: Snapshot, since: float) -> bool:
        return False

    def _draw(self, snapshot: Snapshot) -> None:
        pass

    def _say(self, text: str) -> None:
        # What was found would be too much, time and again.
        if not self._told:
            self._output.note(text)

    def _tell(self, outcome: Mapping[str, Any]) -> None:
        self._told = True
        why = str(outcome["why"]).partition("\n")[0].removeprefix("a rehearsal: ")
        self._output.say(f"{time.strftime('%H:%M:%S')}  run {outcome['run']}: {why}")


def rehearse_over(request: RehearsalRequest, seconds: float, every: float, output: Output) -> int:
    """Rehearse for `seconds`, `every` seconds from begin to begin; each is a run of its own.

    Returns the exit status of the worst answer. Ctrl-C ends it early. Raises VmferryError.
    """
    from vmferry.cli.rehearse import EXIT_STATUS, INTERRUPTED, carry_out
    from vmferry.precopy.profile import DirtyProfile

    end = time.monotonic() + seconds
    worst = 0
    profiles: list[DirtyProfile] = []
    try:
        while True:
            next_one = time.monotonic() + every
            done = carry_out(request, _display(output))
            worst = _worse(worst, done.status)
            if done.found is not None and done.found["profile"] is not None:
                profiles.append(DirtyProfile.from_json(done.found["profile"]))
            if done.status not in EXIT_STATUS.values() or next_one > end:
                break
            time.sleep(max(next_one - time.monotonic(), 0.0))
    except KeyboardInterrupt:
        worst = INTERRUPTED
    finally:
        # What hours have told is told too where the last one is refused.
        _tell(by_hour(profiles), output)
    return worst


def _worse(one: int, other: int) -> int:
    """The worse of two exit statuses; what is no answer is worse than any answer."""
    return max(one, other, key=lambda status: _RANKS.get(status, len(_RANKS)))


def by_hour(profiles: Sequence[DirtyProfile]) -> dict[int, list[DirtyProfile]]:
    """By the hour of the day, local time, in which each was measured."""
    hours: dict[int, list[DirtyProfile]] = defaultdict(list)
    for profile in profiles:
        if profile.points:
            hours[time.localtime(profile.points[0].at).tm_hour].append(profile)
    return dict(sorted(hours.items()))


def _tell(hours: Mapping[int, Sequence[DirtyProfile]], output: Output) -> None:
    from vmferry.precopy.profile import merge

    rows: list[Sequence[str]] = [HEADINGS]
    for hour, profiles in hours.items():
        merged = merge(profiles, time.time())
        output.record(
            {
                "event": "hour",
                "format": 1,
                "hour": hour,
                "rehearsals": len(profiles),
                "profile": merged.to_json(),
            }
        )
        # Whatever it is by then: a mean of loads would be the load of no moment.
        most = [max(profile.curve(window) for profile in profiles) for window in WINDOWS]
        rows.append((f"{hour:02}", str(len(profiles)), *map(format_size, most)))
    if hours:
        output.say("The most that the guest dirtied, by the hour:")
        output.say(table(rows))


def _display(output: Output) -> Display:
    return RecordDisplay(sys.stdout, sys.stderr) if output.as_json else LineDisplay(output)
