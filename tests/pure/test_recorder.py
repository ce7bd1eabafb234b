"""The recorder: every line once and in order, and a journal without room does no harm."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest

from vmferry.controller import Controller
from vmferry.host.paths import journal_file
from vmferry.hypervisor.simulated import Guest, SimulatedMove
from vmferry.journal import Journal
from vmferry.move.cost import CostMeter
from vmferry.move.recorder import Recorder
from vmferry.policy.base import Abandon, ActionResult, Limits, SetBandwidth
from vmferry.policy.fixed import Fixed
from vmferry.precopy.case import Host, Link, Setting
from vmferry.precopy.foresight import Foresight, Known
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import Note, read_trace
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

GUEST = Guest(32 * MIB, 16 * MIB)
BUSY = Guest(64 * MIB, 16 * MIB, PageWriterSettings(working_set=16 * MIB, write_rate=12 * MIB))


class Heard:
    """What the recorder told the one who shows it."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def __call__(self, text: str) -> None:
        self.lines.append(json.loads(text))

    @property
    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines if "message" in line]


def recorder(
    journal: Journal, heard: Heard, foresight: Foresight | None = None
) -> tuple[Recorder, str]:
    run = journal.begin("web", "fixed", {}, {})
    return Recorder(journal, run, foresight or Foresight(Setting()), CostMeter(None), heard), run


async def test_what_is_recorded_is_the_run_that_was() -> None:
    move, heard = SimulatedMove(GUEST), Heard()
    with Journal.open() as journal:
        recording, run = recorder(journal, heard)
        limits = Limits(bandwidth=64 * MIB)
        ending = await Controller(move.migration, Fixed(limits), recording.hear).run()
        assert ending.kind == "ready"
        recording.flush()
        lines = [json.loads(line) for line in journal.lines(run)]
        assert lines == heard.lines
        inputs = read_trace(journal.lines(run), "the run").inputs
    samples = [item for item in inputs if isinstance(item, Sample)]
    assert samples[-1] == recording.last
    passes = [item for item in inputs if isinstance(item, Event) and item.name == "MIGRATION_PASS"]
    assert len(passes) == len(move.precopy.syncs)


def test_without_room_it_says_so_once_and_goes_on() -> None:
    heard = Heard()
    with Journal.open() as journal:
        run = journal.begin("web", "fixed", {}, {})
    connection = sqlite3.connect(journal_file(), isolation_level=None)
    connection.execute("PRAGMA max_page_count = 1")  # no less than there are now
    with Journal(connection, journal_file()) as journal:
        recording = Recorder(journal, run, Foresight(Setting()), CostMeter(None), heard)
        for number in range(200):
            raw = {"status": "active", "ram": {"total": 4096, "dirty-sync-count": 1}}
            recording.hear(Sample.from_reply(number / 10, raw))
            recording.line({"t": number / 10, "why": "x" * 500})
            recording.flush()
    assert len(heard.messages) == 1
    assert "no longer recorded" in heard.messages[0] and "full" in heard.messages[0]
    told = [line["t"] for line in heard.lines if "why" in line]
    assert told == [number / 10 for number in range(200)]
    assert recording.last is not None and recording.last.t == 19.9
    with Journal.open() as journal:
        kept = [json.loads(line) for line in journal.lines(run)]
        assert kept == [line for line in heard.lines if "message" not in line][: len(kept)]
        assert 0 < len(kept) < 400


def test_each_line_reaches_the_journal_once() -> None:
    heard = Heard()
    with Journal.open() as journal:
        recording, run = recorder(journal, heard)
        for number in range(10):
            recording.line({"t": number})
            if number % 3 == 0:
                recording.flush()
        recording.flush()
        recording.flush()
        assert [json.loads(line)["t"] for line in journal.lines(run)] == list(range(10))


def test_actions_are_told_with_what_became_of_them() -> None:
    heard = Heard()
    with Journal.open() as journal:
        recording, _ = recorder(journal, heard)
        recording.hear(ActionResult(0.1234567, SetBandwidth(5)))
        recording.hear(ActionResult(1.0, Abandon("late"), "does not answer"))
    assert heard.lines == [
        {"t": 0.123457, "action": {"kind": "bandwidth", "bytes_per_second": 5}, "result": "ok"},
        {"t": 1.0, "action": {"kind": "abandon", "why": "late"}, "result": "does not answer"},
    ]


def test_a_cancelled_migrations_empty_reply_does_not_wipe_its_figures() -> None:
    with Journal.open() as journal:
        recording, _ = recorder(journal, Heard())
        figures = {"status": "active", "ram": {"total": 4096, "transferred": 77}}
        recording.hear(Sample.from_reply(1.0, figures))
        recording.hear(Sample.from_reply(2.0, {"status": "cancelled"}))
        assert recording.last is not None and recording.last.transferred == 77


def test_it_ends_when_the_vm_runs_at_the_destination() -> None:
    with Journal.open() as journal:
        recording, _ = recorder(journal, Heard())
        assert recording.ended_at() == 0.0
        recording.hear(Event(3.0, "MIGRATION", {"status": "completed"}))
        recording.hear(Event(3.1, "RESUME", {}, "destination"))
        recording.hear(Event(3.2, "RESUME", {}))
        recording.hear(Event(3.3, "MIGRATION", {"status": "completed"}, "destination"))
        assert recording.ended_at() == 3.1


def known() -> Known:
    """What a rehearsal of BUSY may have found."""
    point = CurvePoint(1.0, 10 * MIB, 9 * MIB, 11 * MIB)
    profile = DirtyProfile((point,), BUSY.ram_bytes, 0, 32 * MIB, source="rehearsal")
    speed = Quantiles.exact(200 * MIB)
    return Known(Link(speed, speed), Host(), profile, "the rehearsal of yesterday")


async def test_what_was_foretold_is_recorded_and_told() -> None:
    move, heard = SimulatedMove(BUSY), Heard()
    setting = Setting(bandwidth=20 * MIB)
    with Journal.open() as journal:
        recording, run = recorder(journal, heard, Foresight(setting, known()))
        recording.line({"vmferry": {"format": 1}})
        recording.foretell()
        policy = Fixed(Limits(bandwidth=20 * MIB))
        await Controller(move.migration, policy, recording.hear).run()
        recording.judge()
        recording.flush()
        trace = read_trace(journal.lines(run), "the run")
    told = [item for item in trace.items if isinstance(item, Note) and item.kind == "forecast"]
    assert told[0].t == 0 and told[0].value["given"]["standing"] is None
    assert len(told) >= 2
    for note in told[1:]:
        assert note.t == pytest.approx(note.value["given"]["standing"]["t"])
        assert note.value["verdict"] == "converges"
    (message,) = heard.messages
    assert message.startswith("Foretold: it converges (odds of ")
    assert "the rehearsal of yesterday" in message
    assert recording.verdict == "converges"


def test_a_forecast_that_fails_does_not_fail_the_move(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()

    def broken(self: Foresight) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(Foresight, "due", broken)
    with Journal.open() as journal:
        recording, _ = recorder(journal, heard)
        for number in range(3):
            recording.hear(Sample.from_reply(number / 10, {"status": "active"}))
    assert heard.messages == [
        "there are no more forecasts, by a bug: ZeroDivisionError: division by zero"
    ]
    assert len(heard.lines) == 4
