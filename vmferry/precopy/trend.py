"""Whether what the syncs find dirty is still falling.

A migration ends when a pass begins below the threshold, so what counts is the least that its passes
have reached. Loads with hot pages wander by a third from pass to pass; means of a few passes follow
that, the least of many does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

# The passes in which a new low has to come.
TREND_PASSES = 8
_NEW_LOW = 0.9
# A model may have the last word where as many passes bring no new low.
_STALLED_PASSES = 2
# And where it gives it no better odds than that: "will not converge" is a strong word.
NEVER = 0.2
# So steep that it is no wandering: a load that has ended falls from a height of its own.
_STEEP = 0.7


def falls(dirty: Sequence[float]) -> bool:
    """Whether `dirty`, the bytes found by each sync but the first, is still falling.

    True also where there are too few passes to tell.
    """
    if len(dirty) <= TREND_PASSES:
        return True
    before, latest = dirty[:-TREND_PASSES], dirty[-TREND_PASSES:]
    half = TREND_PASSES // 2
    return _new_low(before, latest) or fmean(latest[half:]) < _STEEP * fmean(latest[:half])


def still_falls(dirty: Sequence[float]) -> bool:
    """Whether the latest syncs brought a new low, or are too few: then a model that says that it
    does not converge may be wrong. The passes alone prove nothing so soon."""
    if len(dirty) < _STALLED_PASSES:
        return True
    # Of two the second can be compared with the first alone: passes may be long.
    before = max(len(dirty) - _STALLED_PASSES, 1)
    return _new_low(dirty[:before], dirty[before:])


def settled_at(dirty: Sequence[float], threshold: float) -> float | None:
    """What the latest syncs found on average, where they prove that the passes hover above it."""
    latest = dirty[-TREND_PASSES:]
    return None if falls(dirty) or min(latest) <= threshold else fmean(latest)


def _new_low(before: Sequence[float], latest: Sequence[float]) -> bool:
    return min(latest) < _NEW_LOW * min(before)
