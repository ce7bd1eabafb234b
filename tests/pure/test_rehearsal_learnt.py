"""What a rehearsal of the simulated hypervisor teaches, against a move of the same load there."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vmferry.controller import Controller
from vmferry.hypervisor.simulated import Guest, SimulatedMove
from vmferry.journal import Journal
from vmferry.move.recorder import action_json
from vmferry.policy.base import ActionResult, Input, Limits
from vmferry.policy.fixed import Fixed
from vmferry.policy.rehearse import Rehearse
from vmferry.precopy.case import Case
from vmferry.precopy.passes import PassTracker
from vmferry.precopy.profile import DirtyProfile
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import Item, Note, Trace
from vmferry.precopy.xray import Compression, Delta, HeatMap, Row, XRayResult
from vmferry.rehearsal.learnt import Learnt, case_learnt, forecasts, slowdown_of
from vmferry.rehearsal.marks import Marks
from vmferry.rehearsal.request import RehearsalRequest
from vmferry.rehearsal.run import RehearsalRun
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

LIMITS = Limits(bandwidth=128 * MIB, downtime_limit_ms=100)
CONVERGES = Guest(
    256 * MIB, 64 * MIB, PageWriterSettings(working_set=96 * MIB, write_rate=32 * MIB)
)
NEVER = Guest(256 * MIB, 64 * MIB, PageWriterSettings(working_set=96 * MIB, write_rate=256 * MIB))


async def rehearsed(guest: Guest, seconds: float = 60.0) -> list[Input]:
    move = SimulatedMove(guest, pause_before_switchover=False, poll_seconds=0.02, seed=1)
    heard: list[Input] = []
    await Controller(move.migration, Rehearse(LIMITS, seconds), heard.append).run()
    return heard


def trace_of(heard: list[Input]) -> Trace:
    """As the guardian's recorder has it."""
    items: list[Item] = []
    for one in heard:
        if isinstance(one, ActionResult):
            items.append(Note(one.t, "action", action_json(one.action), one.error or "ok"))
        elif isinstance(one, Sample | Event):
            items.append(one)
    return Trace({"limits": asdict(LIMITS)}, tuple(items))


def case(heard: list[Input]) -> Case:
    learnt = case_learnt(trace_of(heard), None, 0.0)
    assert learnt is not None
    return learnt


async def test_the_forecast_is_of_the_planned_move_and_not_of_the_probes() -> None:
    planned, *others = forecasts(case(await rehearsed(CONVERGES)))
    assert (planned.given["bandwidth"], planned.given["downtime_limit_ms"]) == (128 * MIB, 100)
    assert planned.verdict == "converges"
    limits = [(one.given["bandwidth"], one.given["downtime_limit_ms"]) for one in others]
    assert limits == [(64 * MIB, 100), (256 * MIB, 100), (128 * MIB, 50), (128 * MIB, 200)]
    move = SimulatedMove(CONVERGES, pause_before_switchover=False, seed=2)
    await Controller(move.migration, Fixed(LIMITS), lambda item: None).run()
    assert planned.total_ms is not None
    assert planned.total_ms.p50 == pytest.approx(1000 * move.precopy.total_seconds, rel=0.25)


async def test_what_never_converges_has_a_profile_of_the_whole_load() -> None:
    learnt = case(await rehearsed(NEVER))
    assert learnt.profile.source == "rehearsal"
    assert learnt.profile.working_set == pytest.approx(96 * MIB, rel=0.1)
    assert learnt.profile.ram_bytes == 256 * MIB
    assert forecasts(learnt)[0].verdict == "does-not-converge"


async def test_without_a_whole_pass_there_is_nothing_to_learn() -> None:
    assert case_learnt(trace_of(await rehearsed(NEVER, 0.5)), None, 0.0) is None


