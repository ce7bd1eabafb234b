"""Medians and intervals of what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000
_SEED = 1


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} (95 % interval {self.low:.4f} to {self.high:.4f})"


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The geometric mean of paired ratios, and the t interval of their logarithms.

    Raises ValueError where there are fewer than two pairs.
    """
    logs = [math.log(a / b) for a, b in zip(numerators, denominators, strict=True)]
    if len(logs) < 2:
        raise ValueError("an interval needs at least two pairs")
    mean = statistics.fmean(logs)
    half = t_quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def median_interval(values: Sequence[float]) -> Interval:
    """The median and its interval by a bootstrap with a fixed seed."""
    draws = np.random.default_rng(_SEED).choice(values, (_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
    return Interval(statistics.median(values), float(low), float(high))


def t_quantile(degrees: int) -> float:
    """Student's t at 97.5 %: where its distribution function, integrated by Simpson's rule, is."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_between(middle, degrees) < 0.475 else (low, middle)
    return low


def _t_between(limit: float, degrees: int, steps: int = 2000) -> float:
    """The probability that t lies between 0 and `limit`."""
    x = np.linspace(0.0, limit, steps + 1)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    density = scale / math.sqrt(degrees * math.pi) * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    weights = np.full(steps + 1, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    return float(limit / steps / 3 * (weights @ density))
