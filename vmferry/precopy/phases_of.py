"""The phases of a load from what the passes found: every cycle that could be, weighed.

The guest is taken for one that rewrites a set by its own clock (phases.py). Busy and quiet phases
of all lengths, each beginning anywhere, are compared with the windows; how well each fits is its
weight. What the windows do not tell, such as how much longer a quiet phase would have gone on,
stays as wide as it was taken to be beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vmferry.precopy.phases import Floats, Phases, Window, comes_and_goes, own_seconds
from vmferry.precopy.quantiles import Quantiles

# How far a pass lies off the curve (standard deviation of the logarithm), and how much better than
# a steady load phases have to fit, as a difference of chi square.
_DOUBT, _BETTER = 0.2, 10.0
# What there may be: lengths of phases, places to begin in, how soon a set is rewritten; seconds.
_LENGTHS = np.geomspace(0.25, 32.0, 21)
_PLACES = (np.arange(24) + 0.5) / 24
_REWRITTEN_IN = np.geomspace(0.1, 30.0, 9)
_PACES = np.array([0.01, 0.05, 0.2])
# Loads change, and older windows than these cost time; nor can a clock that is told by these be
# reckoned back to those, as small errors of a cycle add up.
_LATEST = 24
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class PhasesFound:
    """The phases, and how far the guest's own clock ran in the first window and the latest ones,
    by their places among the windows."""

    phases: Phases
    own: Mapping[int, float]


def phases_of(windows: Sequence[Window]) -> PhasesFound | None:
    """The phases that explain `windows`; None where a steady load does so as well."""
    places = [*range(len(windows))[:1], *range(len(windows))[1:][-_LATEST:]]
    kept = [windows[place] for place in places]
    if not comes_and_goes(kept):
        return None
    busy, quiet, pace, place = (
        grid.ravel() for grid in np.meshgrid(_LENGTHS, _LENGTHS, _PACES, _PLACES, indexing="ij")
    )
    began = place * (busy + quiet) - kept[0].start
    own = np.stack(
        [own_seconds(began + one.start, began + one.end, busy, quiet, pace) for one in kept]
    )
    off = np.stack([_misfit(kept, own, tau) for tau in _REWRITTEN_IN])
    steady = np.array([[one.seconds] for one in kept])
    if min(float(_misfit(kept, steady, tau)[0]) for tau in _REWRITTEN_IN) < off.min() + _BETTER:
        return None
    weights = np.exp(-(off - off.min()) / 2).sum(axis=0)
    weights /= weights.sum()
    return PhasesFound(
        Phases(
            busy=_quantiles(busy, weights),
            quiet=_quantiles(quiet, weights),
            pace=round(float(pace @ weights), 3),
        ),
        {i: float(line @ weights) for i, line in zip(places, own, strict=True)},
    )


def _misfit(windows: Sequence[Window], own: Floats, rewritten_in: float) -> Floats:
    """Chi square of the best set that is rewritten in so long; `own` has a line for each window."""
    shares = np.log(-np.expm1(-np.maximum(own, _LEAST) / rewritten_in))
    found = np.log([[max(one.bytes, 1.0)] for one in windows])
    bound = np.array([one.at_most for one in windows])
    size = (found - shares)[~bound].mean(axis=0)
    off = size + shares - found
    off[bound] = np.maximum(off[bound], 0.0)
    misfit: Floats = (off**2).sum(axis=0) / _DOUBT**2
    return misfit


def _quantiles(values: Floats, weights: Floats) -> Quantiles:
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    p10, p50, p90 = (
        round(float(values[order][np.searchsorted(below, share)]), 3) for share in (0.1, 0.5, 0.9)
    )
    return Quantiles(p10, p50, p90)
