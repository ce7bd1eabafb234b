"""Recorded traces of simulated migrations, for the tests of what explains them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmferry.hypervisor.simulated import Guest, Machine, Precopy
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import Item, Note, Trace
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

POLL_SECONDS = 0.25


def writer(working_set: int, rate: int | None, **more: Any) -> PageWriterSettings:
    """MiB and MiB/s; None is as fast as it can."""
    speed: Any = "unlimited" if rate is None else rate * MIB
    return PageWriterSettings(working_set=working_set * MIB, write_rate=speed, **more)


def record(
    load: PageWriterSettings,
    seconds: float,
    *,
    cap: float = 0.0,
    limit_ms: int = 300,
    uncapped: float = 500.0,
    told: bool = True,
    dip: tuple[float, float, float] | None = None,
    cancel: bool = False,
    seed: int = 1,
) -> Trace:
    """Move a guest of 160 MiB for so long. Speeds in MiB/s, 0 is no cap; a `dip` has begin, end
    and the speed meanwhile. `told` writes the parameters into the trace."""
    items: list[Item] = []
    if told:
        parameters = {"max-bandwidth": round(cap * MIB), "downtime-limit": limit_ms}
        items.append(Note(0.0, "parameters", parameters))

    def hear(side: str, name: str, data: Mapping[str, Any]) -> None:
        items.append(Event(move.now, name, data, side))

    move = Precopy(
        Guest(ram_bytes=160 * MIB, static_bytes=60 * MIB, writer=load, writer_age=1.0),
        Machine(uncapped=uncapped * MIB),
        bandwidth=round(cap * MIB),
        downtime_limit_ms=limit_ms,
        pause_before_switchover=False,
        seed=seed,
        emit=hear,
    )
    move.start()
    while not move.ended and move.now < seconds:
        if dip is not None:
            low = dip[0] <= move.now < dip[1]
            move.bandwidth = round((dip[2] if low else cap) * MIB)
        move.run(move.now + POLL_SECONDS)
        items.append(Sample.from_reply(move.now, move.reply()))
    if cancel:
        move.cancel()
        move.run(move.now + POLL_SECONDS)
        items.append(Sample.from_reply(move.now, move.reply()))
    items.sort(key=lambda item: item.t)
    return Trace({}, tuple(items))


def completes(load: PageWriterSettings, cap: float, limit_ms: float, seconds: float) -> bool:
    """Whether the same guest's move ends within so long."""
    trace = record(load, seconds, cap=cap, limit_ms=round(limit_ms), seed=2)
    last = trace.items[-1]
    return isinstance(last, Sample) and last.status == "completed"
