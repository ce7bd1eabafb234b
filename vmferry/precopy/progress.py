"""How far a migration is, for the display: one snapshot at a time, without any words or colours.

Forecasts come to it as the guardian wrote them (foresight.py): to make them takes numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vmferry.precopy.passes import PassTracker, dirty_at_syncs
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trend import NEVER, still_falls

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
class Remedy:
    """A change that would be enough: bandwidth in bytes per second, downtime in milliseconds."""

    change: Literal["bandwidth", "downtime"]
    after: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the latest forecast says of the migration as it goes.

    The verdict is "uncertain" where the forecast says that it does not converge, but hardly so, or
    the passes are still falling. `ends` is when it ends at the least and at the most, in seconds
    since it was issued, `bytes` what it will have sent at the most; None where it never does.
    """

    verdict: Literal["converges", "does-not-converge", "uncertain"]
    p_converge: float
    ends: tuple[float, float] | None
    bytes: float | None
    why: str
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What to show now. Bytes, bytes per second, seconds, per cent.

    `eta` is the remaining time at the least and at the most, a most of None being "perhaps never";
    it is None where nothing can be told, or where the migration will not converge as it goes: then
    `estimate` says why. `pass_eta` is what is left of pass 1 where no more is known. `dirty_rate`
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
        never = self.estimate is not None and self.estimate.verdict == "does-not-converge"
        return self.stage == "passes" and never


class Progress:
    """Turns the inputs of one migration into snapshots. Owns the run's PassTracker."""

    def __init__(self) -> None:
        self.tracker = PassTracker()
        self._t = 0.0
        self._stage: Stage = "setup"
        self._last: Sample | None = None
        self._speed = 0.0
        self._fraction = 0.0
        self._estimate: Estimate | None = None
        self._forecast: Mapping[str, Any] | None = None
        self._remedies: tuple[Remedy, ...] = ()

    def receive(self, item: Sample | Event) -> None:
        """Take the next input, in the order of time."""
        self.tracker.receive(item)
        self._t = max(self._t, item.t)
        if isinstance(item, Sample):
            self._receive_sample(item)
        elif item.name == "MIGRATION_PASS" and item.side == "source":
            self.enter("passes")
        elif item.name == "MIGRATION" and item.side == "source":
            self._enter_status(str(item.data.get("status")))

    def foresee(self, forecast: Mapping[str, Any]) -> None:
        """Take a forecast, as its `to_json` has it; after the vCPUs stopped there is none."""
        self._forecast = forecast
        if forecast["verdict"] != "does-not-converge":
            self._remedies = ()
        elif forecast["remedies"]:
            self._remedies = tuple(
                Remedy(one["change"], one["to"])
                for one in forecast["remedies"]
                if one["change"] in ("bandwidth", "downtime")
            )
        self._judge()

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
            eta=self._eta() if moving else None,
            pass_eta=self._pass_eta() if estimate is None and moving else None,
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
            self._judge()
        self._advance(sample)

    def _judge(self) -> None:
        """What the forecast and the passes say together.

        Two syncs without a new low are asked for, so that a model that errs while passes are still
        falling is not believed; once told it stands, since what hovers wanders.
        """
        found, told = self._forecast, self._estimate
        if found is None:
            return
        verdict = found["verdict"]
        if verdict == "does-not-converge":
            stands = told is not None and told.verdict == verdict
            unlikely = found["p_converge"] <= NEVER
            if not stands and (not unlikely or still_falls(dirty_at_syncs(self.tracker))):
                verdict = "uncertain"
        total, size = found["total_ms"], found["bytes"]
        self._estimate = Estimate(
            verdict=verdict,
            p_converge=found["p_converge"],
            ends=(total["p10"] / 1000, total["p90"] / 1000) if total else None,
            bytes=size["p90"] if size else None,
            why=found["why"],
            remedies=self._remedies,
        )

    def _eta(self) -> tuple[float, float | None] | None:
        """What is left of the time that was forecast; None where it is over, or there is none."""
        estimate = self._estimate
        if estimate is None or estimate.ends is None or self._t > estimate.ends[1]:
            return None
        least, most = (max(end - self._t, 0.0) for end in estimate.ends)
        return least, most if estimate.verdict == "converges" else None

    def _pass_eta(self) -> tuple[float, float] | None:
        """What is left may be zero pages, which take next to no time, or none of them."""
        last = self._last
        if last is None or last.sync_count != 1 or self._speed <= 0:
            return None
        return 0.0, last.remaining / self._speed

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
        elif estimate is not None and estimate.bytes is not None:
            done = sample.transferred / max(estimate.bytes, 1.0)
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
