"""`vmferry explain` for runs that are not over, and for files that are no traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmferry.cli import main
from vmferry.journal import Journal
from vmferry.precopy.case_of import cut
from vmferry.precopy.trace import header_line, read_trace, to_line

Captured = pytest.CaptureFixture[str]
CONVERGES = Path(__file__).parents[1] / "data" / "pg-4t-converges-1.jsonl"


def begin(policy: str, after_pass: int | None) -> str:
    """A run that has come so far and has no outcome; None is no further than its header."""
    lines = [header_line({"policy": policy})]
    if after_pass is not None:
        trace = cut(read_trace(CONVERGES.read_text().splitlines()), after_pass)
        lines += [to_line(item) for item in trace.items]
    with Journal.open() as journal:
        run = journal.begin("web", policy, {}, {})
        journal.append(run, lines)
    return run


@pytest.mark.parametrize(
    ("policy", "after_pass", "said"),
    [
        ("fixed", None, "The migration has not begun to send yet."),
        ("fixed", 2, "the migration is in pass 3; "),
        ("fixed", 2, "It will converge in about another "),
        ("rehearse", 2, "the rehearsal was in pass 3; "),
        ("rehearse", 2, "The move would converge, in about "),
    ],
)
def test_a_run_that_is_not_over(
    policy: str, after_pass: int | None, said: str, capsys: Captured
) -> None:
    begin(policy, after_pass)
    assert main.run_command(["explain", "last"]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "nosuch", "n" * 5000, "folder", "empty", "text", "gzip"])
def test_what_is_no_trace_is_no_bug(name: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "gzip").write_bytes(b"\x1f\x8b\x08\x00\xff")
    assert main.run_command(["explain", str(tmp_path / name) if name else ""]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("vmferry: ") and not captured.out


def test_a_trace_that_is_cut_in_a_line_names_the_line(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(CONVERGES.read_text()[:3000])
    for command in (["explain", str(path)], ["forecast", "--trace", str(path)]):
        assert main.run_command(command) == 2
        assert f"{path}, line 7: this is not JSON" in capsys.readouterr().err
