"""The same load without a rehearsal, and under a migration into nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench._bench_results import Row
from bench._qmp import Qmp
from vmferry.hypervisor.qemu.instance import Instance
from vmferry.testguest.heartbeat import HeartbeatReader, between, report, work_rate

_POLL_SECONDS = 0.01


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
    return _watch(instance, lambda: time.sleep(seconds))


def into_nothing(instance: Instance, seconds: float, actions: Sequence[Row]) -> Watched:
    """QEMU's own pre-copy to a process that throws it away, cancelled after `seconds`.

    `actions` are a rehearsal's, from its trace: they are done again, at the same times. Nobody
    there could take the VM: where QEMU would switch over, it waits, and is cancelled then.
    """
    qmp = Qmp(instance.files.observer_socket)
    parameters = qmp.execute("query-migrate-parameters")

    def migrate() -> None:
        left = list(actions)
        _do(qmp, left, 0.0)
        qmp.execute("migrate", uri="exec:exec cat >/dev/null")
        began = time.monotonic()
        while (t := time.monotonic() - began) < seconds and _status(qmp) != "pre-switchover":
            _do(qmp, left, t)
            time.sleep(_POLL_SECONDS)
        qmp.execute("migrate_cancel")

    try:
        _pause_before_switchover(qmp, on=True)
        watched = _watch(instance, migrate)
        while (status := _status(qmp)) == "cancelling":
            time.sleep(_POLL_SECONDS)
        if status != "cancelled":
            raise RuntimeError(f"the migration into nothing was {status}")
        return watched
    finally:
        _pause_before_switchover(qmp, on=False)
        for name in ("max-bandwidth", "downtime-limit"):
            qmp.execute("migrate-set-parameters", **{name: parameters[name]})
        qmp.close()


def _do(qmp: Qmp, left: list[Row], t: float) -> None:
    """Those of `left` whose time has come."""
    while left and left[0]["t"] <= t:
        action = left.pop(0)["action"]
        if action["kind"] == "bandwidth":
            qmp.execute("migrate-set-parameters", **{"max-bandwidth": action["bytes_per_second"]})
        elif action["kind"] == "downtime-limit":
            qmp.execute("migrate-set-parameters", **{"downtime-limit": action["milliseconds"]})


def _status(qmp: Qmp) -> str:
    return str(qmp.execute("query-migrate").get("status", "none"))


def _pause_before_switchover(qmp: Qmp, *, on: bool) -> None:
    capability = {"capability": "pause-before-switchover", "state": on}
    qmp.execute("migrate-set-capabilities", capabilities=[capability])


def _watch(instance: Instance, happen: Callable[[], None]) -> Watched:
    reader = HeartbeatReader(instance.files.heartbeat_socket, "source")
    reader.start()
    try:
        time.sleep(1.1)
        began = time.monotonic_ns()
        happen()
        ended = time.monotonic_ns()
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
