"""The commands that read the journal: runs, show and report, over runs that were written to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vmferry.cli.report import report
from vmferry.cli.runs import runs
from vmferry.cli.show import show
from vmferry.errors import UsageError
from vmferry.handover import Step
from vmferry.host.paths import vms_dir
from vmferry.journal import Journal
from vmferry.precopy.outcome import Outcome

Captured = pytest.CaptureFixture[str]
LIMITS = {"max_downtime_ms": 300, "downtime_limit_ms": 300, "bandwidth": 0, "deadline": None}
PAGE = 4096


def sample(t: float, *, left: int, sent: int, sync: int) -> str:
    """A query-migrate line; `left` and `sent` in pages."""
    ram = {
        "total": 1 << 30,
        "transferred": sent * (PAGE + 8),
        "remaining": left * PAGE,
        "normal": sent,
        "duplicate": 0,
        "page-size": PAGE,
        "dirty-sync-count": sync,
        "dirty-pages-rate": 8000,
        "mbps": 335.0,
    }
    return json.dumps({"t": t, "query-migrate": {"status": "active", "ram": ram}})


# 40 MiB/s against a guest that rewrites 20,000 pages in each pass of 2 s.
LINES = [
    json.dumps({"vmferry": {"format": 1, "run": "1", "vm": "web", "limits": LIMITS}}),
    *(
        sample(
            2.0 * sync + part,
            left=23000 - int(10000 * part),
            sent=23000 * (sync - 1) + int(10000 * part),
            sync=sync,
        )
        for sync in range(1, 12)
        for part in (0.2, 1.0, 1.8)
    ),
]


def outcome(run: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "run": run,
        "vm": "web",
        "status": "completed",
        "vm_runs_at": "destination",
        "policy": "fixed",
        "total_ms": 17700.0,
        "downtime_ms": 13,
        "bytes": 2 << 30,
        "resent_bytes": 1 << 30,
        "passes": (),
        "guest": None,
        "cost": None,
        "why": "",
    }
    return Outcome(**(values | changes)).to_json()


@pytest.fixture(autouse=True)
def three_runs() -> None:
    """One completed, one abandoned, one of another VM that never ended."""
    with Journal.open() as journal:
        first = journal.begin("web", "fixed", LIMITS, {})
        journal.record(first, Step.DONE)
        journal.finish(first, outcome(first))
        second = journal.begin("web", "fixed", LIMITS, {})
        journal.append(second, LINES)
        abandoned = outcome(
            second,
            status="abandoned",
            vm_runs_at="source",
            downtime_ms=None,
            why="the deadline of 24.0 s passed\nno bandwidth below 90 MiB/s would do",
        )
        journal.finish(second, abandoned)
        journal.append(journal.begin("db", "fixed", LIMITS, {}), LINES[:-3])


def test_runs_lists_them_oldest_first(capsys: Captured) -> None:
    runs()
    heading, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heading[0] == "RUN"
    assert [(row[0], row[3]) for row in rows] == [("1", "web"), ("2", "web"), ("3", "db")]
    assert rows[0][4:] == ["fixed", "completed", "17.7", "s", "13", "ms", "0", "2.00", "GiB"]
    assert rows[2][4:] == ["fixed", "no", "outcome", "-", "-", "-", "-"]


def test_runs_of_one_vm(capsys: Captured) -> None:
    runs("db", json=True)
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["run"], r["vm"], r["outcome"]) for r in records] == [("3", "db", None)]


def test_runs_of_a_vm_that_never_moved_is_no_error(capsys: Captured) -> None:
    (vms_dir() / "other").mkdir()
    runs("other")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no run of 'other' yet" in captured.err


@pytest.mark.parametrize("vm", ["a/b", "nosuch", "qmp:/nonexistent"])
def test_runs_refuses_what_is_no_vm(vm: str) -> None:
    with pytest.raises(UsageError):
        runs(vm)


def test_show_tells_a_completed_run(capsys: Captured) -> None:
    show("1")
    told = capsys.readouterr().out
    assert "web moved in 17.7 s. The VM runs at the destination." in told
    assert "downtime of 13 ms" in told
    assert "converge" not in told


def test_show_says_why_a_run_did_not_converge(capsys: Captured) -> None:
    show("2")
    told = capsys.readouterr().out
    assert "the deadline of 24.0 s passed" in told
    assert "no bandwidth below 90 MiB/s would do" in told


def test_show_last_has_no_outcome(capsys: Captured) -> None:
    show("last")
    told = capsys.readouterr().out
    assert "no outcome is recorded" in told
    assert "It will not converge as it goes" in told
    assert "`vmferry recover`" in told


def test_show_as_json_and_as_trace(capsys: Captured) -> None:
    show("2", json=True)
    assert json.loads(capsys.readouterr().out)["outcome"]["status"] == "abandoned"
    show("2", trace=True)
    assert capsys.readouterr().out.splitlines() == LINES


@pytest.mark.parametrize("run", ["9", "", "x", "-1", "1;", "\x1b"])
def test_a_run_that_does_not_exist(run: str) -> None:
    with pytest.raises(UsageError) as raised:
        show(run)
    assert raised.value.hint is not None and "1, 2, 3" in raised.value.hint
    with pytest.raises(UsageError):
        report(run)


def test_report_writes_the_page_and_says_where(capsys: Captured, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    report("2", path)
    assert capsys.readouterr().out == f"{path}\n"
    page = path.read_text("utf-8")
    assert "The deadline of 24.0 s passed" in page
    # The outcome and the recording both explain it; the reader is told once.
    assert page.count("It will not converge as it goes") == 1
    assert "no bandwidth below 90 MiB/s would do" not in page


def test_report_of_an_unfinished_run_says_whether_it_converges(tmp_path: Path) -> None:
    report("3", tmp_path / "page.html")
    assert "It will not converge as it goes" in (tmp_path / "page.html").read_text("utf-8")


def test_report_into_the_current_folder(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report("last", json=True)
    record = json.loads(capsys.readouterr().out)
    assert Path(record["file"]) == tmp_path / "vmferry-run-3.html"
    assert (tmp_path / "vmferry-run-3.html").is_file()


def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        report("1", tmp_path / "no" / "page.html")
