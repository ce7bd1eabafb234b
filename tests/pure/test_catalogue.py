"""The catalogue, judged from facts as collectors give them: each planted misconfiguration is found
with its evidence, and no right set-up raises an alarm."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench._catalogue_case import Case, Expected, problems, wrong
from bench._catalogue_cases import CASES
from tests.pure.catalogue_planted import PLANTED
from tests.pure.catalogue_right import RIGHT
from vmferry.fastpath.facts import Facts
from vmferry.fastpath.finding import Level, Verdict
from vmferry.fastpath.judges import JUDGES

FACTS = {**PLANTED, **RIGHT}
BY_NAME = {case.name: case for case in CASES}


def audited(known: Facts) -> list[dict[str, object]]:
    return [finding.to_json() for judge in JUDGES.values() for finding in judge(known)]


def test_the_catalogue_is_as_large_as_promised() -> None:
    assert sum(not case.right for case in CASES) >= 40
    assert sum(case.right for case in CASES) >= 20
    assert len(BY_NAME) == len(CASES)
    assert set(FACTS) == set(BY_NAME)


@pytest.mark.parametrize("name", FACTS)
def test_the_case_is_judged_as_it_should_be(name: str) -> None:
    assert problems(BY_NAME[name], audited(FACTS[name])) == []


def test_of_the_planted_ones_each_raises_its_alarm_because_of_what_is_planted() -> None:
    """The right set-ups, judged as if they were planted, are found wanting."""
    for case in CASES:
        if not case.right:
            findings = audited(RIGHT["neither card nor further disk"])
            assert problems(case, findings) != [], case.name


def test_a_case_tells_what_is_missing_and_what_is_a_false_alarm() -> None:
    expected = Expected("net-queues", Level.OFFERED, Verdict.BETTER, "one queue")
    assert problems(Case("x", (expected,)), []) == [
        "not found: net-queues (offered, could be better)"
    ]
    alarm = audited(PLANTED["one queue for two vCPUs"])
    (told,) = problems(Case("x"), alarm)
    assert told.startswith("false alarm: net-queues (offered): 1 queue for 2 vCPUs")


def test_a_right_set_up_stays_right_without_a_look_inside() -> None:
    for name, known in RIGHT.items():
        if known.vm is not None:
            blind = replace(known, guest=None, no_guest="no way in")
            assert problems(BY_NAME[name], audited(blind)) == [], name


@pytest.mark.parametrize("name", [name for name in PLANTED if "RAM lies" in name or "vain" in name])
def test_small_leaves_are_found_where_the_tables_can_be_read(name: str) -> None:
    leaves = wrong("iommu-leaves", Level.EFFECTIVE, r"0000:01:00.0: 65,536 of 4 KiB")
    assert problems(Case("x", (leaves,)), audited(PLANTED[name])) == []
