"""Three points of a distribution: what is exceeded in nine, in five and in one of ten cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantiles:
    """p10 <= p50 <= p90, in the unit of whatever it is a quantity of."""

    p10: float
    p50: float
    p90: float

    @classmethod
    def exact(cls, value: float) -> Quantiles:
        """What is known without doubt."""
        return cls(value, value, value)

    @classmethod
    def from_json(cls, data: Mapping[str, float]) -> Quantiles:
        """What `to_json` wrote."""
        return cls(data["p10"], data["p50"], data["p90"])

    def to_json(self) -> dict[str, float]:
        """`{"p10", "p50", "p90"}`."""
        return {"p10": self.p10, "p50": self.p50, "p90": self.p90}

    def scaled(self, factor: float) -> Quantiles:
        """All three times `factor`, which is positive."""
        return Quantiles(self.p10 * factor, self.p50 * factor, self.p90 * factor)
