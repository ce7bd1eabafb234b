"""The plan: which settings are tried, and that the one to take meets every wish."""

from __future__ import annotations

from typing import Any

import pytest

from vmferry.precopy.case import Case, Link, Setting
from vmferry.precopy.forecast import forecast_many
from vmferry.precopy.plan import LIMITS_MS, SURE, THROTTLES, Wishes, recommend, table
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.units import GIB, MIB


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
    rows = table(case(40, base, compress={"zstd-1": 2.0}, xbzrle_ratio=3.0))
    assert rows[0].setting == base
    assert len({row.setting for row in rows}) == len(rows)
    for row in rows[1:]:
        changed = [
            name for name in base.__slots__ if getattr(row.setting, name) != getattr(base, name)
        ]
        assert len(changed) == 1
    assert {row.setting.bandwidth // MIB for row in rows} == {0, 32, 64, 96, 128, 256}
    assert {row.setting.downtime_limit_ms for row in rows} == set(LIMITS_MS)
    assert {row.setting.throttle for row in rows} == set(THROTTLES)
    assert {row.setting.compress for row in rows} == {"", "zstd-1"}
    assert any(row.setting.xbzrle for row in rows) and any(row.setting.post_copy for row in rows)


def test_without_a_cap_parts_of_the_speed_are_shown() -> None:
    rows = table(case(40, Setting()))
    assert {row.setting.bandwidth // MIB for row in rows} == {0, 125, 250}


def test_what_was_not_measured_is_not_planned_with() -> None:
    rows = table(case(40, Setting()))
    assert not any(row.setting.compress or row.setting.xbzrle for row in rows)


def test_each_row_is_the_forecast_of_its_setting() -> None:
    planned = case(40, Setting(64 * MIB))
    for row in table(planned):
        alone = Case(planned.profile, row.setting, planned.link, planned.host)
        assert row.forecast == forecast_many([alone])[0]


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


def test_post_copy_is_the_last_resort() -> None:
    planned = case(5000, Setting(64 * MIB))
    assert recommend(planned, Wishes(max_downtime_ms=300)) is None
    copied = recommend(planned, Wishes(max_downtime_ms=300, post_copy=True))
    assert copied is not None and copied.setting.post_copy
    easy = recommend(case(5, Setting(64 * MIB)), Wishes(max_downtime_ms=300, post_copy=True))
    assert easy is not None and not easy.setting.post_copy


def test_a_deadline_that_nothing_meets() -> None:
    assert recommend(case(5, Setting(64 * MIB)), Wishes(300, deadline=0.5)) is None
