"""What a rehearsal tells at its end: who has the last word on the verdict, and the words."""

from __future__ import annotations

import time
from typing import Any

import pytest

from vmferry.cli.main import run_command
from vmferry.cli.rehearse_watch import by_hour
from vmferry.controller import Ending
from vmferry.policy.base import Abandon, Limits
from vmferry.policy.rehearse import Answer, Rehearse
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.sample import Event
from vmferry.rehearsal.findings import verdict_of
from vmferry.rehearsal.stream_end import How, StreamEnd
from vmferry.report.rehearsal_words import describe_rehearsal
from vmferry.units import MIB


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
    # Cancelled at once, so the sink saw no more than an end.
    verdict = verdict_of(
        policy, Ending("abandoned", why=abandon.why), StreamEnd("closed"), paused=paused
    )
    assert (verdict.answer, verdict.switchover) == (expected, not paused)


def test_the_words() -> None:
    forecast = {
        "given": {"bandwidth": 64 * MIB, "downtime_limit_ms": 300},
        "verdict": "converges",
        "p_converge": 0.97,
        "total_ms": {"p10": 4000.0, "p50": 5000.0, "p90": 6000.0},
        "downtime_ms": {"p10": 50.0, "p50": 50.0, "p90": 50.0},
        "bytes": {"p10": 1.0, "p50": 300.0 * MIB, "p90": 3.0},
    }
    never = {**forecast, "verdict": "does-not-converge", "p_converge": 0.0, "total_ms": None}
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
        "The guest was slowed by 12% meanwhile; the forecasts are of it as it is else.",
        "Forecast:",
        "  at 64.0 MiB/s, 300 ms: converges (97%), in 5.0 s (4.0 s to 6.0 s), standing still for"
        " 50 ms, 300 MiB sent",
        "  without a cap, 150 ms: does not converge (0%)",
        "Note: the cost of TLS was not measured: a rehearsal sends in the clear.",
        "Note: a warning.",
    ]


def test_nothing_found_is_nothing_told() -> None:
    found: dict[str, Any] = {
        "profile": None,
        "slowdown": 0.0,
        "forecast": None,
        "others": [],
        "not_measured": [],
        "warnings": [],
    }
    assert describe_rehearsal(found) == []


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
