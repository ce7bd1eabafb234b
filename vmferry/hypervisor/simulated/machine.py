"""What the simulation is told of a host and of a guest on it."""

from __future__ import annotations

from dataclasses import dataclass

from vmferry.hypervisor.simulated.memory import PAGE_SIZE, Layout
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB


@dataclass(frozen=True, slots=True)
class Machine:
    """What a host, its link and an idle guest on it do; measured once, not fitted to a workload.

    Bytes and pages per second, seconds. `uncapped` is B, the speed with no rate limit.
    `setup_seconds` last until pass 1 begins. `wake_delay` is how late the migration thread wakes
    from its sleep; a sync takes `sync_seconds` and `sync_seconds_per_page` for each page found
    written. The stop of the vCPUs, the device state with its loading, and the destination's last
    word are the fixed part of the downtime. Without a rate limit the page writer writes
    `unlimited_writes_per_second` pages, all threads together. An idle guest writes
    `background_writes_per_second` pages among `background_pages`.
    """

    uncapped: float = 500 * MIB
    zero_pages_per_second: float = 1.5e6
    setup_seconds: float = 0.005
    wake_delay: float = 0.0001
    sync_seconds: float = 0.001
    sync_seconds_per_page: float = 0.0
    stop_seconds: float = 0.001
    device_seconds: float = 0.010
    told_seconds: float = 0.001
    unlimited_writes_per_second: float = 200_000.0
    background_pages: int = 400
    background_writes_per_second: float = 2000.0


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest under load, as it is when migrate is issued. Bytes, seconds.

    `static_bytes` is what is neither zero nor the page writer's: kernel, programs. `top_bytes` are
    the end of the RAM, static but for `top_zero_bytes` strewn among them. The writer's settings
    came into force `writer_age` before.
    """

    ram_bytes: int
    static_bytes: int
    writer: PageWriterSettings | None = None
    top_bytes: int = 0
    top_zero_bytes: int = 0
    writer_age: float = 0.0

    def layout(self) -> Layout:
        """Where what is in the RAM. Raises ValueError where it does not fit."""
        writer = self.writer
        top_static = self.top_bytes - self.top_zero_bytes
        return Layout(
            pages=self.ram_bytes // PAGE_SIZE,
            low=max(self.static_bytes - top_static, 0) // PAGE_SIZE,
            working_set=writer.working_set // PAGE_SIZE if writer is not None else 0,
            cold=writer.cold // PAGE_SIZE if writer is not None else 0,
            top=self.top_bytes // PAGE_SIZE,
            top_zero=self.top_zero_bytes // PAGE_SIZE,
        )
