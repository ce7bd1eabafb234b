"""Whether a migration will converge, how long it takes and how long the guest will stand still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vmferry.precopy.case import Case, Host, Link, Setting, Standing
from vmferry.precopy.profile import DirtyProfile
from vmferry.precopy.quantiles import Quantiles

Verdict = Literal["converges", "does-not-converge", "uncertain"]
Change = Literal["bandwidth", "downtime", "throttle", "compression", "post-copy"]


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
            "remedies": [
                {
                    "change": remedy.change,
                    "from": remedy.before,
                    "to": remedy.after,
                    "forecast": remedy.forecast.to_json(),
                }
                for remedy in self.remedies
            ],
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
    """The forecasts of many migrations, in one computation."""
    raise NotImplementedError


def converges_with(case: Case, setting: Setting) -> float:
    """The probability that `case` converges with another setting."""
    raise NotImplementedError


def _quantiles(value: Quantiles | None) -> dict[str, float] | None:
    return None if value is None else value.to_json()
