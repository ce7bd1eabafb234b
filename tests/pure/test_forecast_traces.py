"""Recordings of real migrations: the profile and case they make, and the forecast from a cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vmferry.errors import UsageError
from vmferry.hypervisor.simulated import Guest, Machine, Precopy
from vmferry.precopy.case import Case
from vmferry.precopy.case_of import case_of, cut
from vmferry.precopy.forecast import forecast_many
from vmferry.precopy.passes import PassTracker
from vmferry.precopy.profile_of import profile_of_passes, zero_pages_per_second
from vmferry.precopy.sample import Sample
from vmferry.precopy.trace import Item, Note, Trace, read_trace
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import GIB, MIB

DATA = Path(__file__).parents[1] / "data"
CONVERGES = "pg-4t-converges-1.jsonl"
NEVER = "pg-16t-never-converges-1-first-38s.jsonl"
THROTTLED = "pg-16t-auto-converge-1.jsonl"


def trace(name: str) -> Trace:
    with (DATA / name).open() as lines:
        return read_trace(lines, name)


def case(name: str, after_pass: int) -> Case:
    return case_of(cut(trace(name), after_pass))


def figures(name: str) -> Sample:
    return [item for item in trace(name).inputs if isinstance(item, Sample) and item.total][-1]


@pytest.mark.parametrize("after_pass", [2, 3])
def test_the_scenarios_are_told_apart_early(after_pass: int) -> None:
    converges, never, throttled = forecast_many(
        [case(name, after_pass) for name in (CONVERGES, NEVER, THROTTLED)]
    )
    assert converges.verdict == "converges" and not converges.given["auto_converge"]
    assert never.verdict == "does-not-converge"
    assert throttled.verdict == "converges" and throttled.given["auto_converge"]


def test_time_and_bytes_of_the_one_that_converges() -> None:
    last, found = figures(CONVERGES), forecast_many([case(CONVERGES, 2)])[0]
    assert found.total_ms and found.bytes
    assert found.total_ms.p50 == pytest.approx(last.total_time_ms, rel=0.05)
    assert found.bytes.p50 == pytest.approx(last.transferred, rel=0.05)


def test_without_auto_converge_the_throttled_one_would_not_have_converged() -> None:
    steered = case(THROTTLED, 2)
    left_alone = replace(steered, setting=replace(steered.setting, auto_converge=False))
    assert forecast_many([left_alone])[0].verdict == "does-not-converge"


def test_the_settings_that_a_recording_does_not_tell() -> None:
    found = case(CONVERGES, 2)
    assert found.setting.bandwidth == pytest.approx(128 * MIB, rel=0.01)
    assert found.setting.downtime_limit_ms == 300
    assert not found.setting.auto_converge and found.setting.throttle == 0
    assert found.link.speed.p90 > found.link.speed.p50 > 0.99 * found.setting.bandwidth


def test_where_a_cut_recording_stands() -> None:
    standing = case(CONVERGES, 2).standing
    assert standing is not None
    assert standing.number == 3 and standing.t == pytest.approx(16.87, abs=0.01)
    assert 0 < standing.pass_elapsed < 0.3
    assert case_of(trace(CONVERGES)).standing is None


def test_what_a_recording_tells_of_the_guest() -> None:
    profile = case(CONVERGES, 2).profile
    assert profile.source == "trace" and profile.ram_bytes == figures(CONVERGES).total
    assert profile.zero_pages == pytest.approx(1_608_864, rel=0.01)
    assert profile.non_zero_bytes + profile.zero_pages * 4096 == pytest.approx(8.02 * GIB, rel=0.01)
    assert [round(point.seconds) for point in profile.points] == [2, 15]
    first, second = (point.bytes / MIB for point in profile.points)
    assert first == pytest.approx(80, rel=0.1) and second == pytest.approx(275, rel=0.05)


def test_a_throttle_that_was_on_is_known_and_its_windows_are_of_its_clock() -> None:
    early, late = case(THROTTLED, 4), case(THROTTLED, 12)
    assert early.setting.throttle == 0 and early.profile.throttle == 0
    assert late.setting.throttle == 30 and late.profile.throttle == 30
    longest = max(point.seconds for point in late.profile.points)
    # 23.9 s without a throttle are as long for the guest as 34 s with 30 per cent.
    assert longest == pytest.approx(23.9 / 0.7, rel=0.01)


def test_zero_pages_among_others_cost_a_limited_sender_nothing() -> None:
    tracker = PassTracker()
    for item in trace(CONVERGES).inputs:
        tracker.receive(item)
    rate = zero_pages_per_second(tracker.passes, 129 * MIB)
    assert rate is not None and rate > 5e6
    whole = replace(case_of(trace(CONVERGES)), standing=None)
    found = forecast_many([whole])[0]
    assert found.total_ms
    assert found.total_ms.p50 == pytest.approx(figures(CONVERGES).total_time_ms, rel=0.03)


def test_what_auto_converge_ended_is_forecast_from_its_begin_without_a_throttle() -> None:
    name = "pg-16t-auto-converge-1.jsonl"
    whole = case_of(trace(name))
    assert whole.standing is None and whole.setting.throttle == 0 and whole.setting.auto_converge
    total = forecast_many([whole])[0].total_ms
    assert total is not None and total.p10 < figures(name).total_time_ms < total.p90


def test_limits_in_the_header_and_in_notes_come_first() -> None:
    short = cut(trace(CONVERGES), 3)
    header = {"limits": {"bandwidth": 64 * MIB, "downtime_limit_ms": 700}}
    told = case_of(Trace(header, short.items)).setting
    assert (told.bandwidth, told.downtime_limit_ms) == (64 * MIB, 700)
    note = Note(0.0, "parameters", {"max-bandwidth": 96 * MIB, "downtime-limit": 900})
    noted = case_of(Trace({}, (note, *short.items))).setting
    assert (noted.bandwidth, noted.downtime_limit_ms) == (96 * MIB, 900)


def changed(name: str, after_pass: int, change: Callable[[Sample], Sample]) -> Trace:
    items = cut(trace(name), after_pass).items
    return Trace({}, tuple(change(i) if isinstance(i, Sample) else i for i in items))


def test_bytes_that_were_saved_show_in_the_case() -> None:
    # As if QEMU had compressed all pages to half their size.
    halved = case_of(changed(CONVERGES, 3, lambda s: replace(s, transferred=s.transferred // 2)))
    assert halved.setting.compress == "as recorded"
    assert halved.profile.compress["as recorded"] == pytest.approx(2.0, rel=0.01)
    plain = case(CONVERGES, 3)
    assert not plain.setting.compress and not plain.setting.xbzrle


def test_a_recording_without_a_speed_is_measured_by_its_bytes() -> None:
    found = case_of(changed(CONVERGES, 2, lambda s: replace(s, mbps=0.0)))
    assert found.setting.bandwidth == pytest.approx(129 * MIB, rel=0.05)


def test_zero_pages_do_not_make_the_link_slow() -> None:
    writer = PageWriterSettings(working_set=100 * MIB, write_rate=200 * MIB)
    guest = Guest(ram_bytes=6 * GIB, static_bytes=150 * MIB, writer=writer)
    move = Precopy(guest, Machine(uncapped=500 * MIB), pause_before_switchover=False)
    move.start()
    items: list[Item] = []
    while not move.ended:
        move.run(move.now + 0.1)
        items.append(Sample.from_reply(move.now, move.reply()))
    speeds = [item.mbps for item in items if isinstance(item, Sample) and item.mbps > 0]
    assert sorted(speeds)[len(speeds) // 2] < 300 * 8.4
    found = case_of(Trace({}, tuple(items)))
    assert found.link.speed.p50 > 400 * MIB
    assert found.profile.zero_end > 5 * GIB


def test_a_limit_that_was_lowered_is_no_auto_converge() -> None:
    early = cut(trace(THROTTLED), 2)
    assert case_of(early).setting.auto_converge
    note = Note(0.0, "parameters", {"downtime-limit": 4000})
    later = Note(20.0, "parameters", {"downtime-limit": 300})
    assert not case_of(Trace({}, (note, later, *early.items))).setting.auto_converge


def test_a_recording_that_ends_in_pass_1_says_so() -> None:
    short = trace(CONVERGES)
    first = tuple(i for i in short.items if isinstance(i, Sample) and i.sync_count == 1)
    with pytest.raises(UsageError, match="ends in pass 1"):
        case_of(Trace({}, first))


def test_a_cut_beyond_the_end_is_refused() -> None:
    with pytest.raises(UsageError, match="after pass 90: it ends in pass 8"):
        cut(trace(CONVERGES), 90)


def test_every_cut_of_every_recording_can_be_forecast() -> None:
    for name, last in ((CONVERGES, 8), (NEVER, 4), (THROTTLED, 22)):
        found = forecast_many([case(name, after) for after in range(1, last)])
        assert len(found) == last - 1
        right = "does-not-converge" if name == NEVER else "converges"
        wrong = "converges" if name == NEVER else "does-not-converge"
        verdicts = [one.verdict for one in found[1:]]
        assert wrong not in verdicts and verdicts[-1] == right


def test_a_pass_that_no_later_one_follows_tells_nothing() -> None:
    sample = Sample(0.0, "active", total=GIB)
    assert profile_of_passes((), None, sample) is None
