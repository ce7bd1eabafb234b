"""The draws of a forecast: the same few well-spread points for every case, no chance in them.

A Korobov lattice: each input takes 37 evenly spread ranks, and any two inputs fill their square.
Random draws of that number would make quantiles that differ from call to call by more than a
change of the settings does.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 37
# Of all generators the one whose inputs are the least correlated.
_GENERATOR = 7
_INPUTS = ("height", "shorter", "longer", "speed", "burst", "fixed", "phase", "overlap", "repeat")

_RANKS = {
    name: (np.arange(DRAWS) * pow(_GENERATOR, i, DRAWS) % DRAWS + 0.5) / DRAWS
    for i, name in enumerate(_INPUTS)
}
# What only loads with phases have: the generator yields no more than nine inputs that differ.
_RANKS |= {
    name: (np.arange(DRAWS) * factor % DRAWS + 0.5) / DRAWS
    for name, factor in (("place", 22), ("busy", 5), ("quiet", 14))
}
_NORMALS = {
    name: np.array([NormalDist().inv_cdf(rank) for rank in ranks]) for name, ranks in _RANKS.items()
}
# Where the standard normal distribution has its 90th percentile.
Z90 = NormalDist().inv_cdf(0.9)


def uniform(name: str) -> Floats:
    """The draws of one input, evenly between 0 and 1."""
    return _RANKS[name]


def normal(name: str) -> Floats:
    """The draws of one input in standard deviations."""
    return _NORMALS[name]


def spread(p10: Floats, p50: Floats, p90: Floats, name: str) -> Floats:
    """Draws of a positive quantity, a row a case: normal in the logarithm on either side of p50."""
    z = normal(name) / Z90
    up, down = np.log(p90 / p50)[:, None], np.log(p50 / p10)[:, None]
    drawn: Floats = p50[:, None] * np.exp(z * np.where(z > 0, up, down))
    return drawn
