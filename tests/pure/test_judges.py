"""What holds of every judge, whatever the facts: no crash, and no finding without its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings

from tests.pure.facts_strategies import facts
from vmferry.fastpath.facts import Facts
from vmferry.fastpath.finding import Feature, Finding, Level, Verdict
from vmferry.fastpath.judges import JUDGES

T = TypeVar("T")
ANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def everything(known: Facts) -> list[Finding]:
    return [finding for judge in JUDGES.values() for finding in judge(known)]


def test_each_of_the_seven_has_its_judge() -> None:
    assert set(JUDGES) == set(Feature)


@ANY
@given(facts())
def test_every_level_of_every_feature_has_an_answer(known: Facts) -> None:
    for feature, judge in JUDGES.items():
        found = judge(known)
        assert {one.level for one in found} == set(Level)
        assert {one.feature for one in found} == {feature}


@ANY
@given(facts())
def test_a_finding_has_all_that_its_verdict_promises(known: Facts) -> None:
    for one in everything(known):
        assert one.what and not one.what.endswith(".") and one.check
        for evidence in one.evidence:
            assert evidence.where and evidence.value
        if one.verdict in (Verdict.MISCONFIGURED, Verdict.BETTER):
            assert one.evidence and one.why and one.change and one.cost, one
        elif one.verdict is Verdict.UNTOLD:
            assert one.change or one.why, one
        else:
            assert not (one.why or one.change or one.cost), one
            assert one.evidence, one


@ANY
@given(facts())
def test_nothing_is_called_effective_that_nobody_measured(known: Facts) -> None:
    # The room in an IOMMU's tables is measured on the host.
    host = known.host and replace(known.host, iommu_tables=None)
    blind = replace(known, host=host, window=None, guest=None, deep=None)
    for one in everything(blind):
        if one.level is Level.EFFECTIVE:
            assert one.verdict is not Verdict.OK, one


@ANY
@given(facts())
def test_the_order_of_devices_does_not_matter(known: Facts) -> None:
    turned = replace(
        known,
        host=known.host and replace(known.host, iommus=turn(known.host.iommus)),
        vm=known.vm
        and replace(
            known.vm,
            cards=turn(known.vm.cards),
            controllers=turn(known.vm.controllers),
            passthrough=turn(known.vm.passthrough),
        ),
    )
    assert answers(everything(turned)) == answers(everything(known))


def turn(values: tuple[T, ...] | None) -> tuple[T, ...] | None:
    return None if values is None else values[::-1]


def answers(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    return sorted((one.check, one.subject, one.verdict.value, one.what) for one in findings)


@pytest.mark.parametrize("judge", JUDGES.values(), ids=[one.value for one in JUDGES])
def test_of_nothing_nothing_is_told(judge: Callable[[Facts], list[Finding]]) -> None:
    assert {one.verdict for one in judge(Facts())} == {Verdict.UNTOLD}
