"""What the sink tells when its stream has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

# `switchover`: QEMU began to stop the VM, and the sink hung up. `unreadable`: it met bytes that it
# does not know, and hung up. `closed`: QEMU ended it. `told`: whoever owns the sink ended it.
How = Literal["switchover", "unreadable", "closed", "told"]


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How a stream ended and what was in it. Pages of each kind, bytes on the wire.

    `other_bytes` came through further channels, which are not looked into. `xray` is the JSON of
    an XRayResult, None where nothing was seen; `problems` are in words.
    """

    how: How
    why: str = ""
    zero_pages: int = 0
    ordinary_pages: int = 0
    bytes: int = 0
    other_bytes: int = 0
    xray: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StreamEnd:
        return cls(**{**data, "problems": tuple(data["problems"])})
