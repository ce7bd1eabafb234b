"""The passes of many migrations at once, by QEMU's rules (migration/migration.c and ram.c).

A pass that begins with V bytes dirty ends when QEMU, which looks once a rate-limit window (every
50 ms of sending where no limit holds it), finds less than the threshold left; u is left over then.
Meanwhile the guest dirties W(T), a part of it among what is left over, so the next pass begins with
V' = u + W(T) - overlap. Where V is what a window of S finds, W(S) = V, the pass finds
W(S) + W(T) - W(S + T) of it again, as the two windows together find W(S + T), and the same share of
what is left over. Below the threshold QEMU switches over; a V' that finds no new low any more
hovers.

Everything is an array of rows, one for each draw of each case; sizes are bytes of memory, zero
pages in full, unless they are said to be on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmferry.precopy.phases import own_seconds
from vmferry.precopy.shape import Floats, Indices, Shapes

Flags = NDArray[np.bool_]

# BUFFER_DELAY of migration.c, and MAX_WAIT of ram.c: when QEMU looks at what is left.
WINDOW_SECONDS, LOOK_SECONDS = 0.1, 0.05
ZERO_PAGE_BYTES = 9
_MOST_STEPS, _MOST_ALIKE = 200, 50.0
# A curve with a lower exponent is flat; no set is older than e^9 windows.
_FLAT, _MOST_TIMES = 0.05, 9.0
_SHORTEST = 1e-6
# So many passes without a new low: the passes hover (u takes all its values meanwhile).
_HOVERING, _NEW_LOW = 12, 0.98
# Of a load with phases: so many cycles without one, within so many passes.
_CYCLES, _MOST_PHASED_STEPS = 3, 600
# Auto-converge (ram.c, migration_trigger_throttle): twice more than half of what was sent.
_PERIOD_SECONDS, _HIGH, _FIRST, _STEP, _MOST_THROTTLE = 1.0, 0.5, 20.0, 10.0, 99.0


@dataclass(frozen=True, slots=True)
class Rows:
    """The inputs of all draws. Bytes, seconds, bytes per second on the wire.

    `uncapped` is the speed without a cap. `wire` and `first_wire` are bytes on the wire for a byte
    of memory that is sent again, or in pass 1. `look` is how often QEMU looks whether a pass is
    over, `limited` whether its rate limit holds it. `zero_end` are the zero pages at the end of the
    memory. `clock` is the guest's time in a second of the curve's. Where `phased`, the guest is
    `busy` and `quiet` for so long (phases.py), and at `place` in them when it begins. `overlap` is
    how many times as often as others the left-over pages are dirtied again. Where `running`, it is
    in pass `number` with `left` to send, `zero_left` zero pages among them.
    """

    speed: Floats
    burst: Floats
    uncapped: Floats
    limit: Floats
    look: Floats
    limited: Flags
    wire: Floats
    first_wire: Floats
    memory: Floats
    zero_end: Floats
    page_size: Floats
    setup: Floats
    zero_pages_per_second: Floats
    sync: Floats
    sync_per_page: Floats
    fixed: Floats
    phase: Floats
    clock: Floats
    phased: Flags
    busy: Floats
    quiet: Floats
    pace: Floats
    place: Floats
    overlap: Floats
    post_copy: Flags
    auto_converge: Flags
    throttle: Floats
    running: Flags
    t: Floats
    sent: Floats
    number: Floats
    left: Floats
    zero_left: Floats
    elapsed: Floats


@dataclass(slots=True)
class Ends:
    """How each row ended: whether it converged, and the figures of those that did.

    `margin` is the logarithm of how far each one is on its side: what can be sent over what is
    dirtied where it converges, the threshold over the least that a pass left where it does not.
    In the `shortest` pass `dirtied` bytes are found and `sendable` can be sent, at `speed`.
    """

    converged: Flags
    margin: Floats
    seconds: Floats
    bytes: Floats
    downtime: Floats
    passes: Floats
    shortest: Floats
    dirtied: Floats
    sendable: Floats
    speed: Floats


@dataclass(slots=True)
class _Course:
    """Where the rows that are not over yet are; `rows` says which they are.

    The latest `window` of the guest's time found `found` bytes, longer ones more by `exponent`.
    """

    rows: Indices
    dirty: Floats
    window: Floats
    found: Floats
    exponent: Floats
    t: Floats
    sent: Floats
    number: Floats
    least: Floats
    since: NDArray[np.int64]
    low_at: Floats
    throttle: Floats
    high: NDArray[np.int64]
    period: Floats
    period_dirty: Floats
    period_sent: Floats

    def take(self, kept: Flags) -> None:
        """Forget the rows that are over."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name)[kept])


