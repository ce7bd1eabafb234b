"""Whether a migration will converge, how long it takes and how long the guest will stand still.

One computation for all cases: every uncertain input is drawn (draws.py), the passes of every draw
are gone through by QEMU's rules (forecast_map.py), and the quantiles are those of the draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from vmferry.precopy.case import Case, Host, Link, Setting, Standing
from vmferry.precopy.draws import DRAWS, normal
from vmferry.precopy.forecast_given import given, of_phases, why
from vmferry.precopy.forecast_map import Ends, run
from vmferry.precopy.forecast_rows import rows_of
from vmferry.precopy.phases import unseen
from vmferry.precopy.profile import DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.shape import Floats, Shapes

Verdict = Literal["converges", "does-not-converge", "uncertain"]
Change = Literal["bandwidth", "downtime", "throttle", "compression", "post-copy"]

# At least so likely, or at most one minus it: else it is uncertain.
CERTAIN = 0.7
# How far the map itself is off, as a standard deviation of the logarithm: a draw that is nearer to
# the edge than that counts for both sides.
_DOUBT = 0.08
# What no input tells, as a standard deviation: one and the same migration, repeated, takes more or
# less time, and the map itself is off (docs/validation.md).
_REPEAT = 0.025
_SHARES = (0.1, 0.5, 0.9)
_NEVER = 1e300  # sorts behind what ends, and can be calculated with
# The normal distribution as a table, for arrays.
_STEPS = np.linspace(-6, 6, 241)
_BELOW = np.array([NormalDist().cdf(step) for step in _STEPS])


@dataclass(frozen=True, slots=True)
class Remedy:
    """The smallest change of one setting that converges, and the forecast with it.

    `before` and `after` as the setting holds them: bytes per second, milliseconds, per cent, the
    name of a compression, whether post-copy is on.
    """

    change: Change
    before: float | str | bool
    after: float | str | bool
    forecast: Forecast

    def to_json(self) -> dict[str, Any]:
        """`{"change", "from", "to", "forecast"}`."""
        return {
            "change": self.change,
            "from": self.before,
            "to": self.after,
            "forecast": self.forecast.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a migration will go. The quantities are None where it does not converge.

    Milliseconds and bytes are those of the whole migration, what a running one has behind it
    included. `given` holds every input, `why` is a sentence with the numbers that decide.
    """

    verdict: Verdict
    p_converge: float
    given: Mapping[str, Any]
    total_ms: Quantiles | None
    downtime_ms: Quantiles | None
    bytes: Quantiles | None
    passes: Quantiles | None
    why: str
    remedies: tuple[Remedy, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """`{"format": 1, "verdict", "p_converge", …}`."""
        return {
            "format": 1,
            "verdict": self.verdict,
            "p_converge": self.p_converge,
            "given": dict(self.given),
            "total_ms": _quantiles(self.total_ms),
            "downtime_ms": _quantiles(self.downtime_ms),
            "bytes": _quantiles(self.bytes),
            "passes": _quantiles(self.passes),
            "why": self.why,
            "remedies": [remedy.to_json() for remedy in self.remedies],
        }


def forecast(
    profile: DirtyProfile,
    setting: Setting,
    link: Link,
    host: Host | None = None,
    standing: Standing | None = None,
) -> Forecast:
    """The forecast of one migration; `standing` for one that runs already."""
    return forecast_many([Case(profile, setting, link, host or Host(), standing)])[0]


def forecast_many(cases: Sequence[Case]) -> list[Forecast]:
    """The forecasts of many migrations, in one computation.

    Raises UsageError where a setting needs what the profile does not tell.
    """
    if not cases:
        return []
    ends = _run(cases)
    p = _p_converge(ends)
    quantities = np.stack((ends.seconds * 1000, ends.downtime * 1000, ends.bytes, ends.passes))
    columns = _quantiles_of(quantities.reshape(4, len(cases), DRAWS), ends)
    shortest = (ends.shortest, ends.dirtied, ends.sendable, ends.speed)
    decisive = [np.median(one.reshape(-1, DRAWS), axis=1) for one in shortest]
    known: dict[int, dict[str, Any]] = {}
    forecasts = []
    for i, case in enumerate(cases):
        odds = max(float(p[i]), _unseen(case))
        verdict = _verdict(odds)
        ends_at_all = verdict != "does-not-converge"
        total, downtime, size, passes = columns[i] if ends_at_all else (None, None, None, None)
        forecasts.append(
            Forecast(
                verdict=verdict,
                p_converge=round(odds, 3),
                given=given(case, known),
                total_ms=total,
                downtime_ms=downtime,
                bytes=size,
                passes=passes,
                why=why(case, *(float(one[i]) for one in decisive))
                + of_phases(case, never=not ends_at_all),
            )
        )
    return forecasts


def converges_with(case: Case, setting: Setting) -> float:
    """The probability that `case` converges with another setting."""
    return float(p_converge([replace(case, setting=setting)])[0])


def p_converge(cases: Sequence[Case]) -> Floats:
    """The probability of each case that it converges: what a search for a root asks for."""
    return _p_converge(_run(cases))


def _run(cases: Sequence[Case]) -> Ends:
    rows = rows_of(cases)
    ends = run(rows, Shapes.of([case.profile for case in cases]))
    repeat = np.exp(_REPEAT * np.tile(normal("repeat"), len(cases)))
    ends.seconds = rows.t + (ends.seconds - rows.t) * repeat
    ends.bytes = rows.sent + (ends.bytes - rows.sent) * repeat
    return ends


def _p_converge(ends: Ends) -> Floats:
    """The share of the draws that converge; one near the edge counts in part."""
    share = np.interp(ends.margin / _DOUBT, _STEPS, _BELOW)
    share = np.where(ends.converged, np.maximum(share, 0.5), np.minimum(share, 0.5))
    mean: Floats = share.reshape(-1, DRAWS).mean(axis=1)
    return mean


def _unseen(case: Case) -> float:
    """The least odds that there are: a load that never paused while it was watched may do so."""
    profile = case.profile
    return unseen(profile.watched) if profile.watched > 0 and profile.phases is None else 0.0


def _verdict(p: float) -> Verdict:
    if p >= CERTAIN:
        return "converges"
    return "does-not-converge" if p <= 1 - CERTAIN else "uncertain"


def _quantiles_of(values: Floats, ends: Ends) -> list[tuple[Quantiles | None, ...]]:
    """For each case the quantiles of its quantities, over the draws that converge.

    `values` are quantities x cases x draws.
    """
    ordered = np.sort(np.minimum(values, _NEVER), axis=2)
    counts = ends.converged.reshape(-1, DRAWS).sum(axis=1)
    cases = np.arange(len(counts))
    last = np.maximum(counts - 1, 0)
    found = []
    for share in _SHARES:
        place = np.minimum(np.maximum(share * counts - 0.5, 0), last)
        low = place.astype(np.intp)
        a, b = ordered[:, cases, low], ordered[:, cases, np.minimum(low + 1, last)]
        found.append((a + (place - low) * (b - a)).tolist())
    return [
        tuple(Quantiles(*(part[quantity][i] for part in found)) for quantity in range(len(values)))
        if count
        else (None,) * len(values)
        for i, count in enumerate(counts.tolist())
    ]


def _quantiles(value: Quantiles | None) -> dict[str, float] | None:
    return None if value is None else value.to_json()
