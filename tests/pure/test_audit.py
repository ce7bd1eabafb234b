"""How an audit is put together and told: verdicts, exit status, a judge that fails, words."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.pure.catalogue_parts import vm
from vmferry.errors import UsageError
from vmferry.fastpath.audit import Audit, Judge, Request, audit, judged
from vmferry.fastpath.facts import Facts
from vmferry.fastpath.finding import Evidence, Feature, Finding, Level, Verdict
from vmferry.report.audit_words import describe, rows

NET, CLOCK = Feature.NET_QUEUES, Feature.CLOCK
OFFERED, EFFECTIVE = Level.OFFERED, Level.EFFECTIVE


def finding(
    verdict: Verdict,
    feature: Feature = NET,
    level: Level = OFFERED,
    subject: str = "",
    change: str = "set queues=4",
) -> Finding:
    return Finding(
        *(feature, level, "net-queues", verdict, "it has one queue"),
        (Evidence("QOM net0", "mq=off"),),
        subject=subject,
        why="one queue, one vCPU",
        change=change,
        cost="a restart",
    )


def made(*findings: Finding, bugs: tuple[str, ...] = ()) -> Audit:
    return Audit("vm1", tuple(Feature), Facts(no_guest="nobody looked"), findings, 1.5, bugs)


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        ([], None),
        ([Verdict.OK, Verdict.OK], Verdict.OK),
        ([Verdict.OK, Verdict.UNTOLD], Verdict.UNTOLD),
        ([Verdict.UNTOLD, Verdict.MISCONFIGURED, Verdict.BETTER], Verdict.MISCONFIGURED),
        ([Verdict.UNUSED], Verdict.UNUSED),
        ([Verdict.UNUSED, Verdict.OK], Verdict.OK),
    ],
)
def test_the_worst_finding_is_the_verdict(verdicts: list[Verdict], told: Verdict | None) -> None:
    found = made(*(finding(verdict) for verdict in verdicts), finding(Verdict.OK, CLOCK))
    assert found.verdict(NET, OFFERED) is told
    assert found.verdict(NET, EFFECTIVE) is None


def test_exit_status() -> None:
    assert made(finding(Verdict.BETTER), finding(Verdict.UNTOLD)).exit_status == 0
    assert made(finding(Verdict.MISCONFIGURED)).exit_status == 7
    assert made(finding(Verdict.MISCONFIGURED), bugs=("Traceback",)).exit_status == 1


def test_json_has_every_verdict() -> None:
    told = made(finding(Verdict.BETTER), bugs=("Traceback\n x\nKeyError: 'a'\n",)).to_json()
    assert (told["event"], told["format"], told["subject"]) == ("audit", 1, "vm1")
    assert told["verdicts"]["net-queues"] == {
        "offered": "could be better",
        "negotiated": None,
        "effective": None,
    }
    assert len(told["verdicts"]) == len(Feature)
    assert told["counts"]["could be better"] == 1
    assert told["bugs"] == ["KeyError: 'a'"]
    assert (told["looked_inside"], told["no_guest"]) == (False, "nobody looked")


def broken(facts: Facts) -> list[Finding]:
    raise KeyError("x")


def fine(facts: Facts) -> list[Finding]:
    return [finding(Verdict.OK)]


def test_a_judge_that_fails_does_not_end_the_audit() -> None:
    findings, bug = judged(CLOCK, broken, Facts())
    assert "KeyError" in bug
    assert [one.level for one in findings] == list(Level)
    assert {one.verdict for one in findings} == {Verdict.UNTOLD}
    judges: dict[Feature, Judge] = {NET: fine, CLOCK: broken}
    request = Request(host=True, features=(CLOCK, NET))
    found = asyncio.run(audit(request, judges))
    assert found.verdict(NET, OFFERED) is Verdict.OK
    assert found.exit_status == 1
    assert len(found.bugs) == 1
    assert found.facts.host is not None


async def test_a_vm_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no VM 'gone'"):
        await audit(Request(vm="gone"), {})
    with pytest.raises(UsageError, match="cannot be looked at"):
        await audit(Request(vm="qmp:/nowhere/qmp.sock"), {})


def test_the_table_has_a_row_for_each_of_the_seven() -> None:
    table = rows(made(finding(Verdict.OK), finding(Verdict.MISCONFIGURED, CLOCK, EFFECTIVE)))
    assert table[0] == ("FAST PATH", "OFFERED", "NEGOTIATED", "EFFECTIVE")
    assert table[1] == ("net-queues", "ok", "-", "-")
    assert ("clock", "-", "-", "misconfigured") in table
    assert len(table) == 8


def test_the_worst_comes_first_and_says_all_of_it() -> None:
    text = "\n".join(
        describe(
            made(
                finding(Verdict.OK, CLOCK),
                finding(Verdict.BETTER, subject="net1"),
                finding(Verdict.MISCONFIGURED, subject="net0"),
            )
        )
    )
    assert text.index("misconfigured: net-queues, offered, net0") < text.index("net1")
    for line in (
        "  it has one queue",
        "  seen: QOM net0: mq=off",
        "  why: one queue, one vCPU",
        "  change: set queues=4",
        "  cost: a restart",
    ):
        assert line in text.splitlines()
    assert "clock" not in text
    assert text.endswith("vm1: 1 misconfigured, 1 could be better")


def test_what_cannot_be_told_is_grouped_by_what_lets_it_be_told() -> None:
    lines = describe(
        made(
            finding(Verdict.UNTOLD, change="look inside"),
            finding(Verdict.UNTOLD, CLOCK, change="start load"),
            finding(Verdict.UNTOLD, CLOCK, EFFECTIVE, change="look inside"),
        )
    )
    assert lines.count("cannot be told:") == 2
    assert lines.count("  to tell: look inside") == 1
    assert lines[-1] == "vm1: 3 cannot be told"


def test_a_vm_that_is_paused_is_named_as_the_reason() -> None:
    """Load and a booted guest, which the findings ask for, would not help."""
    found = made(finding(Verdict.UNTOLD))
    paused = replace(found, facts=Facts(vm=vm(running=False)))
    assert "the VM is paused" in "\n".join(describe(paused))
    runs = replace(found, facts=Facts(vm=vm()))
    assert "paused" not in "\n".join(describe(runs))


def test_all_is_well() -> None:
    assert describe(made(finding(Verdict.OK)))[-1] == "vm1: everything is as it should be"