async def test_every_pass_is_marked_once_where_it_began() -> None:
    tracker, marks, begins = PassTracker(), Marks(), []
    for item in await rehearsed(NEVER):
        if isinstance(item, Sample):
            tracker.receive(item)
            begins += marks.new(tracker)
    passes = tracker.passes
    assert len(begins) >= 3
    assert begins == sorted(begins)
    told = [sum(one.sent_pages for one in passes[:n]) for n in range(1, len(begins) + 1)]
    for begin, sent in zip(begins, told, strict=True):
        assert begin == pytest.approx(sent, rel=0.05)


@pytest.mark.parametrize(
    ("lost", "delays", "expected"),
    [
        (20.0, {"CPU 0/TCG": 50.0}, 0.2),
        (-3.0, {}, 0.0),
        (None, {"CPU 0/TCG": 10.0, "CPU 1/TCG": 30.0}, 0.2),
        (None, {}, 0.0),
        (100.0, {}, 0.95),
    ],
)
def test_the_slowdown(lost: float | None, delays: dict[str, float], expected: float) -> None:
    assert slowdown_of(lost, delays) == pytest.approx(expected)


def xray_of(row: Row) -> XRayResult:
    return XRayResult(
        by="pass",
        page_size=4096,
        ram_bytes=256 * MIB,
        memory_bytes=0,
        rows=(row,),
        repeats=(),
        distinct_resent=0,
        hot=(),
        heat=HeatMap(),
        compress=(),
        delta=None,
        sampled_share=1.0,
    )


async def test_the_memory_is_what_the_sink_counted_where_it_counted_all() -> None:
    trace = trace_of(await rehearsed(CONVERGES))
    pages = 256 * MIB // 4096
    row = Row(1, zero=pages - 1000, ordinary=1000, first=pages)
    learnt = case_learnt(trace, xray_of(row), 0.0)
    assert learnt is not None
    assert learnt.profile.zero_pages == pages - 1000
    assert learnt.profile.non_zero_bytes == 1000 * 4096
    # A sink that lost most of pass 1 knows less than QEMU.
    partly = xray_of(replace(row, first=pages // 2))
    learnt = case_learnt(trace, partly, 0.0)
    assert learnt is not None and learnt.profile.non_zero_bytes > 100 * MIB


@pytest.mark.parametrize("part", [0.0, 1e-6])
async def test_pages_that_hardly_change_leave_a_profile_that_can_be_read(part: float) -> None:
    xray = XRayResult(
        by="pass",
        page_size=4096,
        ram_bytes=256 * MIB,
        memory_bytes=0,
        rows=(),
        repeats=(),
        distinct_resent=0,
        hot=(),
        heat=HeatMap(),
        # Memory of one and the same byte.
        compress=(Compression(1, 15_420.0, 15_420.0, None, 0.1, 128),),
        delta=Delta(part, 0.0, 0.999, 1000, 1.0, part),
        sampled_share=1.0,
    )
    learnt = case_learnt(trace_of(await rehearsed(NEVER, 20.0)), xray, 0.0)
    assert learnt is not None
    profile = DirtyProfile.from_json(learnt.profile.to_json())
    assert (profile.xbzrle_ratio, profile.compress) == (1e4, {"zstd-1": 1e4})


async def test_a_wall_clock_that_is_set_back_leaves_a_profile_that_can_be_read() -> None:
    """QEMU's events have its time."""
    heard = await rehearsed(NEVER, 20.0)
    heard.append(Event(heard[-1].t, "MIGRATION", {"status": "cancelled"}))
    back = [
        replace(one, t=one.t - 100.0) if isinstance(one, Event) and one.t > 10.0 else one
        for one in heard
    ]
    learnt = case_learnt(trace_of(back), None, 0.0)
    assert learnt is not None
    assert DirtyProfile.from_json(learnt.profile.to_json()).watched == 0.0


def test_a_bug_in_what_is_learnt_does_not_lose_the_rehearsal(own_folders: Path) -> None:
    said: list[str] = []
    with Journal.open() as journal:
        run = RehearsalRun(RehearsalRequest("web", Limits()), journal, said.append)
        assert run._learn(Trace({}, ()), {"not": "an X-ray"}, 0.1) == Learnt(0.1)
    assert "nothing could be learnt, by a bug" in said[0]
