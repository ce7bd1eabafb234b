"""What the command asks of a rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vmferry.policy.base import Limits

DEFAULT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RehearsalRequest:
    """`limits` are those of the planned move; `seconds` is how long it may take at the most."""

    vm: str
    limits: Limits
    seconds: float = DEFAULT_SECONDS

    def to_json(self) -> dict[str, Any]:
        return {"rehearse": asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RehearsalRequest:
        """What `to_json` wrote."""
        values = dict(data["rehearse"])
        return cls(**{**values, "limits": Limits(**values["limits"])})
