"""A forecast as a recorded run holds it: what was told, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmferry.precopy.quantiles import Quantiles
from vmferry.units import format_share

FORMAT = 1
_VERDICTS = {
    "converges": "converges",
    "does-not-converge": "does not converge",
    "uncertain": "uncertain",
}


@dataclass(frozen=True, slots=True)
class Told:
    """A forecast made `t` seconds after migrate was issued. Quantities: None where there are none.

    `given` holds its inputs, or some of them.
    """

    t: float
    verdict: str
    p_converge: float
    total_ms: Quantiles | None
    downtime_ms: Quantiles | None
    bytes: Quantiles | None
    passes: Quantiles | None
    given: Mapping[str, Any]

    @classmethod
    def read(cls, t: float, data: Mapping[str, Any]) -> Told:
        """What `Forecast.to_json` wrote."""
        return cls(
            t,
            str(data["verdict"]),
            float(data["p_converge"]),
            _quantiles(data.get("total_ms")),
            _quantiles(data.get("downtime_ms")),
            _quantiles(data.get("bytes")),
            _quantiles(data.get("passes")),
            data.get("given") or {},
        )

    @property
    def words(self) -> str:
        """`converges (odds 97 %)`."""
        verdict = _VERDICTS.get(self.verdict, self.verdict)
        return f"{verdict} (odds {format_share(self.p_converge)})"


def _quantiles(value: Mapping[str, float] | None) -> Quantiles | None:
    return None if value is None else Quantiles.from_json(value)
