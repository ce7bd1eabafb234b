"""`vmferry audit` as a user calls it, without a VM: a host, wrong use, and no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vmferry.cli import main
from vmferry.fastpath import judges
from vmferry.fastpath.facts import Facts
from vmferry.fastpath.finding import Feature, Finding

Captured = pytest.CaptureFixture[str]


def test_a_host(capsys: Captured) -> None:
    status = main.run_command(["audit", "--host"])
    shown = capsys.readouterr().out
    assert status in (0, 7)
    assert shown.splitlines()[0].split() == ["FAST", "PATH", "OFFERED", "NEGOTIATED", "EFFECTIVE"]
    assert all(f"\n{feature.value} " in shown for feature in Feature)
    assert shown.splitlines()[-1].startswith("this host: ")


def test_a_host_for_programs(capsys: Captured) -> None:
    status = main.run_command(["audit", "--host", "--json", "--feature", "clock"])
    out, err = capsys.readouterr()
    *findings, last = [json.loads(line) for line in out.splitlines()]
    assert (last["event"], last["subject"]) == ("audit", "this host")
    assert list(last["verdicts"]) == ["clock"]
    assert {one["event"] for one in findings} <= {"finding"}
    assert {one["feature"] for one in findings} <= {"clock"}
    assert status == (7 if any(one["verdict"] == "misconfigured" for one in findings) else 0)
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "say what to audit"),
        (["vm", "--host"], "say what to audit"),
        (["--host", "--guest"], "say what to audit"),
        (["gone"], "no VM 'gone'"),
        (["qmp:/nowhere/x.sock"], "cannot be looked at"),
        (["qmp:/dev/null"], "cannot be looked at"),
        (["qmp:"], "needs the path of a socket"),
        (["libvirt:qemu:///system#x"], "libvirt"),
        (["--host", "--feature", "warp"], "'warp' is no fast path"),
        (["--host", "--window", "0"], "--window must be between"),
        (["--host", "--window", "5min"], "--window must be between"),
        (["--host", "--window", "soon"], "not a duration"),
        (["--host", "--deep"], "--deep is for a VM"),
        (["--host", "--guest-via", "cat"], "--host looks into no guest"),
        (["--guest", "--guest-via", ""], "needs a command"),
        (["--guest", "--guest-via", "'"], "is no command"),
        (["--guest", "--guest-via", "a", "--guest-report", "b"], "give one of"),
        (["--guest", "--guest-report", "/nonexistent"], "/nonexistent"),
        (["--guest", "--guest-via", "/nonexistent/program"], "does not start"),
        (["--guest", "--guest-via", "echo garbage"], "no report of guest_audit.py"),
        (["--guest", "--guest-agent", "/nonexistent"], "cannot be reached"),
    ],
)
def test_wrong_use(arguments: list[str], complaint: str, capsys: Captured) -> None:
    assert main.run_command(["audit", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert "Traceback" not in err


def test_a_report_that_is_no_report(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "report.json"
    path.write_text('{"format": 1}')
    assert main.run_command(["audit", "--guest", "--guest-report", str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_check_that_fails_is_kept_and_the_others_are_told(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(facts: Facts) -> list[Finding]:
        raise KeyError("x")

    monkeypatch.setattr(judges, "JUDGES", {**judges.JUDGES, Feature.CLOCK: broken})
    assert main.run_command(["audit", "--host"]) == 1
    out, err = capsys.readouterr()
    assert "its check failed: KeyError" in out
    assert "\nnet-queues " in out
    assert "a check failed, which is a bug in vmferry: the details are in " in err
    kept = Path(err.rstrip().rpartition(" ")[2])
    assert "Traceback" in kept.read_text()
    assert "Traceback" not in err
