"""The two speeds of a link, as intervals, from what earlier migrations and probes showed.

R is the speed of the passes without a cap, B that of the switchover, which no cap holds. Both are
of the slowest on the way: QEMU at either end, or the network. A cap that was reached says only
that R is no less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from vmferry.precopy.case import MOST_BANDWIDTH, Host, Link
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import Item, Note
from vmferry.units import MIB

# Where nobody knows: from a network of 1 Gbit/s to one thread of QEMU on a fast network.
UNKNOWN = Quantiles(100 * MIB, 400 * MIB, 1200 * MIB)
# QEMU alone, where nobody knows: one thread sends. The least is TCG's on a slow core.
SENDER = Quantiles(200 * MIB, 600 * MIB, 1500 * MIB)
# QEMU with a cap sends in bursts, ten a second: a window holds a few of them, or its speed wavers.
_CAPPED_SECONDS, _FREE_SECONDS = 1.0, 0.2
# Below this share of the cap something else was in the way.
_REACHED = 0.85
# Pages of zeros cost time and no bytes: where they may take more of a window than this, it tells
# nothing of the speed; and only where there is little else it tells how fast they go.
_MOST_ZERO_TIME, _MOSTLY_ZEROS = 0.25, 0.998
_LEAST_BURST = 1 * MIB
# Syncs of a move that switches over with what pass 1 left: of pass 1, after it, at the switchover.
_FEW_SYNCS = 3
# What a few windows of one day miss of other days.
_OTHER_DAYS = 0.1
# A cap that was reached: the speed behind it may be this many times as high.
_BEHIND_CAP = (1.0, 2.0, 8.0)
# The vCPUs stand during the switchover, so the sender has their cores and no page is sent twice.
_BURST_OF_SPEED = (1.0, 1.1, 1.5)
_SPEED_OF_BURST = (0.1, 0.5, 1.0)
# Of a switchover that sends no memory: the device state of a small guest.
_DEVICE_SECONDS = 0.005
# From one switchover to the next of the same guest: threads wake up sooner or later.
_FIXED_SPREAD = (0.75, 1.6)


@dataclass(frozen=True, slots=True)
class Switchover:
    """What was sent while the vCPUs stood: bytes, and the seconds from the order to go on to the
    destination's last word. `downtime` is all of the time that they stood. `first_time`: much of it
    had not been sent before, so that the destination met these pages for the first time."""

    bytes: float
    seconds: float
    downtime: float
    first_time: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one link in one migration or in several; `+` adds them up.

    Bytes per second: `free` without a cap in the way, `capped` with one that was reached. Zero
    pages a second. Seconds that the setup took. Each switchover.
    """

    free: tuple[float, ...] = ()
    capped: tuple[float, ...] = ()
    zero_pages: tuple[float, ...] = ()
    setups: tuple[float, ...] = ()
    switchovers: tuple[Switchover, ...] = ()

    def __add__(self, other: Seen) -> Seen:
        return Seen(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Seen)))

    @property
    def link(self) -> Link | None:
        """Both speeds; None where nothing was seen of either."""
        burst = _burst(self.switchovers)
        speed = _speed(self.free, self.capped, burst)
        if speed is None:
            return None
        return Link(speed, burst or burst_of(speed))

    @property
    def reached(self) -> float:
        """What the passes came to in their fast windows; 0 where none was seen."""
        # Windows under a cap are long enough for the highest to count.
        seen = [max(self.capped, default=0.0)]
        if self.free:
            seen.append(float(np.percentile(self.free, 90)))
        return max(seen)

    @property
    def host(self) -> Host:
        """What both ends take for themselves, as far as it was seen; usual values else."""
        usual = Host()
        line = _line(self.switchovers)
        device = _DEVICE_SECONDS
        if line is not None:
            device = min(max(line[1], 0.0), *(one.seconds for one in self.switchovers))
        fixed = [max(one.downtime - one.seconds, 0.0) + device for one in self.switchovers]
        return Host(
            setup_seconds=_median(self.setups, usual.setup_seconds),
            zero_pages_per_second=_median(self.zero_pages, usual.zero_pages_per_second),
            fixed_downtime_seconds=_fixed(fixed) if fixed else usual.fixed_downtime_seconds,
        )


