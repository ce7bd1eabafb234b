"""The plan: which settings are tried, that the one to take meets every wish, and the words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vmferry.precopy.case import Case, Link, Setting
from vmferry.precopy.forecast import forecast_many
from vmferry.precopy.plan import LIMITS_MS, SURE, THROTTLES, Row, Wishes, make_plan
from vmferry.precopy.plan_words import (
    asked_words,
    cells,
    interval,
    reached_words,
    recommended_words,
)
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.units import GIB, MIB, format_duration, format_size

EASY = Wishes(max_downtime_ms=300)


def table(planned: Case, wishes: Wishes = EASY) -> tuple[Row, ...]:
    return make_plan(planned, wishes).rows


def recommend(planned: Case, wishes: Wishes) -> Row | None:
    """The row to take, which the table has to show, once."""
    found = make_plan(planned, wishes)
    assert found.best is None or found.rows.count(found.best) == 1
    return found.best


def case(rate: float, setting: Setting, **more: Any) -> Case:
    """A guest of 1 GiB that dirties `rate` new MiB a second, over a link of about 500 MiB/s."""
    points = tuple(
        CurvePoint(t, rate * t * MIB, rate * t * MIB * 0.95, rate * t * MIB * 1.05)
        for t in (0.1, 1.0, 10.0, 30.0)
    )
    values: dict[str, Any] = {"ram_bytes": 2 * GIB, "zero_pages": 0, "non_zero_bytes": GIB, **more}
    speed = Quantiles(450 * MIB, 500 * MIB, 520 * MIB)
    return Case(DirtyProfile(points, **values), setting, Link(speed, speed))


def test_the_table_begins_with_the_setting_given_and_changes_one_thing_a_row() -> None:
    base = Setting(bandwidth=64 * MIB, downtime_limit_ms=300)
    plan = make_plan(case(40, base, compress={"zstd-1": 2.0}, xbzrle_ratio=3.0), EASY)
    rows = plan.rows
    assert rows[0].setting == base and plan.asked == rows[0]
    assert len({row.setting for row in rows}) == len(rows)
    for row in rows[1:]:
        changed = [
            name for name in base.__slots__ if getattr(row.setting, name) != getattr(base, name)
        ]
        assert len(changed) == 1
    bandwidths = {row.setting.bandwidth // MIB for row in rows}
    assert {0, 32, 64, 96, 128, 256} < bandwidths and max(bandwidths) <= 520
    assert {row.setting.downtime_limit_ms for row in rows} > set(LIMITS_MS)
    assert {row.setting.throttle for row in rows} == set(THROTTLES)
    assert {row.setting.compress for row in rows} == {"", "zstd-1"}
    assert any(row.setting.xbzrle for row in rows) and any(row.setting.post_copy for row in rows)


def test_without_a_cap_parts_of_the_speed_are_shown() -> None:
    rows = table(case(40, Setting()))
    assert {row.setting.bandwidth // MIB for row in rows} == {0, 120, 250, 500}


def test_bandwidths_lie_around_the_speed_of_the_link_too() -> None:
    """And not only around a cap that is far below it."""
    rows = table(case(40, Setting(bandwidth=4 * MIB)))
    bandwidths = {row.setting.bandwidth // MIB for row in rows}
    assert {2, 4, 6, 8, 16} < bandwidths and {120, 250, 500} < bandwidths


def test_a_deadline_brings_the_bandwidth_that_it_takes() -> None:
    planned = case(5, Setting(bandwidth=20 * MIB))
    assert not any(30 < row.setting.bandwidth / MIB < 36 for row in table(planned))
    wishes = Wishes(300, deadline=40.0)
    best = recommend(planned, wishes)
    assert best is not None and 30 <= best.setting.bandwidth / MIB <= 42
    assert best.forecast.total_ms and best.forecast.total_ms.p90 <= 40_000


def test_the_promise_allows_a_larger_limit_where_a_cap_holds_the_passes() -> None:
    """What is left goes at the speed of the link, so the VM stands for less than QEMU thinks."""
    planned = case(60, Setting(bandwidth=64 * MIB))
    # It rewrites 100 MiB, and 64 MiB/s take 1.6 s for these.
    points = tuple(
        CurvePoint(t, size * MIB, size * MIB * 0.95, size * MIB * 1.05)
        for t, size in ((0.1, 9), (0.5, 45), (1.0, 80), (2.0, 98), (10.0, 100), (30.0, 100))
    )
    planned = replace(planned, profile=replace(planned.profile, points=points))
    best = recommend(planned, EASY)
    assert best is not None and best.setting.bandwidth == 64 * MIB
    assert best.setting.downtime_limit_ms > 1000
    assert best.forecast.downtime_ms and best.forecast.downtime_ms.p90 <= 300


def test_what_was_not_measured_is_not_planned_with() -> None:
    rows = table(case(40, Setting()))
    assert not any(row.setting.compress or row.setting.xbzrle for row in rows)


def test_each_row_is_the_forecast_of_its_setting() -> None:
    planned = case(40, Setting(64 * MIB))
    for row in table(planned):
        alone = Case(planned.profile, row.setting, planned.link, planned.host)
        assert row.forecast == forecast_many([alone])[0]


@pytest.mark.parametrize("bandwidth", [0, 64 * MIB])
def test_nothing_is_recommended_that_qemu_cannot_do(bandwidth: int) -> None:
    """It compresses by multifd alone, which keeps to no cap and goes with no XBZRLE."""
    for rate in (40, 80, 400, 900):
        for post_copy in (False, True):
            planned = case(rate, Setting(bandwidth), compress={"zstd-1": 3.0}, xbzrle_ratio=4.0)
            best = recommend(planned, Wishes(300, max_throttle=80, post_copy=post_copy))
            if best is not None and best.setting.compress:
                alone = not best.setting.xbzrle and not best.setting.post_copy
                assert alone and not best.setting.bandwidth


def test_what_converges_as_it_is_is_left_as_it_is() -> None:
    best = recommend(case(5, Setting(64 * MIB)), Wishes(max_downtime_ms=300))
    assert best is not None and best.setting == Setting(64 * MIB)


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(max_downtime_ms=100),
        Wishes(max_downtime_ms=300, deadline=20.0),
        Wishes(max_downtime_ms=2000),
        Wishes(max_downtime_ms=300, max_throttle=80),
    ],
)
@pytest.mark.parametrize("rate", [20, 60, 110])
def test_the_one_to_take_meets_every_wish(wishes: Wishes, rate: float) -> None:
    planned = case(rate, Setting(64 * MIB))
    best = recommend(planned, wishes)
    assert best is not None
    found = best.forecast
    assert found.p_converge >= SURE
    assert found.total_ms and found.downtime_ms
    assert found.downtime_ms.p90 <= wishes.max_downtime_ms
    assert wishes.deadline is None or found.total_ms.p90 <= wishes.deadline * 1000
    assert best.setting.throttle <= wishes.max_throttle
    assert not best.setting.post_copy


def test_a_throttle_is_taken_only_where_bandwidth_does_not_help() -> None:
    # 600 new MiB a second are more than the link can carry.
    planned = case(600, Setting(64 * MIB))
    assert recommend(planned, Wishes(max_downtime_ms=300)) is None
    held = recommend(planned, Wishes(max_downtime_ms=300, max_throttle=80))
    assert held is not None and held.setting.throttle > 0
    free = recommend(case(60, Setting(64 * MIB)), Wishes(max_downtime_ms=300, max_throttle=80))
    assert free is not None and free.setting.throttle == 0


def test_auto_converge_is_a_throttle_that_has_to_be_allowed() -> None:
    planned = case(60, Setting(64 * MIB, auto_converge=True))
    best = recommend(planned, Wishes(max_downtime_ms=300))
    assert best is not None and not best.setting.auto_converge and not best.setting.throttle
    plan = make_plan(planned, Wishes(max_downtime_ms=300))
    assert "auto-converge may throttle it by up to 99 %" in recommended_words(plan, EASY)


def test_post_copy_is_the_last_resort() -> None:
    planned = case(5000, Setting(64 * MIB))
    assert recommend(planned, Wishes(max_downtime_ms=300)) is None
    copied = recommend(planned, Wishes(max_downtime_ms=300, post_copy=True))
    assert copied is not None and copied.setting.post_copy
    easy = recommend(case(5, Setting(64 * MIB)), Wishes(max_downtime_ms=300, post_copy=True))
    assert easy is not None and not easy.setting.post_copy


def test_a_deadline_that_nothing_meets() -> None:
    assert recommend(case(5, Setting(64 * MIB)), Wishes(300, deadline=0.5)) is None


def test_what_would_be_enough_is_enough() -> None:
    planned = case(600, Setting(64 * MIB))
    found = make_plan(planned, EASY)
    assert found.best is None and found.enough
    for wishes in found.enough:
        assert recommend(planned, wishes) is not None
    # And no more than that: a throttle in steps, a downtime to the millisecond.
    changed = {wishes.max_throttle for wishes in found.enough} - {0.0}
    (throttle,) = changed
    assert recommend(planned, Wishes(300, max_throttle=throttle - 1)) is None


def told(planned: Case, wishes: Wishes, reached: float = 500 * MIB) -> tuple[list[str], str]:
    """The settings of the table with their marks, and the last sentence."""
    found = make_plan(planned, wishes)
    lines = [" ".join(cells(row, found, reached)[:2]) for row in found.rows]
    return lines, recommended_words(found, wishes)


def test_the_words_for_what_may_stay_as_it_is() -> None:
    lines, why = told(case(5, Setting(64 * MIB)), EASY)
    assert lines[0] == "* as asked"
    assert why == (
        "Recommended (*): as asked. It keeps to a downtime of at most 300 ms in nine of ten cases."
    )


def test_the_words_for_more_bandwidth() -> None:
    lines, why = told(case(62, Setting(32 * MIB)), EASY)
    (marked,) = (line for line in lines if line.startswith("*"))
    name = marked.removeprefix("* ")
    assert name.startswith("bandwidth ")
    assert why == (
        f"Recommended (*): {name}. It keeps to a downtime of at most 300 ms in nine of ten cases;"
        " without throttle and post-copy, nothing within the 32.0 MiB/s asked for does. As asked it"
        " does not converge."
    )


def test_the_words_for_a_throttle_and_for_post_copy_tell_their_cost() -> None:
    planned = case(600, Setting(64 * MIB))
    found = make_plan(planned, Wishes(300, max_throttle=80, post_copy=True))
    costs = {cells(row, found, 0)[1]: cells(row, found, 0)[-1] for row in found.rows}
    assert costs["throttle 80 %"].startswith("the VM is slowed by 80 %")
    assert costs["post-copy"] == "the VM waits for pages, and is lost if the link breaks"
    assert costs["as asked"] == ""
    _, why = told(planned, Wishes(300, max_throttle=80))
    assert "without post-copy, nothing with less throttle does" in why


def test_auto_converge_is_told_with_its_cost() -> None:
    found = make_plan(case(600, Setting(64 * MIB, auto_converge=True)), EASY)
    assert asked_words(found.asked.setting, GIB).startswith(
        "As asked: bandwidth 64.0 MiB/s, limit 300 ms, auto-converge. "
    )
    assert cells(found.asked, found, GIB)[-1] == "QEMU slows the VM until it converges"


def test_the_words_where_nothing_does() -> None:
    lines, why = told(case(600, Setting(64 * MIB)), Wishes(300, deadline=60.0))
    assert not any(line.startswith("*") for line in lines)
    assert why.startswith(
        "None of these settings, nor any of them together, keeps to a downtime of at most 300 ms"
        " and 60.0 s in all in nine of ten cases."
    )
    assert "--post-copy allowed would be enough" in why and "--max-throttle" in why


def test_a_bandwidth_that_nobody_saw_is_marked() -> None:
    planned = case(40, Setting(64 * MIB))
    lines, _ = told(planned, EASY, reached=100 * MIB)
    assert "bandwidth 96.0 MiB/s" in " ".join(lines)
    marked = [line for line in lines if "(not seen)" in line]
    assert marked and all("bandwidth" in line for line in marked)
    assert not any("64.0" in line or "96.0" in line or "no cap" in line for line in marked)
    found = make_plan(planned, EASY)
    (line,) = reached_words(found, 100 * MIB)
    assert line.endswith("which is 100 MiB/s.")
    (line,) = reached_words(found, 0)
    assert "nothing was seen" in line
    assert reached_words(found, GIB) == []


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (2 * MIB, 5 * MIB, "2.00 to 5.00 MiB"),
        (500 * 1024, 5 * MIB, "500 KiB to 5.00 MiB"),
        (MIB, MIB, "1.00 MiB"),
    ],
)
def test_an_interval_has_its_unit_once(low: float, high: float, expected: str) -> None:
    assert interval(Quantiles(low, (low + high) / 2, high), format_size) == expected


def test_seconds_are_not_taken_for_minutes() -> None:
    shown = interval(Quantiles(50.0, 100.0, 245.0), format_duration)
    assert shown == "50.0 s to 4 min 05 s"


def test_an_interval_of_nothing() -> None:
    assert interval(None, format_size) == "-"
