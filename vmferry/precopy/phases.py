"""Loads that come and go: busy for a while, quiet for a while, again and again.

A steady load has one dirty curve for every window, and that curve rises and is concave. Two windows
that no such curve fits are of a load with phases. Such a guest works by a clock of its own, which
runs at full pace in a busy phase and at nearly none in a quiet one; by that clock it is steady.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmferry.precopy.curve import DirtyCurve
from vmferry.precopy.quantiles import Quantiles
from vmferry.units import MIB

Floats = NDArray[np.float64]

# Passes of a steady load lie this far off its curve, by left-over pages, hot pages and chance.
_APART = 1.7
# What an idle guest's kernel and programs rewrite comes and goes too, and hinders no migration.
_IDLE = 4 * MIB
# Windows that find so much of what they could, or no more than that, are of a busy or quiet phase.
_BUSY, _QUIET = 0.75, 0.5
# One busy and one quiet phase lie between so many changes from one to the other.
_CHANGES_OF_A_CYCLE = 3
# Of the loads that vmferry is judged by one in seven comes and goes; a cycle may be of any length
# up to that (seconds), all orders of magnitude alike.
_OF_ALL_LOADS, _LONGEST_CYCLE = 1 / 7, 1000.0


@dataclass(frozen=True, slots=True)
class Window:
    """What one pass found: `bytes` dirtied from `start` to `end`, in seconds since migrate.

    `at_most` where only an upper end is known: QEMU found so little left that it switched over.
    """

    start: float
    end: float
    bytes: float
    at_most: bool = False

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Phases:
    """How long the load is busy and then quiet, in seconds, and how fast the guest's own clock runs
    in a quiet phase, from 0 to 1. Where in them a migration begins, nobody knows."""

    busy: Quantiles
    quiet: Quantiles
    pace: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """`{"busy", "quiet", "pace"}`."""
        return {"busy": self.busy.to_json(), "quiet": self.quiet.to_json(), "pace": self.pace}


def own_seconds(
    start: Floats | float,
    end: Floats | float,
    busy: Floats | float,
    quiet: Floats | float,
    pace: Floats | float,
) -> Floats:
    """How far the guest's own clock runs from `start` to `end`; at 0 a busy phase begins."""
    found: Floats = _own_time(end, busy, quiet, pace) - _own_time(start, busy, quiet, pace)
    return found


def _own_time(
    t: Floats | float, busy: Floats | float, quiet: Floats | float, pace: Floats | float
) -> Floats:
    cycles = np.floor(t / (busy + quiet))
    rest = t - cycles * (busy + quiet)
    of_a_cycle = busy + pace * quiet
    found: Floats = (
        cycles * of_a_cycle + np.minimum(rest, busy) + pace * np.maximum(rest - busy, 0.0)
    )
    return found


def comes_and_goes(windows: Sequence[Window]) -> bool:
    """Whether no steady load, with a curve that rises and is concave, finds all of these."""
    return any(
        _too_much(shorter, longer) or _too_little(shorter, longer)
        for shorter in windows
        for longer in windows
        if shorter.seconds <= longer.seconds and shorter is not longer
    )


def cycle_seen(windows: Sequence[Window]) -> bool:
    """Whether a whole busy phase and a whole quiet one lie among the windows, in order of time."""
    curve = DirtyCurve.through((one.seconds, one.bytes) for one in windows if not one.at_most)
    states = []
    for one in windows:
        share = one.bytes / max(curve(one.seconds), 1.0)
        if share >= _BUSY or share <= _QUIET:
            states.append(share >= _BUSY)
    changes = sum(a != b for a, b in pairwise(states))
    return changes >= _CHANGES_OF_A_CYCLE


def unseen(watched: float) -> float:
    """The odds that a load that was steady for `watched` seconds comes and goes nonetheless."""
    longer = 1 - log(min(max(watched, 1.0), _LONGEST_CYCLE)) / log(_LONGEST_CYCLE)
    return _OF_ALL_LOADS * longer / (_OF_ALL_LOADS * longer + 1 - _OF_ALL_LOADS)


def _too_much(shorter: Window, longer: Window) -> bool:
    return not shorter.at_most and shorter.bytes > max(_APART * longer.bytes, _IDLE)


def _too_little(shorter: Window, longer: Window) -> bool:
    if longer.at_most or longer.bytes < _IDLE or longer.seconds <= 0:
        return False
    return shorter.bytes * _APART < longer.bytes * shorter.seconds / longer.seconds
