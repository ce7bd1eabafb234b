"""What a recorded run told is derived once: later it comes from its row, not from its recording."""

from __future__ import annotations

import json
import sqlite3
import time

import pytest

from tests.pure.simulated_trace import record, writer
from vmferry.host.paths import journal_file
from vmferry.journal import Journal
from vmferry.move import derived
from vmferry.move.derived import derived_of
from vmferry.move.known import known_of
from vmferry.move.parties import Parties, Party
from vmferry.precopy.case import Setting
from vmferry.precopy.case_of import case_of
from vmferry.precopy.foresight import Known
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.speeds import look_at
from vmferry.precopy.trace import Trace, header_line, read_trace, to_line
from vmferry.units import GIB, MIB
from vmferry.vm.address import Local

PARTIES = Parties("web", "unix:/x", Party(), Party(instance="/nowhere")).to_json()
MOVE = record(writer(32, 30), 20.0, cap=40, uncapped=200)
OTHER = record(writer(16, 60), 20.0, uncapped=90)


@pytest.fixture(autouse=True)
def one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubts grow with age: what is read twice is to be compared."""
    monkeypatch.setattr(time, "time", lambda: 1.8e9)


def keep(journal: Journal, trace: Trace = MOVE, *more: str, policy: str = "fixed") -> str:
    run = journal.begin("web", policy, {}, PARTIES)
    journal.append(run, [header_line({}), *(to_line(item) for item in trace.items), *more])
    journal.finish(run, {"status": "completed"})
    return run


def known(journal: Journal) -> Known:
    return known_of(journal, "web", Local(), Setting())


def change(statement: str) -> None:
    connection = sqlite3.connect(journal_file(), isolation_level=None)
    connection.execute(statement)
    connection.close()


def kept() -> list[tuple[int, str]]:
    connection = sqlite3.connect(journal_file())
    rows = connection.execute("SELECT run, version FROM derived ORDER BY run").fetchall()
    connection.close()
    return rows


def test_a_recording_is_read_once_in_its_life() -> None:
    with Journal.open() as journal:
        keep(journal)
        keep(journal, OTHER)
        first = known(journal)
        assert first.profile is not None and first.link is not None
    # Nothing else can tell it now.
    change("DELETE FROM lines")
    with Journal.open() as journal:
        assert known(journal) == first


@pytest.mark.parametrize("trace", [MOVE, OTHER])
def test_a_row_tells_what_the_recording_tells(trace: Trace) -> None:
    with Journal.open() as journal:
        run = journal.run(keep(journal, trace))
        derived_of(journal, run)
        change("DELETE FROM lines")
        found = derived_of(journal, run)
    trace = read_trace(to_line(item) for item in trace.items)
    profile, seen = case_of(trace, "run").profile, look_at(trace.items)
    assert found.profile is not None
    assert found.profile.source == "run"
    assert [(p.seconds, p.bytes, p.low, p.high, p.n) for p in found.profile.points] == [
        (p.seconds, p.bytes, p.low, p.high, p.n) for p in profile.points
    ]
    assert {point.at for point in found.profile.points} == {run.started_at}
    assert found.profile.ram_bytes == profile.ram_bytes
    assert found.seen.switchovers == seen.switchovers
    assert seen.link is not None and found.seen.link is not None
    assert found.seen.link.speed.p50 == pytest.approx(seen.link.speed.p50)
    assert found.seen.reached == pytest.approx(seen.reached)


def test_a_rehearsals_own_profile_goes_before_that_of_its_passes() -> None:
    profile = DirtyProfile((CurvePoint(1.0, 9e6, 8e6, 1e7),), GIB, 0, GIB, source="rehearsal")
    line = json.dumps({"t": 9.0, "profile": profile.to_json()})
    with Journal.open() as journal:
        run = journal.run(keep(journal, MOVE, line, policy="rehearse"))
        for _ in range(2):
            assert derived_of(journal, run).profile == profile


def test_a_run_that_has_not_ended_is_read_each_time() -> None:
    lines = [to_line(item) for item in MOVE.items]
    with Journal.open() as journal:
        run = journal.begin("web", "fixed", {}, PARTIES)
        journal.append(run, lines[:3])
        first = derived_of(journal, journal.run(run)).seen
        journal.append(run, lines[3:])
        assert len(derived_of(journal, journal.run(run)).seen.capped) > len(first.capped)
        journal.finish(run, {"status": "needs-recovery"})
        derived_of(journal, journal.run(run))
        assert journal.derived(run, derived.VERSION) is None


def test_another_version_derives_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal.open() as journal:
        run = keep(journal)
        first = known(journal)
        monkeypatch.setattr(derived, "VERSION", "later")
        change("UPDATE derived SET value = '{}'")
        assert known(journal) == first
        assert kept() == [(int(run), "later")]


def test_while_another_writes_nothing_is_kept_and_nothing_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Who waited for the other would wait until the test is given up.
    monkeypatch.setattr("vmferry.journal.journal._PATIENCE_SECONDS", 10_000)
    with Journal.open() as journal:
        for _ in range(3):
            keep(journal)
        other = sqlite3.connect(journal_file(), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first = known(journal)
        other.execute("ROLLBACK")
        other.close()
        assert first.profile is not None and first.link is not None
        assert journal.derived("1", derived.VERSION) is None
        assert known(journal) == first
        assert len(kept()) == 3
        # A step waits for the other as before.
        assert journal._connection.execute("PRAGMA busy_timeout").fetchone() == (10_000_000,)


def test_a_full_disk_does_not_hurt() -> None:
    with Journal.open() as journal:
        keep(journal)
        pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
        journal._connection.execute(f"PRAGMA max_page_count = {pages}")
        first = known(journal)
        assert first.profile is not None
        assert journal.derived("1", derived.VERSION) is None
        assert known(journal) == first


def test_an_earlier_vmferry_reads_the_journal() -> None:
    """It refuses what has a later number, and does not look at tables that it does not know."""
    with Journal.open() as journal:
        keep(journal)
        known(journal)
        assert journal._connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert kept()


def test_a_speed_in_a_row_is_a_whole_number() -> None:
    with Journal.open() as journal:
        run = journal.run(keep(journal))
        seen = derived_of(journal, run).seen
    assert seen.capped and all(isinstance(one, int) for one in seen.capped)
    assert max(seen.capped) < 60 * MIB
