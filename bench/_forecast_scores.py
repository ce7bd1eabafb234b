"""The arithmetic of the validation: from rows of one case to its score, from scores to figures.

Pure. A *case* is a workload with one bandwidth and one downtime limit; its rows are one rehearsal
and the real moves. What really happened is what most of the repeats at the planned setting did. A
case is *off the edge* where the real moves at 0.9 and at 1.1 of the bandwidth agree (of the limit,
where there is no cap).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench._baselines import Prediction
from vmferry.precopy.quantiles import Quantiles

OURS, RATE_ONLY = "vmferry, rehearsal", "vmferry, calc-dirty-rate"
# What `vmferry rehearse` prints: it knows no destination, and so not the speed of its link.
REHEARSE = "vmferry rehearse by itself"
INFINITE = math.inf


@dataclass(frozen=True, slots=True)
class Outcome:
    """A real move. Milliseconds and bytes; without meaning where it did not complete."""

    completed: bool
    total_ms: float = 0.0
    bytes: float = 0.0
    downtime_ms: float = 0.0
    passes: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What a forecast or a model said. None is what it does not tell."""

    verdict: str
    total_ms: Quantiles | None = None
    bytes: Quantiles | None = None
    downtime_ms: Quantiles | None = None
    passes: Quantiles | None = None

    @classmethod
    def of(cls, prediction: Prediction) -> Said:
        """A baseline's prediction, which has no bands."""

        def exact(value: float | None, scale: float = 1.0) -> Quantiles | None:
            return None if value is None else Quantiles.exact(value * scale)

        return cls(
            "converges" if prediction.converges else "does-not-converge",
            exact(prediction.seconds, 1000),
            exact(prediction.bytes),
            exact(prediction.downtime, 1000),
        )


@dataclass(frozen=True, slots=True)
class Score:
    """One case: what was said by each model, and what was true."""

    workload: str
    setting: str
    held_out: bool
    capped: bool
    repeats: tuple[Outcome, ...]
    lower: Outcome
    higher: Outcome
    said: dict[str, Said]

    @property
    def converged(self) -> bool:
        completed = sum(each.completed for each in self.repeats)
        return completed * 2 > len(self.repeats)

    @property
    def off_edge(self) -> bool:
        return self.lower.completed == self.higher.completed

    @property
    def unanimous(self) -> bool:
        return len({each.completed for each in self.repeats}) == 1

    @property
    def completed(self) -> list[Outcome]:
        return [each for each in self.repeats if each.completed]

    def right(self, model: str) -> bool:
        """Whether the verdict was right; uncertain is not."""
        truth = "converges" if self.converged else "does-not-converge"
        return self.said[model].verdict == truth

    def error(self, model: str, what: str) -> float | None:
        """The relative error of a model's middle value against the repeats' median.

        None where the case did not converge or the model tells no such thing; infinite where it
        said of this move that it would not end.
        """
        said = self.said[model]
        if not self.converged:
            return None
        middle: Quantiles | None = getattr(said, what)
        if middle is None:
            return None if said.verdict == "converges" else INFINITE
        truth: float = statistics.median(getattr(each, what) for each in self.completed)
        return abs(middle.p50 - truth) / truth

    def within(self, what: str) -> list[bool]:
        """Of each repeat that completed, whether our 10 to 90 % band holds it."""
        band: Quantiles | None = getattr(self.said[OURS], what)
        if band is None:
            return []
        return [band.p10 <= getattr(each, what) <= band.p90 for each in self.completed]

    def spread(self, what: str) -> list[float]:
        """The relative differences between each two of the repeats that completed."""
        values = [getattr(each, what) for each in self.completed]
        if len(values) < 2:
            return []
        middle = statistics.median(values)
        return [abs(a - b) / middle for a, b in itertools.combinations(values, 2)]


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, with the lower 95 % bound of the true share."""

    hits: int
    number: int

    @property
    def share(self) -> float:
        return self.hits / self.number if self.number else math.nan

    @property
    def bound(self) -> float:
        return lower_bound(self.hits, self.number)

    def __str__(self) -> str:
        if not self.number:
            return "-"
        return f"{self.hits} of {self.number} ({self.share:.1%}, at least {self.bound:.1%})"


def verdicts(scores: Iterable[Score], model: str) -> Share:
    """How often a model's verdict was right."""
    right = [score.right(model) for score in scores if model in score.said]
    return Share(sum(right), len(right))


def errors(scores: Iterable[Score], model: str, what: str) -> list[float]:
    """The relative errors of a model; infinite where it had a move that completed never end.

    None at all for what the model never tells.
    """
    judged = [score for score in scores if model in score.said]
    if all(getattr(score.said[model], what) is None for score in judged):
        return []
    found = (score.error(model, what) for score in judged)
    return [error for error in found if error is not None]


def spreads(scores: Iterable[Score], what: str) -> list[float]:
    """How far two moves of one and the same case are apart."""
    return [each for score in scores if score.converged for each in score.spread(what)]


def coverage(scores: Iterable[Score], what: str) -> Share:
    """How many outcomes lie within the 10 to 90 % band."""
    within = [each for score in scores if score.converged for each in score.within(what)]
    return Share(sum(within), len(within))


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed, between two of them by a straight line.

    Infinite values count as larger than any other. NaN where there are none.
    """
    if not values:
        return math.nan
    ranked = sorted(values)
    place = share * (len(ranked) - 1)
    low, high = ranked[math.floor(place)], ranked[math.ceil(place)]
    return low if low == high else low + (high - low) * (place - math.floor(place))


def lower_bound(hits: int, number: int, confidence: float = 0.95) -> float:
    """The one-sided lower bound of a share by Clopper and Pearson, which is never too high.

    It is the share of which so many hits or more have a probability of 1 - confidence.
    """
    if hits == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _at_least(hits, number, middle) < 1 - confidence else (low, middle)
        )
    return low


def _at_least(hits: int, number: int, share: float) -> float:
    """The probability of so many hits or more."""
    return math.fsum(
        math.comb(number, k) * share**k * (1 - share) ** (number - k)
        for k in range(hits, number + 1)
    )
