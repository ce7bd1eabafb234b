"""What the models of others say of a migration. Pure: figures in, a prediction out.

Each is given the best input that it could have, from the same rehearsal as our forecast:

- the measured speed on the wire, the measured non-zero memory, and the same time for the set-up
  and for the scan of the zero pages, which none of them has;
- the dirty rate of the window that suits it best. A rate is a curve's height over a window, so it
  depends on the window; which one is best for a model was settled before any result was there:
  the models with one rate are run with both ends, the *long* window of pass 1 (which rules the
  time and the bytes) and the *short* one of the downtime limit (which rules the verdict), and are
  judged by whichever does better; mVM's two segments are those that fit the whole curve best.

Bytes, bytes per second and seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmferry.precopy.curve import DirtyCurve

# What a zero page takes on the wire: its address and one byte (QEMU, migration/ram.c).
ZERO_PAGE_BYTES = 9
_MOST_PASSES = 100_000


@dataclass(frozen=True, slots=True)
class Inputs:
    """One case as it was measured before the move.

    `zero_seconds` is what set-up and zero pages add to pass 1, `fixed_downtime` what the switchover
    takes beside the sending, `dirty` what the last sync of the rehearsal left to send.
    """

    ram_bytes: float
    non_zero_bytes: float
    zero_pages: int
    zero_seconds: float
    speed: float
    downtime_limit: float
    fixed_downtime: float
    curve: DirtyCurve
    working_set: float
    dirty: float

    @property
    def threshold(self) -> float:
        """What can be sent within the downtime limit."""
        return self.speed * self.downtime_limit

    @property
    def pass_1_seconds(self) -> float:
        return self.non_zero_bytes / self.speed + self.zero_seconds

    @property
    def long_rate(self) -> float:
        """The dirty rate over a window as long as pass 1."""
        return self.curve(self.pass_1_seconds) / self.pass_1_seconds

    @property
    def short_rate(self) -> float:
        """The dirty rate over a window as long as the downtime limit."""
        return self.curve(self.downtime_limit) / self.downtime_limit


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says. None is what it does not tell, or a move that never ends."""

    converges: bool
    seconds: float | None = None
    bytes: float | None = None
    downtime: float | None = None


NEVER = Prediction(converges=False)


def geometric(given: Inputs, rate: float) -> Prediction:
    """Each pass is the one before times rate / speed, until it fits the downtime limit.

    Source: Liu et al., HPDC 2011: V_0 = M, V_{i+1} = D V_i / R, n = ceil(log_lambda(threshold /
    M)), V_mig = M (1 - lambda^{n+1}) / (1 - lambda), downtime = V_n / R + T_resume.
    """
    return _passes(given, lambda seconds: rate * seconds)


def simgrid(given: Inputs, rate: float) -> Prediction:
    """The same, but a pass never finds more than the working set.

    Source: SimGrid, plugins/vm/VmLiveMigration.cpp: updated = min(computed x dp_rate, dp_cap),
    while remaining > bandwidth x max_downtime. dp_cap is the working set, the limit this case's.
    """
    return _passes(given, lambda seconds: min(rate * seconds, given.working_set))


def _passes(given: Inputs, updated: Callable[[float], float]) -> Prediction:
    """Send all that is there, see what was written meanwhile, until that is small enough."""
    volume, seconds = given.non_zero_bytes, given.pass_1_seconds
    sent, total = 0.0, 0.0
    for _ in range(_MOST_PASSES):
        if volume <= given.threshold:
            downtime = volume / given.speed + given.fixed_downtime
            return _completed(given, total + downtime, sent + volume, downtime)
        sent, total = sent + volume, total + seconds
        following = updated(seconds)
        # It rises with the volume: what does not shrink never will (pass 1 may be an exception,
        # since its zero pages take time and are no volume).
        if following >= volume and sent > given.non_zero_bytes:
            return NEVER
        volume, seconds = following, following / given.speed
    return NEVER