def quantiles(values: Sequence[float]) -> Quantiles:
    """The quantiles of what was seen, wider where that is little."""
    p10, p50, p90 = (float(one) for one in np.percentile(values, (10, 50, 90)))
    wider = 1 + _OTHER_DAYS / len(values) ** 0.5
    return Quantiles(p10 / wider, p50, p90 * wider)


def _fixed(seconds: Sequence[float]) -> Quantiles:
    """What else than memory takes in a switchover, no narrower than it usually is."""
    found = quantiles(seconds)
    low, high = _FIXED_SPREAD
    return Quantiles(min(found.p10, low * found.p50), found.p50, max(found.p90, high * found.p50))


def speed_of_probe(windows: Sequence[tuple[float, int]], limit: int) -> tuple[Quantiles, bool]:
    """The speed in the windows (seconds, bytes) of a probe, and whether its `limit` held it.

    The first fifth is left out: a network connection starts slowly. Raises ValueError where too
    few windows are left.
    """
    kept = [size / seconds for seconds, size in windows[max(len(windows) // 5, 1) :] if seconds > 0]
    if len(kept) < 3:
        raise ValueError("too short")
    speed = quantiles(kept)
    return speed, limit > 0 and speed.p50 >= _REACHED * limit


def behind_limit(speed: Quantiles) -> Quantiles:
    """What may be behind a limit that was reached."""
    return _spread(Quantiles.exact(speed.p50), _BEHIND_CAP)


def burst_of(speed: Quantiles) -> Quantiles:
    """B where only R is known."""
    return _spread(speed, _BURST_OF_SPEED)


def slower(one: Quantiles, other: Quantiles) -> Quantiles:
    """The speed of two things in a row."""
    return Quantiles(min(one.p10, other.p10), min(one.p50, other.p50), min(one.p90, other.p90))


def look_at(items: Iterable[Item]) -> Seen:
    """What one recorded migration shows; times in seconds since migrate was issued."""
    cap = 0
    windows: list[_Window] = []
    start: Sample | None = None
    last: Sample | None = None
    events: dict[str, float] = {}
    for item in items:
        if isinstance(item, Note):
            cap, before = _cap_after(item, cap), cap
            start = start if cap == before else None
            continue
        if isinstance(item, Event):
            if item.side == "source" and item.name == "MIGRATION":
                events.setdefault(str(item.data.get("status")), item.t)
            continue
        last = item if item.total else last
        if item.status != "active" or not item.total:
            start = None
        elif start is None or item.sync_count != start.sync_count:
            start = item
        elif item.t - start.t >= (_CAPPED_SECONDS if cap else _FREE_SECONDS):
            windows.append(_Window.between(start, item, cap))
            start = item
    telling = [one for one in windows if one.tells_speed]
    # A cap that was reached most of the time was what held it; a dip below it is only a dip.
    held = {one.cap for one in telling if one.cap and _mostly_reached(telling, one.cap)}
    seen = Seen(
        free=tuple(one.speed for one in telling if one.cap not in held),
        capped=tuple(one.speed for one in telling if one.cap in held),
        zero_pages=tuple(one.zero_rate for one in windows if one.zeros >= _MOSTLY_ZEROS),
    )
    return seen if last is None else seen + _ending(last, events)


@dataclass(frozen=True, slots=True)
class _Window:
    """Part of one pass: bytes per second beside the time of zero pages; zero pages per second,
    the share of them (nan of none), and the share of the time that they usually take."""

    speed: float
    zero_rate: float
    zeros: float
    zero_time: float
    cap: int

    @classmethod
    def between(cls, a: Sample, b: Sample, cap: int) -> _Window:
        seconds = b.t - a.t
        pages = b.sent_pages - a.sent_pages
        zero_pages = b.zero_pages - a.zero_pages
        zero_time = min(zero_pages / Host().zero_pages_per_second / seconds, 0.99)
        return cls(
            (b.transferred - a.transferred) / (seconds * (1 - zero_time)),
            zero_pages / seconds,
            zero_pages / pages if pages > 0 else math.nan,
            zero_time,
            cap,
        )

    @property
    def tells_speed(self) -> bool:
        return self.zero_time <= _MOST_ZERO_TIME and self.speed > 0

    @property
    def reached_cap(self) -> bool:
        return self.cap > 0 and self.speed >= _REACHED * self.cap


def _mostly_reached(windows: Iterable[_Window], cap: int) -> bool:
    return 2 * sum(one.reached_cap for one in windows if one.cap == cap) >= sum(
        one.cap == cap for one in windows
    )


def _cap_after(note: Note, cap: int) -> int:
    """The cap in force, from what a trace says of parameters and of what a policy did."""
    value = note.value
    now = None
    if isinstance(value, dict) and note.kind == "parameters":
        now = value.get("max-bandwidth")
    elif isinstance(value, dict) and note.kind == "action" and note.result == "ok":
        now = value.get("bytes_per_second")
    if not isinstance(now, int):
        return cap
    return now if now <= MOST_BANDWIDTH else 0


def _ending(last: Sample, events: dict[str, float]) -> Seen:
    setups = () if last.setup_ms is None else (last.setup_ms / 1000,)
    if last.status != "completed" or not last.downtime_ms:
        return Seen(setups=setups)
    if not {"device", "completed"} <= events.keys():
        return Seen(setups=setups)
    seconds = events["completed"] - events["device"]
    switchover = Switchover(
        last.downtime_bytes,
        seconds,
        last.downtime_ms / 1000,
        first_time=last.sync_count <= _FEW_SYNCS,
    )
    return Seen(setups=setups, switchovers=(switchover,))


def _speed(
    free: Sequence[float], capped: Sequence[float], burst: Quantiles | None
) -> Quantiles | None:
    """R: what was seen of it, else what a reached cap and B leave open."""
    if free:
        return quantiles(free)
    below = None if burst is None else _spread(burst, _SPEED_OF_BURST)
    if not capped:
        return below
    # R is no less than the highest cap that was reached.
    behind = behind_limit(Quantiles.exact(max(capped)))
    return behind if below is None else slower(_at_least(below, behind.p10), behind)


def _burst(switchovers: Sequence[Switchover]) -> Quantiles | None:
    """B from the switchovers that sent most: in the others what else takes time hides it.

    Memory that the destination meets for the first time goes more slowly.
    """
    switchovers = [one for one in switchovers if not one.first_time] or switchovers
    most = max((one.bytes for one in switchovers if one.seconds > 0), default=0.0)
    if most < _LEAST_BURST:
        return None
    large = [one for one in switchovers if one.seconds > 0 and one.bytes >= most / 2]
    line = _line(switchovers)
    # Without a line the rest of the time is unknown: none of it makes B lowest.
    fixed = max(line[1], 0.0) if line is not None else _DEVICE_SECONDS
    found = quantiles([one.bytes / max(one.seconds - fixed, one.seconds / 4) for one in large])
    if line is not None:
        return found
    least = min(one.bytes / one.seconds for one in large)
    return Quantiles(min(least, found.p10), found.p50, 2 * found.p90)


def _line(switchovers: Sequence[Switchover]) -> tuple[float, float] | None:
    """Seconds for each byte, and seconds at 0 bytes, as most pairs of switchovers have it.

    None where the sizes lie too near each other. Source: H. Theil and P. K. Sen's estimator.
    """
    ordered = sorted((one.bytes, one.seconds) for one in switchovers)
    if len(ordered) < 3 or ordered[-1][0] < 4 * max(ordered[0][0], _LEAST_BURST / 16):
        return None
    slopes = [
        (b[1] - a[1]) / (b[0] - a[0])
        for i, a in enumerate(ordered)
        for b in ordered[i + 1 :]
        if b[0] > a[0]
    ]
    slope = float(np.median(slopes))
    if slope <= 0:
        return None
    return slope, float(np.median([seconds - slope * size for size, seconds in ordered]))


def _median(values: Sequence[float], usual: float) -> float:
    return float(np.median(values)) if values else usual


def _at_least(one: Quantiles, floor: float) -> Quantiles:
    return Quantiles(max(one.p10, floor), max(one.p50, floor), max(one.p90, floor))


def _spread(one: Quantiles, factors: tuple[float, float, float]) -> Quantiles:
    return Quantiles(one.p10 * factors[0], one.p50 * factors[1], one.p90 * factors[2])
