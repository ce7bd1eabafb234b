"""The journal: what it has said to have written is there, whatever happens to it or beside it."""

from __future__ import annotations

import multiprocessing
import signal
import sqlite3
import stat
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from vmferry.errors import UsageError
from vmferry.handover import Step
from vmferry.host.paths import journal_file
from vmferry.journal import Journal, JournalError

LIMITS = {"max_downtime_ms": 300}
PARTIES = {"source": "a", "destination": "b"}


def begin(journal: Journal, vm: str = "web") -> str:
    return journal.begin(vm, "fixed", LIMITS, PARTIES)


def full_journal(path: Path) -> Journal:
    """One that has no room for another page: what SQLite says of it is what a full disk says."""
    connection = sqlite3.connect(path, isolation_level=None)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    return Journal(connection, path)


def fill(journal: Journal, run: str) -> None:
    """Write until it is full."""
    with pytest.raises(JournalError, match="full"):
        for _ in range(1000):
            journal.record(run, Step.INTENT, {"why": "x" * 500})


def python(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE)


def test_a_step_is_there_for_another_connection_at_once() -> None:
    with Journal.open() as journal, Journal.open() as other:
        run = begin(journal)
        for step in (Step.INTENT, Step.SOURCE_DEAD, Step.DONE):
            journal.record(run, step, {"at": step.value})
            seen = other.run(run).steps[-1]
            assert (seen.step, seen.detail) == (step, {"at": step.value})
        assert [row.step for row in other.run(run).steps] == [
            *(Step.BEGUN, Step.INTENT, Step.SOURCE_DEAD, Step.DONE)
        ]
        assert other.run(run).last_step is Step.DONE


def test_a_step_outlives_the_process_that_recorded_it() -> None:
    program = """
import os, signal
from vmferry.handover import Step
from vmferry.journal import Journal
journal = Journal.open()
run = journal.begin("web", "fixed", {}, {})
journal.record(run, Step.INTENT)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert python(program).wait() == -signal.SIGKILL
    with Journal.open() as journal:
        assert journal.run("last").last_step is Step.INTENT
        assert [run.vm for run in journal.unsettled()] == ["web"]


def test_commits_wait_for_the_disk() -> None:
    """In WAL mode anything less than FULL may lose the last commits when the power fails."""
    with Journal.open() as journal:
        begin(journal)
        # The setting belongs to a connection: there is no other way to see it.
        connection = journal._connection
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_what_a_run_was_given_comes_back() -> None:
    with Journal.open() as journal:
        run = begin(journal)
        journal.set_parties(run, {"source": "c"})
        journal.append(run, ['{"t": 0}', '{"t": 1}'])
        journal.append(run, ['{"t": 2}'])
    with Journal.open() as journal:
        found = journal.run(run)
        assert (found.vm, found.policy, found.limits) == ("web", "fixed", LIMITS)
        assert found.parties == {"source": "c"}
        assert list(journal.lines(run)) == ['{"t": 0}', '{"t": 1}', '{"t": 2}']
        assert found.outcome is None


def test_unsettled_are_the_runs_without_a_true_end() -> None:
    with Journal.open() as journal:
        runs = [begin(journal, vm) for vm in ("a", "b", "c", "b")]
        journal.finish(runs[0], {"status": "completed"})
        journal.finish(runs[1], {"status": "needs-recovery"})
        journal.finish(runs[3], {"status": "failed"})
        assert [run.id for run in journal.unsettled()] == [runs[1], runs[2]]
        journal.finish(runs[1], {"status": "failed"})
        assert [run.id for run in journal.unsettled()] == [runs[2]]
        assert [run.id for run in journal.runs("b")] == [runs[1], runs[3]]
        assert journal.run("last").id == runs[3]


@pytest.mark.parametrize("name", ["7", "0", "-1", "x", "", "1 OR 1=1", "٣", "9" * 30, "1.0"])
def test_an_unknown_run_is_a_usage_error_that_names_the_newest(name: str) -> None:
    with Journal.open() as journal:
        for _ in range(3):
            begin(journal)
        with pytest.raises(UsageError, match="no run") as caught:
            journal.run(name)
        assert caught.value.hint is not None and "1, 2, 3" in caught.value.hint


def test_without_any_run_last_is_none() -> None:
    with Journal.open() as journal, pytest.raises(UsageError, match="no run yet") as caught:
        journal.run("last")
    assert caught.value.hint is None


def test_when_the_disk_is_full_nothing_that_was_written_is_harmed() -> None:
    with Journal.open() as journal:
        run = begin(journal)
        journal.record(run, Step.INTENT)
    with full_journal(journal_file()) as journal:
        fill(journal, run)
        before = journal.run(run).steps
        long = "x" * 9000
        with pytest.raises(JournalError, match="full") as caught:
            journal.record(run, Step.SOURCE_DEAD, {"why": long})
        assert caught.value.hint == "free some disk space"
        with pytest.raises(JournalError, match="full"):
            journal.append(run, [long])
        with pytest.raises(JournalError, match="full"):
            journal.finish(run, {"status": long})
        with pytest.raises(JournalError, match="full"):
            journal.set_parties(run, {"source": long})
        assert journal.run(run).steps == before
        assert journal.run(run).outcome is None and list(journal.lines(run)) == []
    with Journal.open() as journal:
        assert journal.run(run).steps == before
        journal.record(run, Step.SOURCE_DEAD)
        assert journal.run(run).last_step is Step.SOURCE_DEAD


def test_a_run_without_room_for_its_first_step_has_not_begun() -> None:
    with Journal.open() as journal:
        run = begin(journal)
    with full_journal(journal_file()) as journal:
        fill(journal, run)
        with pytest.raises(JournalError):
            journal.begin("web", "x" * 9000, {}, {})
        assert [found.id for found in journal.runs()] == [run]


def test_on_a_file_that_may_not_grow_the_step_is_refused(tmp_path: Path) -> None:
    """The kernel refuses here, not SQLite."""
    program = """