def mvm(given: Inputs) -> Prediction:
    """Memory over bandwidth, and what the hot and the cold pages add to it. It knows no limit.

    Source: Kherbache et al., IEEE TCC 2017, as in btrplace/scheduler, view/CNetwork.java:
    durMin = memUsed / bw; where durMin > HD: cold = (HS + (durMin - HD) CR) / (bw - CR),
    hot = (HS / bw) ((HS / HD) / (bw - HS / HD)), total = durMin + cold + hot; else
    total = durMin + ((HS / HD) durMin) / (bw - HS / HD). Its bandwidth is the measured one here,
    not a ninth of the nominal Mbit/s.
    """
    hot_size, hot_seconds, cold_rate = two_segments(given.curve)
    speed = given.speed
    hot_rate = hot_size / hot_seconds if hot_seconds else 0.0
    if speed <= max(hot_rate, cold_rate):
        return NEVER
    least = given.pass_1_seconds
    if least > hot_seconds:
        cold = (hot_size + (least - hot_seconds) * cold_rate) / (speed - cold_rate)
        hot = hot_size / speed * (hot_rate / (speed - hot_rate))
        more = cold + hot
    else:
        more = hot_rate * least / (speed - hot_rate)
    return _completed(given, least + more, given.non_zero_bytes + more * speed, None)


def two_segments(curve: DirtyCurve) -> tuple[float, float, float]:
    """HS, HD and CR of the two straight lines with a corner on the curve that fit it best.

    Best is the least of the largest relative errors at the curve's own corners. The first line goes
    from the origin through (HD, HS), the second from there to the end of the curve.
    """
    corners = curve.corners[1:]
    if not corners:
        return 0.0, 0.0, 0.0
    last_seconds, last_size = corners[-1]

    def segments(corner: tuple[float, float]) -> tuple[float, float, float]:
        seconds, size = corner
        if seconds == last_seconds:
            return size, seconds, 0.0
        return size, seconds, (last_size - size) / (last_seconds - seconds)

    def error(corner: tuple[float, float]) -> float:
        size, until, slope = segments(corner)
        return max(
            abs((size * t / until if t <= until else size + slope * (t - until)) / truth - 1)
            for t, truth in corners
        )

    return segments(min(corners, key=error))


def expected_downtime(given: Inputs) -> Prediction:
    """What QEMU tells: what is left after a sync, over the bandwidth. It knows no total.

    Source: QEMU 7.2, migration/migration.c, migration_update_counters: expected_downtime =
    remaining / bandwidth. As a verdict: it converges where that is within the limit.
    """
    expected = given.dirty / given.speed
    return Prediction(converges=expected <= given.downtime_limit, downtime=expected)


def ram_over_bandwidth(given: Inputs) -> Prediction:
    """Memory over bandwidth and no more: it always converges, and nothing is sent twice.

    Source: the rule of thumb of the products' documentation; CloudSim has it with half the
    bandwidth. Given the same zero-page term it is the non-zero memory that counts.
    """
    return _completed(given, given.pass_1_seconds, given.non_zero_bytes, None)


def _completed(given: Inputs, seconds: float, sent: float, downtime: float | None) -> Prediction:
    wire = sent + given.zero_pages * ZERO_PAGE_BYTES
    return Prediction(converges=True, seconds=seconds, bytes=wire, downtime=downtime)


# By the name that the tables have. A model with two rows is judged by the better of them.
BASELINES: dict[str, Callable[[Inputs], Prediction]] = {
    "geometric, long window": lambda given: geometric(given, given.long_rate),
    "geometric, short window": lambda given: geometric(given, given.short_rate),
    "SimGrid, long window": lambda given: simgrid(given, given.long_rate),
    "SimGrid, short window": lambda given: simgrid(given, given.short_rate),
    "mVM": mvm,
    "QEMU's expected-downtime": expected_downtime,
    "RAM / bandwidth": ram_over_bandwidth,
}
