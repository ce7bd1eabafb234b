"""What a rehearsal tells at its end: who has the last word on the verdict, and the words."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vmferry.cli.main import run_command
from vmferry.cli.rehearse_watch import by_hour
from vmferry.controller import Ending
from vmferry.policy.base import Abandon, Limits
from vmferry.policy.rehearse import Answer, Rehearse
from vmferry.precopy.case import Link, Setting
from vmferry.precopy.case_of import cut
from vmferry.precopy.explain import explain
from vmferry.precopy.forecast import forecast
from vmferry.precopy.forecast_words import odds
from vmferry.precopy.outcome import Outcome, Status
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import Trace, read_trace
from vmferry.precopy.verdict import describe
from vmferry.rehearsal.findings import foretold, stopped_by_others, verdict_of
from vmferry.rehearsal.stream_end import How, StreamEnd
from vmferry.report.rehearsal_words import describe_rehearsal, forecast_rows
from vmferry.units import MIB

DATA = Path(__file__).parents[1] / "data"


def profile(at: float = 0.0) -> DirtyProfile:
    point = CurvePoint(0.5, 10.0 * MIB, 8.0 * MIB, 12.0 * MIB, at=at)
    return DirtyProfile((point,), 256 * MIB, 1024, 252 * MIB, source="rehearsal")


@pytest.mark.parametrize(
    ("ending", "how", "answer", "expected", "status"),
    [
        (Ending("abandoned", why="w"), "closed", "converges", "converges", "cancelled"),
        (Ending("abandoned", why="w"), "told", "uncertain", "uncertain", "cancelled"),
        # The policy saw a stopped VM; the sink knows why it was stopped.
        (Ending("abandoned", why="w"), "switchover", "uncertain", "converges", "cancelled"),
        (Ending("ended", "failed"), "switchover", "uncertain", "converges", "cancelled"),
        (
            Ending("cancelled", why="w"),
            "closed",
            "does-not-converge",
            "does-not-converge",
            "cancelled",
        ),
        (Ending("ended", "cancelled"), "closed", "uncertain", "uncertain", "cancelled"),
        (Ending("ended", "failed"), "unreadable", "uncertain", "uncertain", "lost"),
        (Ending("ended", "failed"), None, "uncertain", "uncertain", "lost"),
        (Ending("lost", why="gone"), "closed", "uncertain", "uncertain", "lost"),
    ],
)
def test_the_verdict(
    ending: Ending, how: How | None, answer: Answer, expected: Answer, status: str
) -> None:
    policy = Rehearse(Limits(), 60.0)
    policy.answer = answer
    verdict = verdict_of(policy, ending, StreamEnd(how) if how is not None else None)
    assert (verdict.answer, verdict.ending.kind) == (expected, status)
    assert verdict.ending.why.startswith("a rehearsal")


@pytest.mark.parametrize(("paused", "expected"), [(False, "converges"), (True, "uncertain")])
def test_a_vm_that_stopped_and_was_not_paused_was_stopped_to_switch_over(
    paused: bool, expected: Answer
) -> None:
    policy = Rehearse(Limits(), 60.0)
    (abandon,) = policy.receive(Event(1.0, "STOP")).actions
    assert isinstance(abandon, Abandon)
    # Cancelled at once, so the sink may have seen no more than an end.
    hows: tuple[How, ...] = ("closed", "switchover")
    for how in hows:
        verdict = verdict_of(
            policy, Ending("abandoned", why=abandon.why), StreamEnd(how), paused=paused
        )
        assert (verdict.answer, verdict.switchover) == (expected, not paused)


@pytest.mark.parametrize(
    ("runstate", "never_stops", "expected"),
    [
        ("finish-migrate", False, False),
        ("postmigrate", False, False),
        # QEMU had it run again by itself; one that never stops it did not stop it.
        ("running", False, False),
        ("running", True, True),
        ("paused", False, True),
        ("io-error", False, True),
        ("guest-panicked", False, True),
        ("", False, True),
    ],
)
def test_a_disk_error_is_no_switchover(runstate: str, never_stops: bool, expected: bool) -> None:
    assert stopped_by_others(runstate, never_stops) == expected


def test_where_the_passes_do_not_decide_the_forecast_does() -> None:
    policy = Rehearse(Limits(), 60.0)
    link = Link(Quantiles.exact(64.0 * MIB), Quantiles.exact(64.0 * MIB))
    easy, hard = (forecast(profile(), Setting(64 * MIB, limit), link) for limit in (2000, 1))
    verdict = verdict_of(policy, Ending("abandoned", why="near"), StreamEnd("closed"))
    assert verdict.answer == "uncertain"
    for told in (easy, hard):
        decided = foretold(verdict, [told])
        assert decided.answer == told.verdict != "uncertain"
        assert decided.why == f"near, and so the odds are {odds(told.p_converge)}"
    # What QEMU did goes before it, and what failed has no verdict.
    switched = verdict_of(policy, Ending("abandoned", why="near"), StreamEnd("switchover"))
    assert foretold(switched, [hard]).answer == "converges"
    lost = verdict_of(policy, Ending("lost", why="gone"), StreamEnd("closed"))
    assert foretold(lost, [easy]) == lost
    assert foretold(verdict, []) == verdict


def test_the_words() -> None:
    forecast = {
        "given": {"bandwidth": 64 * MIB, "downtime_limit_ms": 300},
        "verdict": "converges",
        "p_converge": 0.97,
        "total_ms": {"p10": 4000.0, "p50": 5000.0, "p90": 6000.0},
        "downtime_ms": {"p10": 50.0, "p50": 50.0, "p90": 50.0},
        "bytes": {"p10": 280.0 * MIB, "p50": 300.0 * MIB, "p90": 310.0 * MIB},
    }
    never = {**forecast, "verdict": "does-not-converge", "p_converge": 0.0, "total_ms": None}
    never |= {"downtime_ms": None, "bytes": None}
    never["given"] = {"bandwidth": 0, "downtime_limit_ms": 150}
    found = {
        "profile": profile().to_json(),
        "slowdown": 0.12,
        "forecast": forecast,
        "others": [never],
        "not_measured": ["tls"],
        "warnings": ["a warning"],
    }
    assert describe_rehearsal(found) == [
        "Memory: 256 MiB, of which 4.00 MiB are zero.",
        "The guest dirties 10.0 MiB in 500 ms.",
        "Note: the cost of TLS was not measured: a rehearsal sends in the clear.",
        "Note: a warning.",
        "The rehearsal slowed the guest by 12 %, as a move does, and the forecasts have it so;"
        " undisturbed it dirties as much in 12 % less time.",
        "Forecast of the move as planned, and of others:",
    ]
    assert forecast_rows(found) == [
        ("BANDWIDTH", "LIMIT", "CONVERGES", "TOTAL", "DOWNTIME", "SENT"),
        ("64.0 MiB/s", "300 ms", "yes, 97 %", "4.0 to 6.0 s", "50 ms", "280 to 310 MiB"),
        ("no cap", "150 ms", "no, < 1 %", "-", "-", "-"),
    ]
    # Less than half a per cent is no slowdown that anybody wants to read of.
    quiet = describe_rehearsal({**found, "slowdown": 0.004})
    assert not any("slowed" in line for line in quiet)


def outcome(status: Status, why: str) -> Outcome:
    return Outcome(
        "1", "web", status, "source", "rehearse", 8900.0, None, 0, 0, (), None, None, why
    )


def test_the_story_of_a_rehearsal_begins_with_its_answer() -> None:
    why = "a rehearsal: the move would converge; pass 3 began below the threshold"
    assert describe(outcome("cancelled", why)) == [
        "web was rehearsed for 8.9 s and did not move. The VM runs at the source.",
        "Answer: the move would converge; pass 3 began below the threshold.",
    ]
    assert describe(outcome("failed", "a rehearsal that failed: the sink died")) == [
        "web was rehearsed in vain after 8.9 s. The VM runs at the source.",
        "Why: a rehearsal that failed: the sink died.",
    ]


@pytest.mark.parametrize(
    ("recording", "said"),
    [
        ("pg-4t-converges-1.jsonl", "The move would converge, in about "),
        ("pg-16t-never-converges-1-first-38s.jsonl", "The move would not converge: "),
    ],
)
def test_a_rehearsal_is_explained_as_one_of_a_move(recording: str, said: str) -> None:
    trace = cut(read_trace((DATA / recording).read_text().splitlines()), 3)
    found = explain(Trace({"policy": "rehearse"}, trace.items))
    assert found.reasons[0].startswith(said)
    assert "another" not in found.reasons[0]
    assert not explain(trace).reasons[0].startswith("The move")


def test_a_migration_that_is_about_to_end_takes_no_other_0_ms() -> None:
    trace = read_trace((DATA / "pg-4t-converges-1.jsonl").read_text().splitlines())
    active = [one for one in trace.inputs if isinstance(one, Sample) and one.status == "active"]
    active[-1] = replace(active[-1], total_time_ms=active[-1].total_time_ms + 200)
    (told, *_) = explain(Trace({}, tuple(active))).reasons
    assert told == "It will converge at once."


def test_nothing_found_is_nothing_told() -> None:
    found: dict[str, Any] = {
        "profile": None,
        "slowdown": 0.0,
        "forecast": None,
        "others": [],
        "not_measured": [],
        "warnings": [],
    }
    assert describe_rehearsal(found) == [] and forecast_rows(found) == []


def test_curves_by_the_hour_of_the_day() -> None:
    noon = time.mktime((2026, 5, 4, 12, 30, 0, 0, 0, -1))
    hours = by_hour([profile(noon + 3600), profile(noon), profile(noon + 60)])
    assert {hour: len(found) for hour, found in hours.items()} == {12: 2, 13: 1}
    assert list(hours) == [12, 13]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--for", "0s"], "--for must be more than nothing"),
        (["--downtime", "0s"], "--downtime must be between"),
        (["--bandwidth", "1KiB/s"], "--bandwidth must be between"),
        (["--watch", "1h"], "--watch needs a --bandwidth"),
        (["--watch", "1h", "--every", "30s"], "--every must be at least as long as --for"),
    ],
)
def test_wrong_options(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["rehearse", "nobody", *options]) == 2
    assert said in capsys.readouterr().err