import os, resource, signal, sys
from vmferry.handover import Step
from vmferry.journal import Journal, JournalError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal.open()
run = journal.begin("web", "fixed", {}, {})
size = journal.path.with_name(journal.path.name + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    journal.record(run, Step.INTENT)
except JournalError as error:
    print(error.message)
    os._exit(7)
"""
    child = python(program)
    output, _ = child.communicate()
    assert child.returncode == 7, output
    assert b"cannot write the journal" in output
    with Journal.open() as journal:
        assert journal.run("last").last_step is Step.BEGUN


WRITER = """
import sys
from vmferry.handover import Step
from vmferry.journal import Journal
print("ready", flush=True)
sys.stdin.read(1)
with Journal.open() as journal:
    run = journal.begin(sys.argv[1], "fixed", {}, {})
    for number in range(40):
        journal.record(run, Step.INTENT, {"n": number})
        journal.append(run, [str(number)])
    journal.finish(run, {"status": "completed"})
"""


def test_processes_that_write_at_once_lose_nothing() -> None:
    names = ["a", "b", "c", "d"]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in names
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    for child in children:  # all of them at once, on a journal that does not exist yet
        assert child.stdin is not None
        child.stdin.close()
    assert [child.wait() for child in children] == [0] * len(names)
    with Journal.open() as journal:
        assert sorted(run.vm for run in journal.runs()) == names
        for run in journal.runs():
            numbers = [row.detail["n"] for row in run.steps if row.step is Step.INTENT]
            assert numbers == list(range(40))
            assert list(journal.lines(run.id)) == [str(number) for number in range(40)]
            assert run.settled


def open_new_ones(folder: Path, together: Barrier) -> None:
    for number in range(80):
        together.wait()
        with Journal.open(folder / f"{number}.sqlite") as journal:
            begin(journal)


def test_a_new_journal_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    """SQLite refuses one of them now and then; ours waits."""
    context = multiprocessing.get_context("fork")
    together = context.Barrier(4, timeout=60)
    children = [context.Process(target=open_new_ones, args=(tmp_path, together)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    for number in range(80):
        with Journal.open(tmp_path / f"{number}.sqlite") as journal:
            assert [run.id for run in journal.runs()] == ["1", "2", "3", "4"]


def test_while_another_writes_for_long_the_error_says_so() -> None:
    with Journal.open() as journal:
        run = begin(journal)
        connection = sqlite3.connect(journal_file(), isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        journal._connection.execute("PRAGMA busy_timeout = 1")
        with pytest.raises(JournalError, match="locked") as caught:
            journal.record(run, Step.INTENT)
        assert caught.value.hint is None or "disk space" not in caught.value.hint
        connection.close()
        journal.record(run, Step.INTENT)


@pytest.mark.parametrize(
    "content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_what_is_no_journal_is_said_to_be_none(content: bytes) -> None:
    journal_file().write_bytes(content)
    with pytest.raises(JournalError, match="cannot open the journal") as caught:
        Journal.open()
    assert str(journal_file()) in caught.value.message
    assert journal_file().read_bytes() == content


def test_a_journal_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal.open(tmp_path / "gone" / "journal.sqlite")


def test_damage_in_the_middle_is_an_error_with_its_file() -> None:
    with Journal.open() as journal:
        for _ in range(30):
            run = begin(journal)
            journal.append(run, ["x" * 900] * 5)
    content = bytearray(journal_file().read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    journal_file().write_bytes(content)
    with Journal.open() as journal, pytest.raises(JournalError, match=r"journal\.sqlite"):
        journal.runs()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE steps SET step = 'sideways'",
        "UPDATE steps SET detail = '{'",
        "UPDATE runs SET parties = 'x'",
        "UPDATE runs SET limits = '['",
        "UPDATE runs SET outcome = ''",
    ],
)
def test_a_row_that_nobody_can_have_written_is_an_error(damage: str) -> None:
    with Journal.open() as journal:
        run = begin(journal)
        journal.finish(run, {"status": "completed"})
        connection = sqlite3.connect(journal_file(), isolation_level=None)
        connection.execute(damage)
        connection.close()
        with pytest.raises(JournalError, match=f"run {run}.*damaged"):
            journal.run(run)


def test_the_journal_of_a_later_version_is_not_touched() -> None:
    Journal.open().close()
    connection = sqlite3.connect(journal_file(), isolation_level=None)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = journal_file().read_bytes()
    with pytest.raises(JournalError, match="later vmferry"):
        Journal.open()
    assert journal_file().read_bytes() == before


def test_it_is_its_users_own() -> None:
    with Journal.open() as journal:
        begin(journal)
        for path in journal_file().parent.glob("journal.sqlite*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