def run(inputs: Rows, shapes: Shapes) -> Ends:
    """Let every row go on to its switchover, or until it hovers."""
    count = len(inputs.speed)
    ends = Ends(
        converged=np.zeros(count, dtype=np.bool_),
        margin=np.zeros(count),
        seconds=np.full(count, np.inf),
        bytes=np.full(count, np.inf),
        downtime=np.full(count, np.inf),
        passes=np.full(count, np.inf),
        **_shortest_pass(inputs, shapes),
    )
    course = _first_pass(inputs, shapes)
    _end(course, inputs, ends, inputs.post_copy)
    _decide(course, inputs, ends)
    for _ in range(_MOST_PHASED_STEPS if inputs.phased.any() else _MOST_STEPS):
        if not len(course.rows):
            break
        _pass(course, inputs, shapes)
        _decide(course, inputs, ends)
    # Passes may be too short for all of the cycles: one that brought no new low is enough then.
    _give_up(course, inputs, ends, inputs.phased[course.rows] & _hovers(course, inputs, 1))
    # What still falls after so many passes is on the edge: its margin stays 0.
    outrun = np.log(ends.sendable / np.maximum(ends.dirtied, 1.0))
    # What ends in a quiet phase does so by far.
    outrun = np.where(inputs.auto_converge | inputs.phased, np.inf, outrun)
    ends.margin = np.where(ends.converged, np.maximum(outrun, ends.margin), ends.margin)
    return ends


def _first_pass(inputs: Rows, shapes: Shapes) -> _Course:
    """The pass at hand: pass 1, or what is left of the pass that a running migration is in."""
    i = inputs
    rows = np.arange(len(i.speed))
    threshold = i.speed * i.limit
    first = i.number <= 1
    wire = np.where(first, i.first_wire, i.wire)
    chunk = i.speed * i.look / wire
    # Where in its window QEMU comes below the threshold, nobody knows beforehand.
    over = np.where(
        i.running & ~first,
        _over(i.left, threshold, chunk),
        # Zero pages count in full, and the last ones come last.
        np.minimum(np.maximum(threshold - i.phase * chunk - i.zero_end, 0.0), i.left),
    )
    to_send = i.left - over
    took = i.setup * ~i.running + to_send * wire / i.speed
    took = took + i.zero_left / i.zero_pages_per_second
    window = took + i.elapsed
    guest_window = _guest_time(i, rows, window, i.throttle, i.t - i.elapsed)
    new, again, exponent = _found(shapes, rows, guest_window, i.left)
    # What pass 1 leaves over are addresses of its own, among all of the memory.
    by_chance = np.minimum(new / np.maximum(i.memory, 1.0), 1.0)
    again = np.where(first, by_chance, again)
    dirty = over + new - _overlap(over, new, again, i.overlap)
    took = took + _sync(i, rows, new)
    nothing = np.zeros(len(rows), dtype=np.int64)
    course = _Course(
        rows=rows,
        dirty=dirty,
        window=guest_window,
        found=new,
        exponent=exponent,
        t=i.t + took,
        sent=i.sent + to_send * wire + i.zero_left * ZERO_PAGE_BYTES,
        number=i.number + 1,
        least=dirty,
        since=nothing,
        low_at=i.t + took,
        throttle=i.throttle,
        high=nothing.copy(),
        period=np.zeros(len(rows)),
        period_dirty=np.zeros(len(rows)),
        period_sent=np.zeros(len(rows)),
    )
    # Of pass 1 all that was sent counts, of a later one what nobody saw is taken for the same rate.
    _raise_throttle(course, inputs, window, new, i.speed * window)
    return course


