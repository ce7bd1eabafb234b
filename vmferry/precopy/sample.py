"""What a hypervisor tells about a running migration: samples (polled) and events (pushed)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The states of a migration that no other follows.
ENDED = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply of `query-migrate` (qapi/migration.json, MigrationInfo).

    Sizes in bytes, `t` in seconds since migrate was issued, `throttle` in per cent.
    What this QEMU or this stage does not tell is 0 (or None for times).
    """

    t: float
    status: str
    total: int = 0
    transferred: int = 0
    remaining: int = 0
    normal_pages: int = 0
    zero_pages: int = 0
    page_size: int = 4096
    sync_count: int = 0
    dirty_pages_rate: int = 0
    mbps: float = 0.0
    throttle: int = 0
    precopy_bytes: int = 0
    downtime_bytes: int = 0
    postcopy_bytes: int = 0
    total_time_ms: int = 0
    downtime_ms: int | None = None
    expected_downtime_ms: int | None = None
    setup_ms: int | None = None
    error: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def post_copy(self) -> bool:
        """Whether the VM runs at the destination already, and fetches what has not come yet."""
        return self.status.startswith("postcopy")

    @property
    def sent_pages(self) -> int:
        """Pages sent so far, zero pages among them."""
        return self.normal_pages + self.zero_pages

    @classmethod
    def from_reply(cls, t: float, reply: Mapping[str, Any]) -> Sample:
        """The sample that a raw `query-migrate` reply holds, of any QEMU version."""
        ram: Mapping[str, Any] = reply.get("ram") or {}
        # QEMU 11.1 reports what is left system-wide at the top level; older ones for RAM only.
        remaining = reply.get("remaining", ram.get("remaining", 0))
        return cls(
            t=t,
            status=str(reply.get("status", "none")),
            total=int(ram.get("total", 0)),
            transferred=int(ram.get("transferred", 0)),
            remaining=int(remaining),
            normal_pages=int(ram.get("normal", 0)),
            zero_pages=int(ram.get("duplicate", 0)),
            page_size=int(ram.get("page-size", 4096)),
            sync_count=int(ram.get("dirty-sync-count", 0)),
            dirty_pages_rate=int(ram.get("dirty-pages-rate", 0)),
            mbps=float(ram.get("mbps", 0.0)),
            throttle=int(reply.get("cpu-throttle-percentage", 0)),
            precopy_bytes=int(ram.get("precopy-bytes", 0)),
            downtime_bytes=int(ram.get("downtime-bytes", 0)),
            postcopy_bytes=int(ram.get("postcopy-bytes", 0)),
            total_time_ms=int(reply.get("total-time", 0)),
            downtime_ms=reply.get("downtime"),
            expected_downtime_ms=reply.get("expected-downtime"),
            setup_ms=reply.get("setup-time"),
            error=reply.get("error-desc"),
            raw=reply,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One QMP event (MIGRATION, MIGRATION_PASS, STOP, RESUME, SHUTDOWN …) of one side.

    `t` is the event's own time stamp, in seconds since migrate was issued.
    """

    t: float
    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    side: str = "source"


def has_ended(item: Sample | Event) -> bool:
    """Whether the source's migration is over."""
    if isinstance(item, Sample):
        return item.status in ENDED
    return item.name == "MIGRATION" and item.side == "source" and item.data.get("status") in ENDED
