"""Watches a pre-copy that must not switch over, and ends it when its verdict is certain.

QEMU runs with the planned limits, so that what passes leave over is what they would leave over in
a move. Only where a pass could end in a switchover does it get the least limit for a few passes: in
pass 1, when nothing is known of the guest yet, and where the passes come near the threshold. Those
probes leave nothing over, so they are short windows of the dirty curve, from which the verdict is
computed as for the planned limit: what begins small without left-overs need not do so with them.

Passes that get small get too short to be stopped in time. So the last few are slowed down with the
bandwidth, each to half the time of the one before: they are the windows that the end of a move
depends on, and with fewer bytes in flight than QEMU could send before it looks at its limits again.
"""

from __future__ import annotations

from typing import Literal

from vmferry.policy.base import (
    Abandon,
    Action,
    Decision,
    Input,
    Limits,
    SetBandwidth,
    SetDowntimeLimit,
)
from vmferry.precopy.convergence import Convergence, Estimate, dirty_points
from vmferry.precopy.outcome import PassRecord
from vmferry.precopy.passes import PassTracker
from vmferry.precopy.phases import comes_and_goes, cycle_seen
from vmferry.precopy.profile_of import windows_of
from vmferry.precopy.sample import Event, Sample, has_ended
from vmferry.precopy.trend import falls
from vmferry.units import format_duration

Answer = Literal["converges", "does-not-converge", "uncertain"]

# The least that keeps QEMU from switching over: with 0 it would do so without a last sync.
LEAST_LIMIT_MS = 1
_PROBES = 3
# Pass after pass the model has to say that it does not converge, by far; else the passes have to
# show no falling trend.
_CERTAIN_PASSES = 4
_FAR = 2.0
_MOST_PASSES = 60
# A busy stretch looks like a steady load: that a move never ends takes watching for a while, and
# where the load comes and goes for longer, until a whole cycle was seen. Seconds after pass 1.
_WATCHED, _MOST_WATCHED = 10.0, 40.0
_COMES_AND_GOES = "the load comes and goes"
# A pass that is expected to leave less than this share above the threshold may end below it.
_NEAR = 1.15
# QEMU looks at its limits ten times a second: a shorter pass is over before it has seen a new one.
_SHORTEST_PASS = 0.1
_EXPONENT = 0.8
# The passes that are slowed down: the longest, and how many.
_LONGEST_WINDOW, _MOST_WINDOWS = 0.8, 4
_HALF_WINDOW = 0.05
_BY_WINDOWS: dict[Answer, str] = {
    "converges": "the passes get below the threshold",
    "uncertain": "the passes come near the threshold",
}


