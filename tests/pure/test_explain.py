"""The explanation of real recordings, whole, cut, broken off, and through the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.pure.simulated_trace import record, writer
from vmferry.cli.explain import explain as command
from vmferry.errors import UsageError
from vmferry.journal import Journal
from vmferry.move import account
from vmferry.move.cost import CostMeter
from vmferry.move.recorder import Recorder
from vmferry.precopy.case import Setting
from vmferry.precopy.explain import Explanation, explain
from vmferry.precopy.foresight import Foresight
from vmferry.precopy.outcome import Outcome
from vmferry.precopy.sample import Sample
from vmferry.precopy.trace import Trace, read_trace, to_line

DATA = Path(__file__).parents[1] / "data"
CONVERGES, AUTO = "pg-4t-converges-1.jsonl", "pg-16t-auto-converge-1.jsonl"
NEVER = "pg-16t-never-converges-1-first-38s.jsonl"
Captured = pytest.CaptureFixture[str]


def recording(name: str) -> Trace:
    return read_trace((DATA / name).read_text(encoding="utf-8").splitlines())


def told(found: Explanation) -> str:
    return " ".join(found.text)


def test_where_the_time_went_and_how_near_the_edge_was() -> None:
    found = explain(recording(CONVERGES))
    assert found.verdict == "converged"
    assert found.text[:4] == (
        "The migration completed in 17.7 s: 2.26 GiB sent in 7 passes, and the VM stood still for"
        " 13 ms.",
        "Pass 1 took 14.8 s (83 % of the time): all memory once, 1.86 GiB at about 129 MiB/s;"
        " 1,608,864 zero pages (77 % of it) took next to no time.",
        "Passes 2 to 7 took 2.9 s (17 %): 374 MiB, of which 374 MiB was memory sent again, as the"
        " guest had written to it meanwhile (16 % of all that was sent).",
        "The switchover took 13 ms (less than 1 %): 32.3 MiB went while the VM stood still, at"
        " 2.42 GiB/s or more, as no bandwidth cap holds there. That is within the limit of 300 ms.",
    )
    assert "It was not near the edge" in told(found)
    assert "max-bandwidth is 128 MiB/s unless changed" in told(found)
    assert found.remedies == ()


def test_a_throttle_that_made_it_converge() -> None:
    found = explain(recording(AUTO))
    assert found.verdict == "converged"
    assert "on, by 20 % at first and 40 % at the most" in told(found)
    assert "Without that it would not have converged" in told(found)
    assert "It was not near the edge" not in told(found)


def test_a_recording_that_was_cut_off() -> None:
    found = explain(recording(NEVER))
    assert found.verdict == "does-not-converge"
    assert found.opening == (
        "After 38.2 s the migration is in pass 4; 4.81 GiB had been sent so far.",
    )
    assert found.reasons[0].startswith("It will not converge as it goes: ")
    assert [cause.name for cause in found.causes] == ["bandwidth-cap", "working-set"]
    throttle = next(one for one in found.remedies if one.change == "throttle")
    # QEMU's auto-converge did it with 40 to 50 % for this load.
    assert 30 < float(throttle.after) < 80


def test_hovering_that_ended_with_the_load() -> None:
    busy = record(writer(32, 40), 15.0, cap=25)
    last = [item for item in busy.items if isinstance(item, Sample)][-1]
    end = replace(
        last,
        t=15.4,
        status="completed",
        total_time_ms=15400,
        sync_count=last.sync_count + 1,
        downtime_ms=30,
    )
    found = explain(Trace({}, (*busy.items, end)))
    assert found.verdict == "converged"
    assert "of the time it did not converge: from second " in told(found)
    assert "It ended only as the guest then wrote less" in told(found)
    assert {one.change for one in found.remedies} >= {"bandwidth", "downtime", "throttle"}


@pytest.mark.parametrize(
    ("status", "error", "opening"),
    [
        ("cancelled", None, "The migration was cancelled after "),
        ("failed", "Connection reset", "QEMU said: Connection reset."),
        ("failed", None, "The migration failed after "),
    ],
)
def test_a_migration_that_was_ended(status: str, error: str | None, opening: str) -> None:
    items = recording(NEVER).items
    end = Sample(items[-1].t + 0.2, status, error=error)
    found = explain(Trace({}, (*items, end)))
    assert opening in found.opening[0]
    assert found.reasons[0].startswith("It would not have converged: ")


@pytest.mark.parametrize("is_over", [True, False])
def test_post_copy_ended_what_would_not_have_converged(is_over: bool) -> None:
    items = recording(NEVER).items
    last = [item for item in items if isinstance(item, Sample)][-1]
    fetching = [
        replace(
            last,
            t=last.t + 0.2 * i,
            status="postcopy-active",
            sync_count=last.sync_count + 1,
            remaining=last.remaining // i,
            normal_pages=last.normal_pages + (last.remaining - last.remaining // i) // 4096,
        )
        for i in range(1, 8)
    ]
    end = replace(fetching[-1], t=last.t + 2, status="completed", total_time_ms=40000)
    found = explain(Trace({}, (*items, *fetching, *([end] if is_over else []))))
    assert "Post-copy ended the passes at about second 38.4" in told(found)
    assert "near the edge" not in told(found)
    wanted = "Without post-copy it would not" if is_over else "It would not have converged: "
    assert wanted in told(found)


@pytest.mark.parametrize("name", [CONVERGES, AUTO, NEVER])
@pytest.mark.parametrize("part", [0.01, 0.1, 0.3, 0.5, 0.62, 0.7, 0.8, 0.9, 0.97])
def test_any_beginning_of_a_recording_is_explained(name: str, part: float) -> None:
    trace = recording(name)
    found = explain(Trace({}, trace.items[: max(round(part * len(trace.items)), 1)]))
    assert found.text
    assert all(line.startswith("- ") or line[-1] in ".:" for line in found.text)
    assert "nan" not in told(found)
    if found.verdict == "unknown":
        assert "Pass 1 was not over" in told(found)
    json.dumps(found.to_json())


@pytest.mark.parametrize(
    "replies",
    [
        [{"status": "setup"}],
        [{}],
        [{"status": "active", "ram": {"total": 1 << 30}}],
        [{"status": "active", "ram": {"total": 1 << 30, "dirty-sync-count": 3, "mbps": 0}}] * 3,
        [{"status": "failed", "error-desc": "no route"}],
        [{"status": "completed", "ram": {"total": 1 << 30, "dirty-sync-count": 2}}],
        [{"status": "completed", "downtime": 0, "total-time": 1, "ram": {"total": 4096}}],
    ],
)
def test_recordings_with_next_to_nothing_in_them(replies: list[dict[str, Any]]) -> None:
    found = explain(
        Trace({}, tuple(Sample.from_reply(0.2 * i, one) for i, one in enumerate(replies)))
    )
    assert found.text


def test_a_recording_that_polls_on_after_the_end() -> None:
    trace = recording(CONVERGES)
    idle = Sample.from_reply(trace.items[-1].t + 3600, {"status": "completed"})
    assert explain(Trace({}, (*trace.items, idle))) == explain(trace)


def test_the_json_has_what_the_text_has(capsys: Captured) -> None:
    command(str(DATA / NEVER), json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == 1
    assert found["verdict"] == "does-not-converge"
    assert {"name", "share", "evidence"} == set(found["causes"][0])
    bandwidth = found["remedies"][0]
    assert bandwidth["change"] == "bandwidth"
    assert bandwidth["to"] > bandwidth["from"]
    assert bandwidth["forecast"]["verdict"] == "converges"
    assert found["text"] == list(explain(recording(NEVER)).text)
    command(str(DATA / NEVER))
    assert capsys.readouterr().out == "\n".join(found["text"]) + "\n"


def test_a_run_is_explained_like_its_trace_and_with_its_cost(capsys: Captured) -> None:
    load = record(writer(32, 40), 15.0, uncapped=25)
    with Journal.open() as journal:
        run = journal.begin("web", "fixed", {}, {})
        journal.append(run, [to_line(item) for item in load.items])
        cost = {"migration_cpu_seconds": 14.8}
        journal.finish(run, {**refused().to_json(), "status": "cancelled", "cost": cost})
    command("last", json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["causes"][0]["name"] == "sender-cpu"
    command(run, json=True)
    assert json.loads(capsys.readouterr().out) == found


def refused() -> Outcome:
    return Outcome(
        run="1",
        vm="web",
        status="failed",
        vm_runs_at="source",
        policy="fixed",
        total_ms=0.0,
        downtime_ms=None,
        bytes=0,
        resent_bytes=0,
        passes=(),
        guest=None,
        cost=None,
        why="the destination did not start",
    )


def test_a_run_that_never_began_to_send_says_why(capsys: Captured) -> None:
    with Journal.open() as journal:
        run = journal.begin("web", "fixed", {}, {})
        journal.finish(run, refused().to_json())
    command("last")
    assert "the destination did not start" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no-such-file", "there is neither a run nor a file 'no-such-file'"),
        ("4711", "no run '4711'"),
        (str(DATA), "cannot be read"),
        (str(DATA / "README.md"), "is not JSON"),
    ],
)
def test_what_cannot_be_explained_is_refused(what: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        command(what)


def test_thousands_of_passes_are_explained() -> None:
    found = explain(record(writer(32, 64), 900.0, cap=40))
    assert found.verdict == "does-not-converge"
    assert "passes, what was left went up and down between" in told(found)


def test_a_bug_in_the_explanation_does_the_move_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Explanation:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(account, "explain", broken)
    with Journal.open() as journal:
        run = journal.begin("web", "fixed", {}, {})
        cost = CostMeter(None)
        recorder = Recorder(journal, run, Foresight(Setting()), cost, lambda text: None)
        (why,) = account._explained(recorder, cost)
    assert "cannot be told, by a bug: ZeroDivisionError" in why
