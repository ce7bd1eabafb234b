"""The case that a recorded migration is: what was measured, how it was set up, where it stands.

A recording need not say how QEMU was set up. The downtime limit shows in `expected-downtime` while
QEMU has not computed that yet; a speed that does not waver is a rate limit; and a pass that ends
with far more left than the threshold was ended by auto-converge's own sync (QEMU 9.2 and later,
system/cpu-throttle.c).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from math import inf
from statistics import fmean, pstdev
from typing import Any

from vmferry.errors import UsageError
from vmferry.precopy.case import MOST_BANDWIDTH, Case, Link, Setting, speed_of
from vmferry.precopy.convergence import quantile
from vmferry.precopy.draws import Z90
from vmferry.precopy.forecast_map import WINDOW_SECONDS
from vmferry.precopy.outcome import PassRecord
from vmferry.precopy.passes import PassTracker
from vmferry.precopy.phases import Window
from vmferry.precopy.profile import DirtyProfile, Source
from vmferry.precopy.profile_of import profile_of_passes, standing_of, zero_pages_per_second
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.sample import ENDED, Event, Sample
from vmferry.precopy.speeds import Seen, behind_limit, burst_of, look_at
from vmferry.precopy.trace import Item, Note, Trace
from vmferry.units import MIB

_DEFAULT_LIMIT_MS = 300
# QEMU's own measure of a speed that a rate limit holds differs by less from window to window.
_STEADY = 0.03
# Zero pages among those sent between two samples: hardly any, or hardly any others.
_FEW, _MOSTLY = 0.1, 0.9
_PAGE_HEADER = 8
# Fewer bytes than pages of the full size take: QEMU compressed them, or sent differences.
_SAVED = 1.1
_AS_RECORDED = "as recorded"
_DIP_WINDOWS = 5
# A pass that leaves more than this many thresholds, and what a poll may hide, did not end there.
_FAR_ABOVE, _HIDDEN = 2.0, 1.25
# What a switchover comes to after its STOP, and how many syncs QEMU has made since then.
_SYNCS_SINCE_STOP = {"pre-switchover": 0, "device": 0, "completed": 1}


def cut(trace: Trace, after_pass: int) -> Trace:
    """The recording up to the first sample that shows pass `after_pass` to be over.

    Raises UsageError where it does not reach so far.
    """
    items: list[Item] = []
    reached = 0
    for item in trace.items:
        items.append(item)
        if isinstance(item, Sample):
            reached = max(reached, item.sync_count)
            if reached > after_pass:
                return Trace(trace.header, tuple(items))
    if reached < after_pass:
        raise UsageError(
            f"the trace cannot be cut after pass {after_pass}: it ends in pass {reached}",
            hint="--after-pass takes the number of a pass that the trace shows",
        )
    return trace


def case_of(trace: Trace, source: Source = "trace", name: str = "the trace") -> Case:
    """The migration in `trace` as a case; it stands where the recording ends, if it was not over.

    Raises UsageError where pass 1 is not over.
    """
    seen = Watch()
    for item in trace.items:
        if isinstance(item, Sample) and item.post_copy:
            break  # no pass follows, and nothing is dirtied at the source
        seen.receive(item)
    tracker, last = seen.tracker, seen.last
    current = None if tracker.ended else tracker.current
    profile = seen.profile(source, _started_at(trace.header), phased=True)
    if last is None or profile is None:
        raise UsageError(
            f"{name} ends in pass 1: what the guest dirties shows at the end of a pass",
            hint="a forecast needs a recording of at least one whole pass",
        )
    shown = look_at(trace.items)
    setting, link = _setting(trace, seen, shown)
    if current is None and setting.auto_converge:
        # It is forecast from the begin, where QEMU had not throttled it yet.
        setting = replace(setting, throttle=seen.throttles.get(1, 0.0))
    if source == "trace":
        setting, profile = _with_savings(setting, profile, tracker.passes)
    host = shown.host
    rate = zero_pages_per_second(tracker.passes, speed_of(setting, link))
    return Case(
        profile=profile,
        setting=setting,
        link=link,
        host=host if rate is None else replace(host, zero_pages_per_second=rate),
        standing=standing_of(current, last) if current is not None else None,
    )


@dataclass(slots=True)
class Watch:
    """What the samples and notes of a migration told so far."""

    tracker: PassTracker = field(default_factory=PassTracker)
    last: Sample | None = None
    throttles: dict[int, float] = field(default_factory=dict)
    speeds: list[float] = field(default_factory=list)
    mixed_speeds: list[float] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    limit_ms: int | None = None
    most_limit_ms: int = 0
    zero_end: int = 0
    gaps: list[float] = field(default_factory=list)
    resent: int = 0
    resent_zero: int = 0
    highest_cap: float = 0.0
    begun: list[tuple[int, float]] = field(default_factory=list)
    stopped: tuple[int, tuple[Window, ...]] | None = None
    ended_below: tuple[Window, ...] = ()

    @property
    def polling(self) -> float:
        """The usual time between two samples, in seconds."""
        return quantile(self.gaps, 0.5) if self.gaps else 0.0

    @property
    def zero_share(self) -> float:
        """The share of zero pages in what was sent again."""
        return self.resent_zero / self.resent if self.resent else 0.0

    def profile(
        self,
        source: Source,
        at: float = 0.0,
        *,
        latest: int | None = None,
        threshold: float | None = None,
        phased: bool = False,
    ) -> DirtyProfile | None:
        """What the passes tell of the guest, as profile_of_passes has it."""
        if self.last is None:
            return None
        left_for = max((self.limit_ms or 0) / 1000 - WINDOW_SECONDS, 0.0)
        return profile_of_passes(
            self.tracker.passes,
            None if self.tracker.ended else self.tracker.current,
            self.last,
            throttles=self.throttles,
            zero_end=self.zero_end,
            zero_share=self.zero_share,
            polling=self.polling,
            source=source,
            at=at,
            latest=latest,
            threshold=threshold,
            phased=phased,
            ended_below=self.ended_below,
            ended_leaving=self.last.mbps * 1e6 / 8 * left_for,
        )

    def receive(self, item: Item) -> None:
        """Take the next input, in the order of time."""
        if isinstance(item, Note):
            self._note(item)
            return
        self.tracker.receive(item)
        if isinstance(item, Event):
            self._see_switchover(item)
        if isinstance(item, Event) or item.total == 0 or item.status in ENDED:
            return
        before = self.last or Sample(0.0, "setup", page_size=item.page_size)
        self._see_zero_pages(before, item)
        self._see_speed(before, item)
        self.gaps.append(item.t - before.t)
        self.last = item
        throttles = self.throttles
        throttles[item.sync_count] = max(throttles.get(item.sync_count, 0), item.throttle)
        if self.limit_ms is None and item.dirty_pages_rate == 0:
            self.limit_ms = item.expected_downtime_ms

    def _see_switchover(self, event: Event) -> None:
        """The passes after which QEMU found less left than the threshold."""
        if event.side != "source":
            return
        if event.name == "MIGRATION_PASS":
            self.begun.append((int(event.data["pass"]), event.t))
        elif event.name == "STOP" and self.last is not None:
            below = _ended_below(self.begun, self.last.mbps * 1e6 / 8)
            self.stopped = len(self.begun), below
        elif event.name == "MIGRATION" and self.stopped is not None:
            # Where somebody else stopped the VM, QEMU does not switch over, or after a pass more.
            status, (begun, below) = event.data.get("status"), self.stopped
            syncs = _SYNCS_SINCE_STOP.get(str(status), -1)
            if len(self.begun) - begun <= syncs:
                self.ended_below = below

    def _see_speed(self, before: Sample, sample: Sample) -> None:
        """The speed as QEMU measures it, apart where zero pages took part of the time.

        A cap that was lowered hides it: only what was seen under the highest one counts.
        """
        cap = self.parameters.get("max-bandwidth") or inf
        if cap < self.highest_cap:
            return
        if cap > self.highest_cap:
            self.highest_cap = cap
            self.speeds.clear()
            self.mixed_speeds.clear()
        speed = sample.mbps * 1e6 / 8
        if speed <= 0:
            if sample.transferred <= before.transferred or sample.t <= before.t:
                return
            speed = (sample.transferred - before.transferred) / (sample.t - before.t)
        sent = sample.sent_pages - before.sent_pages
        mixed = sample.zero_pages - before.zero_pages > _FEW * sent
        (self.mixed_speeds if mixed else self.speeds).append(speed)

    def _see_zero_pages(self, before: Sample, sample: Sample) -> None:
        """How far back from the end of pass 1 there were hardly any others, and how many later."""
        sent = sample.sent_pages - before.sent_pages
        zero = sample.zero_pages - before.zero_pages
        if sample.sync_count == 1:
            self.zero_end = self.zero_end + zero * sample.page_size if zero > _MOSTLY * sent else 0
        elif before.sync_count == sample.sync_count:
            # What pass 1 left over comes first in pass 2: a stretch across a sync may hold it.
            self.resent += sent
            self.resent_zero += zero

    def _note(self, note: Note) -> None:
        value = note.value
        if not isinstance(value, dict):
            return
        if note.kind == "parameters":
            self.parameters.update(value)
        elif note.kind == "action" and note.result in (None, "ok"):
            if value.get("kind") == "bandwidth":
                self.parameters["max-bandwidth"] = value.get("bytes_per_second")
            elif value.get("kind") == "downtime-limit":
                self.parameters["downtime-limit"] = value.get("milliseconds")
        limit = _positive(self.parameters.get("downtime-limit"))
        self.most_limit_ms = max(self.most_limit_ms, limit or 0)


def _ended_below(begun: Sequence[tuple[int, float]], speed: float) -> tuple[Window, ...]:
    """What the last two passes before a switchover found at the most: no sample may have seen them.

    What a pass leaves over lies up to one look below the threshold. So the last one found no more
    than is sent in a look, and the one before no more than was sent then until the next look.
    """
    found: list[Window] = []
    sent_for = WINDOW_SECONDS
    for (before, start), (number, end) in reversed([*pairwise(begun)][-2:]):
        if number != before + 1 or end <= start:
            break
        found.insert(0, Window(start, end, max(speed * sent_for, MIB), at_most=True))
        sent_for = end - start + WINDOW_SECONDS
    return tuple(found)


def _setting(trace: Trace, seen: Watch, shown: Seen) -> tuple[Setting, Link]:
    limits = trace.header.get("limits")
    limits = limits if isinstance(limits, Mapping) else {}
    # A rehearsal changes QEMU's limit as it goes; what was planned is in its header.
    limit_ms = _positive(
        limits.get("downtime_limit_ms"), seen.parameters.get("downtime-limit"), seen.limit_ms
    )
    cap = _positive(limits.get("bandwidth"), seen.parameters.get("max-bandwidth"))
    cap = cap if cap is not None and cap <= MOST_BANDWIDTH else None
    told = "bandwidth" in limits or "max-bandwidth" in seen.parameters
    link = shown.link if told and (shown.free or shown.capped) else None
    if link is None:
        cap, link = link_by_speeds(seen.speeds or seen.mixed_speeds, cap, told)
        if shown.switchovers and shown.link is not None:
            link = replace(link, burst=shown.link.burst)
    speed = min(cap or link.speed.p50, link.speed.p50)
    throttle = seen.throttles.get(seen.last.sync_count, 0.0) if seen.last else 0.0
    setting = Setting(
        bandwidth=cap or 0,
        downtime_limit_ms=limit_ms or _DEFAULT_LIMIT_MS,
        throttle=throttle,
    )
    most_ms = max(setting.downtime_limit_ms, seen.most_limit_ms)
    fastest = max([speed, *seen.speeds])
    steered = throttle > 0 or _ended_early(seen, fastest * most_ms / 1000, fastest)
    return replace(setting, auto_converge=steered), link


def _with_savings(
    setting: Setting, profile: DirtyProfile, passes: Sequence[PassRecord]
) -> tuple[Setting, DirtyProfile]:
    """With the compression, and the differences (XBZRLE), that the recorded migration had."""
    first, again = (
        _ratio([one for one in passes if (one.n == 1) is is_first], profile.page_size)
        for is_first in (True, False)
    )
    if first > _SAVED:
        setting = replace(setting, compress=_AS_RECORDED)
        profile = replace(profile, compress={_AS_RECORDED: first})
    if again > _SAVED * max(first, 1.0):
        setting = replace(setting, xbzrle=True)
        profile = replace(profile, xbzrle_ratio=again / max(first, 1.0))
    return setting, profile


def _ratio(passes: Sequence[PassRecord], page_size: int) -> float:
    """Bytes that the pages would have taken, over those that were sent."""
    pages = sum(one.sent_pages - one.zero_pages for one in passes if not one.switchover)
    sent = sum(one.sent_bytes - 9 * one.zero_pages for one in passes if not one.switchover)
    return pages * (page_size + _PAGE_HEADER) / sent if sent > 0 else 1.0


def link_by_speeds(speeds: Sequence[float], cap: int | None, told: bool) -> tuple[int | None, Link]:
    """The cap, where nothing told of it, and the link by QEMU's own measure of its speed.

    Raises UsageError where there are no speeds.
    """
    if not speeds:
        raise UsageError("the trace has no sample that shows a speed, so there is no forecast")
    low, middle, high = (quantile(speeds, share) for share in (0.1, 0.5, 0.9))
    if not told and high - low < _STEADY * middle:
        cap = round(middle)
    speed = _average(speeds)
    if cap and speed.p50 > (1 - _STEADY) * cap:
        speed = behind_limit(speed)
    return cap, Link(speed, burst_of(speed))


def _average(speeds: Sequence[float]) -> Quantiles:
    """What a pass of many windows goes at; a dip lasts for some of them."""
    mean = fmean(speeds)
    error = Z90 * (pstdev(speeds) / max(len(speeds) / _DIP_WINDOWS, 1.0) ** 0.5)
    return Quantiles(max(mean - error, min(speeds)), mean, min(mean + error, max(speeds)))


def _ended_early(seen: Watch, threshold: float, speed: float) -> bool:
    far = _FAR_ABOVE * threshold + speed * seen.polling * _HIDDEN
    following = [*seen.tracker.passes[1:], seen.tracker.current]
    return any(
        one.n > 1 and one.left_bytes > far and later is not None and not later.switchover
        for one, later in zip(seen.tracker.passes, following, strict=True)
    )


def _positive(*values: Any) -> int | None:
    """The first that is a positive number."""
    return next((round(v) for v in values if isinstance(v, int | float) and v > 0), None)


def _started_at(header: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(header.get("started_at"))).timestamp()
    except ValueError:
        return 0.0
