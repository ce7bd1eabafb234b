"""The same load without a rehearsal, and under a migration into nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bench._qmp import Qmp
from vmferry.hypervisor.qemu.instance import Instance
from vmferry.testguest.heartbeat import HeartbeatReader, between, report, work_rate

# With it QEMU does not switch over, as long as the guest writes.
LEAST_LIMIT_MS = 1


@dataclass(frozen=True, slots=True)
class Watched:
    """Page writes per second before and during, and the longest gap between heartbeats."""

    before: float
    during: float
    gap_ms: float

    @property
    def loss_percent(self) -> float:
        return 100 * (1 - self.during / self.before)


def undisturbed(instance: Instance, seconds: float) -> Watched:
    """Twice the same: what the load differs by itself."""
    return _watch(instance, seconds, lambda: None, lambda: None)


def into_nothing(instance: Instance, seconds: float, bandwidth: int) -> Watched:
    """QEMU's own pre-copy to a process that throws it away, cancelled after `seconds`."""
    qmp = Qmp(instance.files.observer_socket)
    parameters = qmp.execute("query-migrate-parameters")

    def begin() -> None:
        qmp.execute(
            "migrate-set-parameters",
            **{"max-bandwidth": bandwidth, "downtime-limit": LEAST_LIMIT_MS},
        )
        qmp.execute("migrate", uri="exec:exec cat >/dev/null")

    def end() -> None:
        qmp.execute("migrate_cancel")
        while qmp.execute("query-migrate")["status"] == "cancelling":
            time.sleep(0.005)

    try:
        watched = _watch(instance, seconds, begin, end)
        status = qmp.execute("query-migrate")["status"]
        if status != "cancelled":
            raise RuntimeError(f"the migration into nothing was {status}")
        return watched
    finally:
        for name in ("max-bandwidth", "downtime-limit"):
            qmp.execute("migrate-set-parameters", **{name: parameters[name]})
        qmp.close()


def _watch(
    instance: Instance, seconds: float, begin: Callable[[], None], end: Callable[[], None]
) -> Watched:
    reader = HeartbeatReader(instance.files.heartbeat_socket, "source")
    reader.start()
    try:
        time.sleep(1.1)
        began = time.monotonic_ns()
        begin()
        time.sleep(max(began / 1e9 + seconds - time.monotonic(), 0))
        ended = time.monotonic_ns()
        end()
        # A rate needs a beat on either side of its window.
        time.sleep(0.2)
        beats = reader.beats()
    finally:
        reader.stop()
    before = work_rate(beats, began - int(1e9), began)
    during = work_rate(beats, began, ended)
    gap = report(between(beats, began, ended)).gap_ms
    if before is None or during is None or gap is None:
        raise RuntimeError("the guest's heart did not beat")
    return Watched(before, during, gap)
