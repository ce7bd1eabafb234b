"""A load of the test guest at the edge of convergence, as the benchmarks of it name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB


@dataclass(frozen=True, slots=True)
class Load:
    """One writer, the bandwidth (MiB/s) that it is first moved at, and the downtime limit."""

    name: str
    writer: PageWriterSettings
    bandwidth: float
    limit_ms: int

    @classmethod
    def of(
        cls,
        name: str,
        bandwidth: float,
        working_set: int,
        rate: int | None,
        limit_ms: int = 300,
        **more: Any,
    ) -> Load:
        """Sizes in MiB, rates in MiB/s; None is as fast as it can."""
        writer = PageWriterSettings(
            working_set=working_set * MIB,
            write_rate="unlimited" if rate is None else rate * MIB,
            **more,
        )
        return cls(name, writer, bandwidth, limit_ms)
