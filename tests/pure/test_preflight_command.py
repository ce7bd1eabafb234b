"""What the preflight says to people and to programs, and what --force can do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pure.preflight_facts import ALIKE, at_destination
from tests.pure.test_preflight_checks import WRONG
from vmferry.cli import main
from vmferry.cli.check import described
from vmferry.errors import RefusedError
from vmferry.move.check import refuse_blocked
from vmferry.preflight.finding import Verdict
from vmferry.preflight.registry import CHECKS, run_checks

Captured = pytest.CaptureFixture[str]

MISFIT = replace(
    at_destination(vcpus=4, uuid="22222222-2222-2222-2222-222222222222", virtio=None),
)


def test_all_reasons_are_told_at_once_the_worst_first() -> None:
    told = described(run_checks(MISFIT), everything=False)
    blocker, warning, untold, ok, summary = (
        told.index(word)
        for word in ("BLOCKER vcpus", "WARNING uuid", "CANNOT BE TOLD virtio", "ok: ", "'web' may")
    )
    assert blocker < warning < untold < ok < summary
    assert "read: query-cpus-fast: source 2, destination 4" in told
    assert "do: start the destination with -smp 2" in told
    assert "may not move to unix:/run/dest.sock: 1 blocker, 1 warning, 1 cannot be told," in told
    assert max(map(len, told.splitlines())) <= 110


def test_all_evidence_can_be_asked_for() -> None:
    assert "OK vcpus: vCPUs: 2" in described(run_checks(ALIKE), everything=True)


def test_one_reason_for_many_unknowns_is_said_once() -> None:
    facts = replace(ALIKE, destination=None, same_host=None, unseen="no eyes there")
    told = described(run_checks(facts), everything=False)
    assert told.count("no eyes there") == 1


def test_records_for_programs() -> None:
    preflight = run_checks(MISFIT)
    vcpus = next(one for one in preflight.findings if one.name == "vcpus")
    assert json.loads(json.dumps(vcpus.to_json())) == {
        "event": "check",
        "format": 1,
        "name": "vcpus",
        "verdict": "blocker",
        "what": "vCPUs: 2 at the source, 4 at the destination",
        "evidence": [{"where": "query-cpus-fast", "source": "2", "destination": "4"}],
        "why": vcpus.why,
        "remedy": "start the destination with -smp 2",
        "forceable": True,
    }
    summary = preflight.to_json()
    assert summary["may_move"] is False
    assert (summary["blockers"], summary["warnings"]) == (["vcpus"], ["uuid"])
    assert summary["cannot_be_told"] == ["virtio-features"]
    assert len(summary["ok"]) == len(preflight.of(Verdict.OK))


def test_a_blocker_refuses_the_move_and_can_be_forced() -> None:
    preflight = run_checks(replace(MISFIT, listens=False))
    with pytest.raises(RefusedError) as refused:
        refuse_blocked(preflight, ())
    assert "2 conditions forbid to move 'web'" in refused.value.message
    assert "\n  vcpus: vCPUs: 2 at the source, 4 at the destination" in refused.value.message
    assert refused.value.hint is not None
    assert "--force destination-listens --force vcpus" in refused.value.hint
    with pytest.raises(RefusedError, match="1 condition forbids"):
        refuse_blocked(preflight, ("vcpus",))
    refuse_blocked(preflight, ("vcpus", "destination-listens"))


def test_what_a_move_cannot_begin_without_is_not_forced() -> None:
    preflight = run_checks(replace(ALIKE, unsettled="r1"))
    with pytest.raises(RefusedError) as refused:
        refuse_blocked(preflight, ("earlier-move",))
    assert refused.value.hint is not None
    assert "--force" not in refused.value.hint


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("nosuch", "there is no check 'nosuch'"), ("runs", "a move cannot even begin")],
)
def test_only_real_checks_can_be_forced(name: str, complaint: str, capsys: Captured) -> None:
    assert main.run_command(["migrate", "web", "--to", "local", "--force", name]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["check", "web"],
        ["check", "web", "--to", "ssh://x"],
        ["check", "web", "--to", "local", "--to-qmp", "/nonexistent"],
        ["check", "web", "--to", "unix:/x", "--to-qmp", "/nonexistent"],
        ["check", "nosuch", "--to", "local"],
        ["check", "qmp:/nonexistent", "--to", "local"],
    ],
)
def test_wrong_use(arguments: list[str], capsys: Captured) -> None:
    assert main.run_command(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vmferry: ")


def test_the_page_lists_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs/check.md").read_text()
    listed = re.findall(r"^\| `([a-z-]+)`( †)? \| ([BW, ]+) \|", page, re.MULTILINE)
    assert [name for name, _, _ in listed] == [check.name for check in CHECKS]
    unforced = {name for name, mark, _ in listed if mark}
    assert unforced == {check.name for check in CHECKS if not check.forceable}
    told = {(name, verdict) for name, _, kinds in listed for verdict in kinds.split(", ")}
    letter = {Verdict.BLOCKER: "B", Verdict.WARNING: "W"}
    assert told == {(name, letter[verdict]) for name, verdict, _ in WRONG}
