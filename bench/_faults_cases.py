"""The matrix of faults: which one at which stage, on which of the VMs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bench._faults_case import BROKEN, FAR_MISMATCHES, Case
from bench._faults_hold import STAGE_3, STAGES

UNTOLD = "loaded, source not told"
UNHELD = "stage 3, not held"
_LOCAL = tuple(stage for stage in STAGES if stage != UNTOLD)
_LOCAL_3 = tuple(stage for stage in _LOCAL if stage in STAGE_3)


def cases() -> list[Case]:
    """All of them, in the order in which one VM serves many."""
    found = list(_all())
    return sorted(found, key=lambda case: (case.small_state, case.disk, case.proxy))


def _all() -> Iterator[Case]:
    for fault in ("kill command", "kill guardian", "kill both"):
        yield from _each(fault, _LOCAL)
        yield from _each(fault, _LOCAL if fault == "kill command" else _LOCAL_3, disk=True)
        for number in range(1, 4):
            yield Case(fault, UNHELD, disk=True, number=number)
            yield Case(fault, UNHELD, number=number)
    yield from _each("Ctrl-C", _LOCAL)
    yield from _each("kill destination", _LOCAL)
    yield from _each("kill destination", _LOCAL_3, disk=True)
    yield from _each("kill source", ("pass 1", "before intent", "device", "loaded", "source-dead"))
    yield from _each(
        "stop destination 1 s",
        ("pass 1", "later passes", "before intent", UNHELD, "device", "loaded", "source-dead"),
    )
    yield from _each("stop destination 8 s", ("pass 1", "device", "loaded", "source-dead", "done"))
    yield from _each(
        "stop source 1 s", ("pass 1", "before intent", "after intent", UNHELD, "loaded")
    )
    yield from _each("stop source 8 s", ("pass 1", "after intent", "cont"))
    yield from _each("stop guardian, kill it", ("setup", "pass 1", *_LOCAL_3))
    yield from _each(
        "stop guardian, kill both", ("pass 1", "before intent", "device", "loaded", "cont")
    )
    for stage in (
        *("before the move", "setup", "pass 1", "before intent", "device", "loaded", "cont"),
        "done",
    ):
        yield Case("journal full", stage, small_state=True)
    yield from (Case("cut", "setup", proxy=True, number=n) for n in range(3))
    yield from (Case("cut", "pass 1", proxy=True, number=n) for n in range(5))
    yield from (Case("cut", UNHELD, proxy=True, number=n) for n in range(12))
    yield from (Case("cut", UNHELD, proxy=True, disk=True, number=n) for n in range(8))
    for fault in ("stall 1 s", "stall 8 s"):
        yield Case(fault, "pass 1", proxy=True)
        for number in range(4):
            yield Case(fault, UNHELD, proxy=True, disk=number % 2 == 1, number=number)
    for fault in (
        *("cut now", "withhold 1 s", "withhold 8 s", "kill command", "kill guardian"),
        *("kill both", "kill destination", "Ctrl-C", "kill source"),
    ):
        yield Case(fault, UNTOLD, proxy=True)
        yield Case(fault, UNTOLD, proxy=True, disk=True)
    yield from (Case(fault, "start") for fault in BROKEN)
    yield from (Case(fault, "start", proxy=True) for fault in FAR_MISMATCHES)


def _each(fault: str, stages: Iterable[str], *, disk: bool = False) -> Iterator[Case]:
    return (Case(fault, stage, disk=disk) for stage in stages)