class Rehearse:
    """Answers whether a move with `limits` would converge, within `seconds`."""

    name = "rehearse"

    def __init__(self, limits: Limits, seconds: float) -> None:
        self.answer: Answer = "uncertain"
        self.why = ""
        # By somebody, or by QEMU for a switchover: that is not told apart here.
        self.stopped = False
        # The passes themselves have not decided: a forecast from all of them knows better.
        self.undecided = False
        self._limits = limits
        self._seconds = seconds
        self._tracker = PassTracker()
        self._convergence = Convergence(self._tracker, limits.downtime_limit_ms)
        self._limit_ms = LEAST_LIMIT_MS
        # When QEMU has surely seen the planned limit.
        self._planned_from = 0.0
        self._judged = 1
        # The latest pass whose sync is over: QEMU counts it when its sync begins.
        self._begun = 1
        self._windows = 0
        self._probes_left = _PROBES
        self._certain = 0
        # It never converges as it is, and is watched for a quiet phase.
        self._watches = False
        self._over = False
        self._now = 0.0

    def start(self) -> Decision:
        actions = (SetDowntimeLimit(self._limit_ms), SetBandwidth(self._limits.bandwidth))
        return Decision(actions, self._seconds)

    def receive(self, item: Input) -> Decision:
        if self._over:
            return Decision()
        self._now = max(self._now, item.t)
        if isinstance(item, Sample | Event):
            self._tracker.receive(item)
            self._convergence.receive(item)
            if has_ended(item):
                self._over = True
                return Decision()
            self._begun = max(self._begun, _pass_begun(item))
        if isinstance(item, Event) and item.name == "STOP" and item.side == "source":
            self.stopped = True
            return self._end("uncertain", "the VM was stopped while it was rehearsed")
        if isinstance(item, Sample) and self._begun >= item.sync_count > self._judged:
            self._judged = item.sync_count
            action = self._at_pass()
            if isinstance(action, Abandon):
                return Decision((action,))
            if action is not None:
                return Decision((action,), self._seconds)
        if item.t >= self._seconds:
            return self._end("uncertain", self._out_of_time())
        return Decision((), self._seconds)

    def _at_pass(self) -> Action | None:
        """What to do at the begin of a pass, of which it is known how much is dirty."""
        current, estimate = self._tracker.current, self._convergence.estimate()
        if current is None or estimate is None:
            return None
        if self._judged > _MOST_PASSES and not self._watches:
            return self._abandon("uncertain", f"still uncertain after {_MOST_PASSES} passes")
        if self._windows:
            return self._at_window(current, estimate)
        if self._limit_ms == LEAST_LIMIT_MS:
            return self._at_probe(current, estimate)
        passes = self._tracker.passes
        as_planned = passes and passes[-1].start_ms / 1000 >= self._planned_from
        if as_planned and current.dirty_bytes <= estimate.threshold:
            return self._abandon("converges", f"pass {current.n} began below the threshold")
        return self._at_planned_pass(current, estimate)

    def _at_probe(self, current: PassRecord, estimate: Estimate) -> Action | None:
        """After a pass with the least limit; pass 1 is one."""
        first = current.n == 2
        # A probe leaves nothing over, so what is newly dirty is all; it is known better.
        guessed = "dirty_bytes" in current.estimated
        dirty = current.new_bytes if guessed else current.dirty_bytes
        if estimate.verdict == "converges":
            small = dirty <= estimate.threshold
            expected = self._expected_dirty(dirty, current, estimate, left_over=0.0)
            # QEMU sends a pass within one window of its rate limit at once, and is through with it
            # and with what comes after it before anybody can cancel.
            too_short = min(dirty, expected) < _SHORTEST_PASS * estimate.speed
            if too_short or (small and self._probes_left == 0):
                return self._at_window(current, estimate)
            if small:
                self.answer = "converges"
                self._probes_left -= 1
                return None
        if self._is_near(current, estimate):
            if self._probes_left == 0:
                return self._at_window(current, estimate)
            self._probes_left -= 1
            return None
        self._probes_left = self._probes_left if first else 0
        return self._set_limit(self._limits.downtime_limit_ms)

    def _at_window(self, current: PassRecord, estimate: Estimate) -> Action:
        """Slow this pass down to half of the one before, if it can be stopped in time then."""
        # Of no time at all where the wall clock, which QEMU's events go by, was set back.
        before = max(self._tracker.passes[-1].duration_ms, 1.0) / 1000
        seconds = min(before / 2, _LONGEST_WINDOW)
        # What pass 1 left over may be zero pages, which take no time.
        speed = max(current.new_bytes / seconds, 1.0)
        if self._limits.bandwidth:
            speed = min(speed, self._limits.bandwidth)
        # What the next one would find, were the curve in proportion to time.
        found = current.new_bytes * min(current.new_bytes / speed / before, 1.0)
        if self._windows == 0:
            self.undecided = True
            converges = estimate.verdict == "converges"
            self.answer = "converges" if converges else "uncertain"
        if found < _SHORTEST_PASS * speed or self._windows == _MOST_WINDOWS:
            return self._abandon(self.answer, _BY_WINDOWS[self.answer])
        self._windows += 1
        return SetBandwidth(round(speed))

    def _at_planned_pass(self, current: PassRecord, estimate: Estimate) -> Action | None:
        self._watches = self._never(estimate)
        if self._watches and self._has_watched():
            return self._abandon("does-not-converge", self._why_never())
        if self._is_near(current, estimate):
            self._probes_left = max(self._probes_left - 1, 0)
            return self._set_limit(LEAST_LIMIT_MS)
        return None

    def _has_watched(self) -> bool:
        """Whether a quiet phase, if the load has any, would have been seen by now."""
        passes = self._tracker.passes
        first = passes[0].duration_ms / 1000
        if self._now < min(first + _WATCHED, self._seconds / 2):
            return False
        windows = windows_of(passes, self._tracker.current)
        if not comes_and_goes(windows):
            return True
        # What the passes prove for busy phases the forecast weighs against quiet ones.
        self.undecided = True
        return cycle_seen(windows) or self._now >= first + _MOST_WATCHED

    def _why_never(self) -> str:
        why = f"{self._judged} passes were enough to tell"
        if not self.undecided:
            return why
        watched = format_duration(self._now)
        return f"{_COMES_AND_GOES}, as {self._judged} passes in {watched} showed"

    def _never(self, estimate: Estimate) -> bool:
        """Whether the model and the passes agree for good that it does not converge."""
        if estimate.verdict != "does-not-converge":
            self._certain = 0
            return False
        self._certain += 1
        dirty = [record.dirty_bytes for record in self._tracker.passes if record.n > 1]
        far = estimate.hovers_at > _FAR * estimate.threshold
        return (far and self._certain >= _CERTAIN_PASSES) or not falls(dirty)

    def _is_near(self, current: PassRecord, estimate: Estimate) -> bool:
        """Whether this pass, with the planned limit, might end in a switchover."""
        threshold, speed = estimate.threshold, estimate.speed
        left_over = max(threshold - speed * _HALF_WINDOW, threshold / 2)
        expected = self._expected_dirty(current.dirty_bytes, current, estimate, left_over)
        return expected <= _NEAR * threshold

    def _expected_dirty(
        self, dirty: float, current: PassRecord, estimate: Estimate, left_over: float
    ) -> float:
        """What the next pass begins with, by the latest window alone: it tells of the load now."""
        points = dirty_points(self._tracker.passes, current)
        if not points:
            return float("inf")
        last, working_set = points[-1], max(estimate.working_set, 1.0)
        whole = min(last.new / max(1 - last.left / working_set, 0.01), working_set)
        seconds = max(dirty - left_over, 0.0) / estimate.speed
        new: float = whole * min(seconds / last.seconds, 1.0) ** _EXPONENT
        return left_over + new * max(1 - left_over / working_set, 0.0)

    def _set_limit(self, milliseconds: int) -> Action | None:
        if milliseconds == self._limit_ms:
            return None
        self._limit_ms = milliseconds
        self._planned_from = self._now + _SHORTEST_PASS
        return SetDowntimeLimit(milliseconds)

    def _out_of_time(self) -> str:
        spent = format_duration(self._seconds)
        # Passes that are slowed down near the threshold leave it undecided too.
        if self.undecided and not self._windows:
            return f"{_COMES_AND_GOES}, and {spent} were not enough to see a whole cycle"
        if self.answer == "converges":
            return "the passes get below the threshold"
        if self._tracker.number <= 1:
            return f"pass 1 was not over after {spent}"
        return f"{spent} were not enough to tell"

    def _end(self, answer: Answer, why: str) -> Decision:
        return Decision((self._abandon(answer, why),))

    def _abandon(self, answer: Answer, why: str) -> Abandon:
        self._over = True
        if self.answer != "converges":
            self.answer = answer
        self.why = why
        return Abandon(why)


def _pass_begun(item: Sample | Event) -> int:
    if isinstance(item, Event) and (item.name, item.side) == ("MIGRATION_PASS", "source"):
        return int(item.data["pass"])
    return 0
