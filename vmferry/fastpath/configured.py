"""What setting a fast path up comes to: the specification, and why it is so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vmferry.fastpath.finding import Feature
from vmferry.vm.spec import VmSpec


@dataclass(frozen=True, slots=True)
class Reason:
    """A choice and its reason, or, with `warning`, what stands in the way of the fast path and what
    to do. `text` is without a full stop."""

    feature: Feature
    text: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.feature.value}: {'warning: ' if self.warning else ''}{self.text}"

    def to_json(self) -> dict[str, Any]:
        return {"feature": self.feature.value, "text": self.text, "warning": self.warning}


@dataclass(frozen=True, slots=True)
class Configured:
    """`spec` with nothing left open for the fast paths, and a sentence for each choice."""

    spec: VmSpec
    reasons: tuple[Reason, ...]
