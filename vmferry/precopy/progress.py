"""How far a migration is, for the display: one snapshot at a time, without any words or colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vmferry.precopy.convergence import Convergence, Estimate
from vmferry.precopy.passes import PassTracker
from vmferry.precopy.sample import Event, Sample

Stage = Literal["setup", "passes", "switchover", "handover", "done"]

_STAGES: tuple[Stage, ...] = ("setup", "passes", "switchover", "handover", "done")
_STAGE_OF_STATUS: dict[str, Stage] = {
    "active": "passes",
    "pre-switchover": "switchover",
    "device": "switchover",
    "completed": "handover",
}
# Long enough to smooth the bursts of QEMU's rate limit, short enough to follow a changed speed.
_SMOOTHING_SECONDS = 1.0
# How much of the bar pass 1 fills: most of the data, but what follows is not known yet.
_PASS_1 = 0.75
# The bar is full at the end of the handover only.
_BELOW_END = 0.99


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What to show now. Bytes, bytes per second, seconds, per cent.

    `eta` is the remaining time at the least and at the most, a most of None being "perhaps never";
    it is None where nothing can be told (pass 1, where `pass_eta` is what is left of that pass) or
    where the migration will not converge as it goes: then `estimate` has the numbers. `dirty_rate`
    is None while nothing measured it. `fraction` never falls.
    """

    t: float
    stage: Stage
    pass_number: int
    dirty_left: int
    sent: int
    speed: float
    dirty_rate: float | None
    throttle: int
    eta: tuple[float, float | None] | None
    pass_eta: tuple[float, float] | None
    estimate: Estimate | None
    fraction: float

    @property
    def will_not_converge(self) -> bool:
        """Whether it goes on for ever as things are."""
        verdict = self.estimate.verdict if self.estimate else "unknown"
        return self.stage == "passes" and verdict == "does-not-converge"


class Progress:
    """Turns the inputs of one migration into snapshots. Owns the run's PassTracker."""

    def __init__(self, downtime_limit_ms: int) -> None:
        self.tracker = PassTracker()
        self.convergence = Convergence(self.tracker, downtime_limit_ms)
        self._t = 0.0
        self._stage: Stage = "setup"
        self._last: Sample | None = None
        self._speed = 0.0
        self._fraction = 0.0
        self._estimate: Estimate | None = None

    def receive(self, item: Sample | Event) -> None:
        """Take the next input, in the order of time."""
        self.tracker.receive(item)
        self.convergence.receive(item)
        self._t = max(self._t, item.t)
        if isinstance(item, Sample):
            self._receive_sample(item)
        elif item.name == "MIGRATION_PASS" and item.side == "source":
            self.enter("passes")
        elif item.name == "MIGRATION" and item.side == "source":
            self._enter_status(str(item.data.get("status")))

    def enter(self, stage: Stage) -> None:
        """Note a stage that only the caller knows of (handover, done). Stages never go back."""
        if _STAGES.index(stage) > _STAGES.index(self._stage):
            self._stage = stage

    def snapshot(self) -> Snapshot:
        """The state after the latest input."""
        last, estimate = self._last, self._estimate
        moving = self._stage in ("setup", "passes")
        if self._stage == "done":
            self._fraction = 1.0
        return Snapshot(
            t=self._t,
            stage=self._stage,
            pass_number=self.tracker.number,
            dirty_left=last.remaining if last else 0,
            sent=last.transferred if last else 0,
            speed=self._speed,
            dirty_rate=self._dirty_rate(),
            throttle=last.throttle if last else 0,
            eta=estimate.seconds if estimate and moving else None,
            pass_eta=estimate.pass_seconds if estimate and moving else None,
            estimate=estimate,
            fraction=self._fraction,
        )

    def _receive_sample(self, sample: Sample) -> None:
        self._enter_status(sample.status)
        if sample.total == 0:
            return
        since, sent = (self._last.t, self._last.transferred) if self._last else (0.0, 0)
        if sample.t > since and sample.transferred >= sent:
            speed = (sample.transferred - sent) / (sample.t - since)
            weight = min((sample.t - since) / _SMOOTHING_SECONDS, 1.0)
            self._speed += (speed - self._speed) * (weight if self._speed else 1.0)
        self._last = sample
        if self._stage == "passes":
            # After the vCPUs stopped there is nothing to forecast any more.
            self._estimate = self.convergence.estimate()
        self._advance(sample)

    def _enter_status(self, status: str) -> None:
        if status in _STAGE_OF_STATUS:
            self.enter(_STAGE_OF_STATUS[status])

    def _advance(self, sample: Sample) -> None:
        """Move the bar: never back, never to the end, and not while it will not converge."""
        estimate = self._estimate
        if self._stage != "passes":
            done = _BELOW_END
        elif sample.sync_count <= 1:
            done = _PASS_1 * sample.transferred / max(sample.transferred + sample.remaining, 1)
        elif estimate is not None and estimate.bytes is not None and estimate.bytes[1] is not None:
            done = sample.transferred / max(sample.transferred + estimate.bytes[1], 1)
        else:
            return
        self._fraction = max(self._fraction, min(done, _BELOW_END))

    def _dirty_rate(self) -> float | None:
        """Newly dirty bytes a second of the last pass that tells; else what QEMU measured."""
        passes, current = self.tracker.passes, self.tracker.current
        for record, later in zip(passes[::-1], [current, *passes[:0:-1]], strict=False):
            if later is None or later.switchover or "new_bytes" in later.estimated:
                continue
            if record.duration_ms > 0:
                return later.new_bytes / (record.duration_ms / 1000)
        last = self._last
        if last is not None and last.dirty_pages_rate > 0:
            return float(last.dirty_pages_rate * last.page_size)
        return None