def _pass(course: _Course, inputs: Rows, shapes: Shapes) -> None:
    """One pass of all rows that are left."""
    c, rows = course, course.rows
    speed, wire, look = inputs.speed[rows], inputs.wire[rows], inputs.look[rows]
    chunk, threshold = speed * look / wire, speed * inputs.limit[rows]
    over = _over(c.dirty, threshold, chunk)
    to_send = c.dirty - over
    took = to_send * wire / speed
    window = took + inputs.sync[rows] * ~inputs.limited[rows]
    guest_window = _guest_time(inputs, rows, window, c.throttle, c.t)
    since = _window_of(c.dirty, c.window, c.found, c.exponent)
    new, before, both = shapes.new(np.stack((guest_window, since, since + guest_window)), rows)
    again = _again(before, new, both)
    c.exponent = np.log(both / new) / np.log1p(since / guest_window)
    c.window, c.found = guest_window, new
    dirty = over + new - _overlap(over, new, again, inputs.overlap[rows])
    singly = inputs.auto_converge[rows] | inputs.phased[rows]
    times = np.where(singly, 1.0, _alike(c.dirty, dirty, threshold, chunk))
    c.dirty = c.dirty + times * (dirty - c.dirty)
    c.t = c.t + times * (took + _sync(inputs, rows, new))
    c.sent = c.sent + times * to_send * wire
    c.number = c.number + times
    lower = c.dirty < c.least * _NEW_LOW
    c.since = np.where(lower, 0, c.since + 1)
    c.low_at = np.where(lower, c.t, c.low_at)
    c.least = np.where(lower, c.dirty, c.least)
    _raise_throttle(course, inputs, window, new, to_send * wire)


def _over(dirty: Floats, threshold: Floats, chunk: Floats) -> Floats:
    """What is left over when QEMU, looking once a chunk, finds less than the threshold."""
    chunks = np.maximum(np.floor((dirty - threshold) / chunk) + 1, 0.0)
    over: Floats = np.maximum(dirty - chunks * chunk, 0.0)
    return over


def _alike(dirty: Floats, following: Floats, threshold: Floats, chunk: Floats) -> Floats:
    """How many passes in a row are as long as this one, and so change what is dirty as much.

    Near the edge there are dozens: they are gone through in one step.
    """
    change = following - dirty
    place = (dirty - threshold) / chunk
    room = np.where(change > 0, np.floor(place) + 1 - place, place - np.floor(place)) * chunk
    steps = np.floor(room / np.maximum(np.abs(change), 1e-9))
    alike: Floats = np.minimum(np.maximum(steps, 1.0), _MOST_ALIKE)
    return alike


def _guest_time(
    inputs: Rows, rows: Indices, seconds: Floats, throttle: Floats, start: Floats | None = None
) -> Floats:
    """How long the guest runs in a window, in seconds of the curve's: from `start`, else busy."""
    if start is not None and inputs.phased.any():
        busy, quiet = inputs.busy[rows], inputs.quiet[rows]
        began = inputs.place[rows] * (busy + quiet) + start
        own = own_seconds(began, began + seconds, busy, quiet, inputs.pace[rows])
        seconds = np.where(inputs.phased[rows], own, seconds)
    guest: Floats = seconds * inputs.clock[rows] * (1 - throttle / 100)
    return np.maximum(guest, _SHORTEST)


def _found(
    shapes: Shapes, rows: Indices, window: Floats, dirty: Floats
) -> tuple[Floats, Floats, Floats]:
    """What a window finds, the share of `dirty` that it finds again, and the exponent there."""
    new, twice = shapes.new(np.stack((window, 2 * window)), rows)
    exponent = np.log2(twice / new)
    since = _window_of(dirty, window, new, exponent)
    before, both = shapes.new(np.stack((since, since + window)), rows)
    return new, _again(before, new, both), exponent


def _window_of(dirty: Floats, window: Floats, found: Floats, exponent: Floats) -> Floats:
    """About how long a window would find `dirty`, where one of `window` finds `found`."""
    times = np.log(np.maximum(dirty / found, 1.0)) / np.maximum(exponent, _FLAT)
    longer: Floats = window * np.exp(np.minimum(times, _MOST_TIMES))
    return longer


def _again(before: Floats, new: Floats, both: Floats) -> Floats:
    """The share of what was dirty `before` that is found again; `both` is all of the two."""
    share: Floats = np.maximum(before + new - both, 0.0) / np.maximum(before, 1.0)
    return np.minimum(share, 1.0)


def _overlap(over: Floats, new: Floats, again: Floats, times: Floats) -> Floats:
    """What is both left over and dirtied anew."""
    overlap: Floats = np.minimum(over * np.minimum(again * times, 1.0), new)
    return overlap


def _sync(inputs: Rows, rows: Indices, new: Floats) -> Floats:
    """How long a sync keeps the sender: under a rate limit it fits into what the limit spares."""
    pages = new / inputs.page_size[rows]
    seconds = inputs.sync[rows] + inputs.sync_per_page[rows] * pages
    return np.where(inputs.limited[rows], 0.0, seconds)


