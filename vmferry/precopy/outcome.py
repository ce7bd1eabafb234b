"""How a move ended: the last line of `migrate --json` (format 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["completed", "abandoned", "cancelled", "refused", "failed", "needs-recovery"]
Place = Literal["source", "destination", "nowhere", "unknown"]


@dataclass(frozen=True, slots=True)
class PassRecord:
    """One pass. Bytes and milliseconds; `estimated` names the fields that were inferred.

    `dirty_bytes` is what was dirty when the pass began; `new_bytes` is what the sync that began it
    found newly dirty; `left_bytes` is what was still unsent when the pass ended. `switchover` marks
    the last pass of a completed migration, which was sent while the vCPUs stood still.
    """

    n: int
    start_ms: float
    duration_ms: float
    sent_bytes: int
    sent_pages: int
    zero_pages: int
    dirty_bytes: int
    new_bytes: int
    left_bytes: int
    estimated: tuple[str, ...] = ()
    switchover: bool = False


@dataclass(frozen=True, slots=True)
class GuestRecord:
    """What the heartbeats and the verification told; milliseconds and pages.

    `gap_at_ms` is when the longest gap began, since migrate was issued.
    """

    gap_ms: float
    gap_at_ms: float
    guest_clock_gap_ms: float
    beats: int
    missing_beats: int
    verified: bool | None = None
    verified_pages: int | None = None
    lost_pages: int | None = None


@dataclass(frozen=True, slots=True)
class CostRecord:
    """What the move cost the guest and the host.

    Work in page writes per second, loss and delays in per cent of the time that the move took,
    CPU in seconds of one core. None is "cannot be told".
    """

    work_before: float | None
    work_during: float | None
    work_after: float | None
    work_loss_percent: float | None
    vcpu_run_delay_percent: dict[str, float]
    migration_cpu_seconds: float | None
    vmferry_cpu_seconds: float | None
    pinned_to: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The whole story of one run."""

    run: str
    vm: str
    status: Status
    vm_runs_at: Place
    policy: str
    total_ms: float
    downtime_ms: float | None
    bytes: int
    resent_bytes: int
    passes: tuple[PassRecord, ...]
    guest: GuestRecord | None
    cost: CostRecord | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """`{"event": "outcome", "format": 1, …}`."""
        return {"event": "outcome", "format": 1, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_json` wrote; keys of a later version are passed over."""
        values = _known(cls, data)
        values["passes"] = tuple(
            PassRecord(**{**_known(PassRecord, one), "estimated": tuple(one["estimated"])})
            for one in data["passes"]
        )
        if data["guest"] is not None:
            values["guest"] = GuestRecord(**_known(GuestRecord, data["guest"]))
        if data["cost"] is not None:
            values["cost"] = CostRecord(**_known(CostRecord, data["cost"]))
        return cls(**values)


def _known(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in data.items() if name in names}