def _raise_throttle(
    course: _Course, inputs: Rows, seconds: Floats, new: Floats, sent: Floats
) -> None:
    """What auto-converge does at a sync."""
    c = course
    steered = inputs.auto_converge[c.rows]
    if not steered.any():
        return
    c.period, c.period_dirty = c.period + seconds, c.period_dirty + new
    c.period_sent = c.period_sent + sent
    judged = steered & (c.period > _PERIOD_SECONDS)
    c.high = c.high + (judged & (c.period_dirty > _HIGH * c.period_sent))
    more = c.high >= 2
    raised = np.where(c.throttle > 0, c.throttle + _STEP, _FIRST)
    c.throttle = np.where(more, np.minimum(raised, _MOST_THROTTLE), c.throttle)
    c.high = np.where(more, 0, c.high)
    c.since = np.where(steered & (c.throttle < _MOST_THROTTLE), 0, c.since)
    for name in ("period", "period_dirty", "period_sent"):
        setattr(c, name, np.where(judged, 0.0, getattr(c, name)))


def _decide(course: _Course, inputs: Rows, ends: Ends) -> None:
    """Switch over what is below its threshold, and give up what hovers."""
    threshold = inputs.speed[course.rows] * inputs.limit[course.rows]
    _end(course, inputs, ends, course.dirty < threshold)
    _give_up(course, inputs, ends, _hovers(course, inputs, _CYCLES))


def _hovers(course: _Course, inputs: Rows, cycles: int) -> Flags:
    """A load with phases hovers while it is busy: it has to do so for some `cycles`."""
    rows = course.rows
    seconds = np.where(inputs.phased[rows], cycles * (inputs.busy[rows] + inputs.quiet[rows]), 0.0)
    hovers: Flags = (course.since >= _HOVERING) & (course.t - course.low_at >= seconds)
    return hovers


def _end(course: _Course, inputs: Rows, ends: Ends, over: Flags) -> None:
    """Switch these over: by pre-copy's rule, or by decree where post-copy is on."""
    if not over.any():
        return
    c, rows = course, course.rows[over]
    dirty = c.dirty[over]
    decreed = inputs.post_copy[rows]
    wire = dirty * inputs.wire[rows]
    fixed = inputs.fixed[rows] + inputs.sync[rows]
    ends.converged[rows] = True
    allowed = np.where(decreed, np.inf, inputs.speed[rows] * inputs.limit[rows])
    ends.margin[rows] = np.log(allowed / np.maximum(dirty, inputs.page_size[rows]))
    # What pass 1 left over the destination meets for the first time.
    burst = inputs.burst[rows]
    burst = np.where(c.number[over] <= 2, np.minimum(burst, inputs.uncapped[rows]), burst)
    ends.downtime[rows] = fixed + np.where(decreed, 0.0, wire / burst)
    after = np.where(decreed, wire / inputs.speed[rows], 0.0)
    ends.seconds[rows] = c.t[over] + ends.downtime[rows] + after
    ends.bytes[rows] = c.sent[over] + wire
    ends.passes[rows] = c.number[over] + 1
    c.take(~over)


def _give_up(course: _Course, inputs: Rows, ends: Ends, hovering: Flags) -> None:
    if not hovering.any():
        return
    rows = course.rows[hovering]
    threshold = inputs.speed[rows] * inputs.limit[rows]
    ends.margin[rows] = np.minimum(np.log(threshold / course.least[hovering]), 0.0)
    course.take(~hovering)


def _shortest_pass(inputs: Rows, shapes: Shapes) -> dict[str, Floats]:
    """What decides near the threshold: whether one look's worth is sent faster than dirtied."""
    rows = np.arange(len(inputs.speed))
    seconds = inputs.look + inputs.sync * ~inputs.limited
    guest_window = _guest_time(inputs, rows, seconds, inputs.throttle)
    chunk = inputs.speed * inputs.look / inputs.wire
    threshold = inputs.speed * inputs.limit
    over = np.maximum(threshold - chunk / 2, 0.0)
    new, again, _ = _found(shapes, rows, guest_window, np.maximum(threshold, chunk))
    return {
        "shortest": seconds,
        "dirtied": new - _overlap(over, new, again, inputs.overlap),
        "sendable": chunk,
        "speed": inputs.speed,
    }
