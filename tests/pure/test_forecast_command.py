"""`vmferry forecast` and `vmferry plan`: what they print, their exit status, and wrong use."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vmferry.cli import main
from vmferry.journal import Journal
from vmferry.journal.curves import KeptCurve, curves_file, keep_curve, newest_curve
from vmferry.move.measured import case_of_vm
from vmferry.precopy.case import Setting
from vmferry.precopy.phases import Phases
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.trace import read_trace, to_line
from vmferry.units import GIB, MIB
from vmferry.vm.address import Local

Captured = pytest.CaptureFixture[str]
DATA = Path(__file__).parents[1] / "data"
CONVERGES = str(DATA / "pg-4t-converges-1.jsonl")
NEVER = str(DATA / "pg-16t-never-converges-1-first-38s.jsonl")
LIMITS = {"max_downtime_ms": 300, "downtime_limit_ms": 300, "bandwidth": 0, "deadline": None}


def profile(rate: float, **more: Any) -> DirtyProfile:
    """A guest of 1 GiB that dirties `rate` new MiB a second."""
    points = tuple(
        CurvePoint(t, rate * t * MIB, rate * t * MIB * 0.95, rate * t * MIB * 1.05)
        for t in (0.1, 1.0, 10.0, 30.0)
    )
    values: dict[str, Any] = {"ram_bytes": 2 * GIB, "zero_pages": 0, "non_zero_bytes": GIB, **more}
    return DirtyProfile(points, **values)


def curve_file(folder: Path, rate: float, **more: Any) -> str:
    path = folder / "curve.json"
    path.write_text(json.dumps(profile(rate, **more).to_json()))
    return str(path)


def run(*arguments: str) -> int:
    return main.run_command(list(arguments))


@pytest.mark.parametrize(("rate", "status"), [(5, 0), (200, 7), (62, 8)])
def test_the_exit_status_is_the_answer(tmp_path: Path, rate: float, status: int) -> None:
    curve = curve_file(tmp_path, rate)
    assert run("forecast", "--curve", curve, "--bandwidth", "64MiB/s") == status


def test_a_trace_that_is_cut(capsys: Captured) -> None:
    assert run("forecast", "--trace", CONVERGES, "--after-pass", "2") == 0
    shown = capsys.readouterr()
    assert "The migration converges" in shown.out and "stands still" in shown.out
    assert CONVERGES in shown.err
    assert run("forecast", "--trace", NEVER, "--after-pass", "2") == 7
    assert "does not converge" in capsys.readouterr().out


def test_what_would_make_it_converge_is_told(capsys: Captured) -> None:
    run("forecast", "--trace", NEVER, "--json")
    captured = capsys.readouterr()
    (record,) = (json.loads(line) for line in captured.out.splitlines())
    changes = {remedy["change"]: remedy for remedy in record["remedies"]}
    assert changes["bandwidth"]["to"] > changes["bandwidth"]["from"]
    assert changes["bandwidth"]["forecast"]["verdict"] == "converges"
    assert changes["post-copy"]["to"] is True
    assert "converge" in captured.err


def test_options_change_what_a_trace_had(capsys: Captured) -> None:
    assert run("forecast", "--trace", NEVER, "--bandwidth", "900MiB/s", "--downtime", "2s") == 0
    assert run("forecast", "--trace", CONVERGES, "--bandwidth", "10MiB/s") == 7


def test_json_is_one_line_with_every_input(tmp_path: Path, capsys: Captured) -> None:
    curve = curve_file(tmp_path, 5, compress={"zstd-1": 2.0})
    assert run("forecast", "--curve", curve, "--bandwidth", "64MiB/s", "--json") == 0
    captured = capsys.readouterr()
    (record,) = (json.loads(line) for line in captured.out.splitlines())
    assert record["format"] == 1 and record["verdict"] == "converges"
    assert record["given"]["bandwidth"] == 64 * MIB
    assert record["given"]["downtime_limit_ms"] == 300
    assert DirtyProfile.from_json(record["given"]["curve"]) == profile(5, compress={"zstd-1": 2.0})
    assert "The migration converges" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of VM, --curve FILE and --trace FILE"),
        (["--curve", "a", "--trace", "b"], "give one of VM, --curve FILE and --trace FILE"),
        (["--curve", "nowhere.json"], "--curve: nowhere.json cannot be read: No such file"),
        (["--curve", "nowhere.json", "--after-pass", "2"], "--after-pass goes with --trace"),
        (["--trace", CONVERGES, "--after-pass", "0"], "the number of a pass, from 1 on"),
        (["--trace", CONVERGES, "--after-pass", "99"], "after pass 99: it ends in pass 8"),
        (["--trace", "nowhere.jsonl"], "--trace: nowhere.jsonl cannot be read"),
        (["--trace", CONVERGES, "--bandwidth", "1"], "--bandwidth must be between"),
        (["--trace", CONVERGES, "--downtime", "5h"], "--downtime must be between"),
        (["nosuchvm"], "nosuchvm"),
    ],
)
@pytest.mark.parametrize("command", ["forecast", "plan"])
def test_wrong_use(command: str, arguments: list[str], message: str, capsys: Captured) -> None:
    assert run(command, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[]", b'{"points": []}'])
def test_a_bad_curve_is_no_bug(tmp_path: Path, content: bytes, capsys: Captured) -> None:
    path = tmp_path / "curve.json"
    path.write_bytes(content)
    assert run("forecast", "--curve", str(path)) == 2
    assert str(path) in capsys.readouterr().err


def test_a_trace_without_a_whole_pass_is_no_bug(tmp_path: Path, capsys: Captured) -> None:
    lines = Path(CONVERGES).read_text().splitlines()[:20]
    path = tmp_path / "short.jsonl"
    path.write_text("\n".join(lines))
    assert run("forecast", "--trace", str(path)) == 2
    assert "short.jsonl ends in pass 1" in capsys.readouterr().err


def record_run(policy: str, lines: list[str]) -> str:
    with Journal.open() as journal:
        number = journal.begin("web", policy, LIMITS, {})
        journal.append(number, lines)
    return number


def trace_lines(path: str) -> list[str]:
    with Path(path).open() as lines:
        return [to_line(item) for item in read_trace(lines).items]


def test_a_vm_is_forecast_from_its_last_run(capsys: Captured) -> None:
    record_run("fixed", trace_lines(CONVERGES))
    assert run("forecast", "web", "--bandwidth", "128MiB/s", "--json") == 0
    captured = capsys.readouterr()
    curve = json.loads(captured.out)["given"]["curve"]
    assert curve["source"] == "run" and len(curve["points"]) >= 2
    assert "the dirty curve is from run 1" in captured.err


def test_a_rehearsal_is_trusted_more_than_a_later_run(capsys: Captured) -> None:
    measured = profile(5, source="rehearsal").to_json()
    record_run("rehearse", [json.dumps({"t": 1.0, "profile": measured})])
    record_run("fixed", trace_lines(NEVER))
    assert run("forecast", "web", "--bandwidth", "64MiB/s", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["given"]["curve"]["source"] == "rehearsal"
    assert "from rehearsal 1" in captured.err


def test_a_vm_of_which_nothing_was_measured(capsys: Captured) -> None:
    record_run("fixed", trace_lines(CONVERGES)[:10])
    assert run("forecast", "web") == 2
    shown = capsys.readouterr().err
    assert "nothing was measured of 'web' yet" in shown and "vmferry rehearse web" in shown


def test_a_plan_shows_each_setting_and_the_one_to_take(tmp_path: Path, capsys: Captured) -> None:
    curve = curve_file(tmp_path, 40, compress={"zstd-1": 2.0}, xbzrle_ratio=3.0)
    assert run("plan", "--curve", curve, "--bandwidth", "32MiB/s") == 0
    shown = capsys.readouterr().out
    assert "As asked: bandwidth 32.0 MiB/s (not seen), limit 300 ms." in shown
    for word in ("SETTING", "no cap", "throttle 50 %", "zstd-1", "XBZRLE", "post-copy"):
        assert word in shown
    (marked,) = (line for line in shown.splitlines() if line.startswith("*"))
    name = re.split("  +", marked)[1].removesuffix(" (not seen)")
    assert f"Recommended (*): {name}. It keeps to a downtime of at most 300 ms" in shown
    assert "nothing was seen of this way yet" in shown


def test_a_plan_for_programs(tmp_path: Path, capsys: Captured) -> None:
    curve = curve_file(tmp_path, 40)
    assert run("plan", "--curve", curve, "--bandwidth", "32MiB/s", "--json") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in records[:-1]] == ["setting"] * (len(records) - 1)
    assert records[0]["setting"]["bandwidth"] == 32 * MIB
    assert records[0]["forecast"]["verdict"] == "does-not-converge"
    best = records[-1]
    assert best["event"] == "recommended" and best["forecast"]["verdict"] == "converges"
    (marked,) = (one for one in records[:-1] if one["recommended"])
    assert (marked["setting"], marked["forecast"]) == (best["setting"], best["forecast"])
    assert best["why"].startswith("Recommended")
    assert not records[0]["bandwidth_seen"]


def test_a_plan_that_finds_nothing(tmp_path: Path, capsys: Captured) -> None:
    curve = curve_file(tmp_path, 5000)
    arguments = ("plan", "--curve", curve, "--bandwidth", "32MiB/s")
    assert run(*arguments) == 7
    shown = capsys.readouterr().out
    assert "None of these settings" in shown and "--post-copy allowed would be enough" in shown
    assert run(*arguments, "--post-copy", "allowed") == 0
    assert "post-copy" in capsys.readouterr().out.rpartition("Recommended")[2]


def test_a_plan_of_a_vm_ends_with_the_command_to_give(capsys: Captured) -> None:
    measured = profile(5, source="rehearsal").to_json()
    record_run("rehearse", [json.dumps({"t": 1.0, "profile": measured})])
    assert run("plan", "web", "--bandwidth", "64MiB/s") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "  vmferry migrate web --to local --bandwidth 64MiB/s --downtime 300ms"


def keep_measured(rate: float, ago: float) -> None:
    measured = profile(rate, source="calc-dirty-rate")
    points = tuple(replace(point, at=time.time() - ago) for point in measured.points)
    keep_curve(KeptCurve("web", time.time() - ago, 3.1, replace(measured, points=points)))


def test_a_curve_that_was_measured_is_found_again(capsys: Captured) -> None:
    record_run("fixed", trace_lines(CONVERGES)[:10])
    keep_measured(200, ago=300)
    keep_measured(5, ago=120)
    assert run("forecast", "web", "--bandwidth", "64MiB/s", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["given"]["curve"]["source"] == "calc-dirty-rate"
    assert "from calc-dirty-rate, measured 2 min 00 s ago in 3.1 s;" in captured.err


def test_a_measured_curve_adds_the_windows_that_a_run_lacks(capsys: Captured) -> None:
    record_run("fixed", trace_lines(CONVERGES))
    keep_measured(5, ago=120)
    run("forecast", "web", "--json")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["given"]["curve"]["source"] == "run"
    assert "from run 1, 0 ms ago, with more windows from calc-dirty-rate, measured" in re.sub(
        r"\d+ ms ago", "0 ms ago", captured.err
    )


def test_what_is_measured_now_is_compared_with_what_is_trusted_more() -> None:
    record_run(
        "rehearse", [json.dumps({"t": 1.0, "profile": profile(20, source="rehearsal").to_json()})]
    )
    with Journal.open() as journal:
        for rate, told in ((20, "about"), (5, "0.25 times"), (80, "4 times")):
            new = KeptCurve("web", time.time(), 3.1, profile(rate, source="calc-dirty-rate"))
            source = case_of_vm(journal, "web", Local(), Setting(), new).source
            assert "from rehearsal 1, " in source
            assert "calc-dirty-rate, measured just now in 3.1 s, has no window that" in source
            assert f"finds {told} as much dirty" in source


def test_phases_that_were_seen_are_not_forgotten_for_one_that_watched_for_too_short() -> None:
    phases = Phases(Quantiles.exact(6.0), Quantiles.exact(4.0), 0.02)
    for more in ({"phases": phases}, {"watched": 4.0}):
        known = profile(20, source="rehearsal", **more)
        record_run("rehearse", [json.dumps({"t": 1.0, "profile": known.to_json()})])
    with Journal.open() as journal:
        new = KeptCurve("web", time.time(), 3.1, profile(5, source="calc-dirty-rate"))
        found = case_of_vm(journal, "web", Local(), Setting(), new)
        assert found.case.profile.phases == phases
        assert "from rehearsal 1, " in found.source
        # By the clock of the wall it would find a quarter.
        assert "cannot be compared" in found.source and "as much dirty" not in found.source
        known = profile(20, source="rehearsal", watched=30.0)
        record_run("rehearse", [json.dumps({"t": 1.0, "profile": known.to_json()})])
        assert case_of_vm(journal, "web", Local(), Setting()).case.profile.phases is None


def test_a_kept_curve_that_is_broken_is_passed_over() -> None:
    keep_measured(5, ago=60)
    with curves_file().open("a") as file:
        file.write('{"format": 1, "vm": "web", "at": 1, "seconds": 2, "profile": {}}\n[]\n{"for')
    kept = newest_curve("web")
    assert kept is not None and kept.seconds == 3.1
    assert newest_curve("other") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trace", CONVERGES, "--measure"], "--measure goes with a VM"),
        (["web", "--for", "3s"], "--for goes with --measure"),
        (["web", "--measure", "--for", "0.5s"], "--for must be between 1s and 60s"),
        (["web", "--measure", "--for", "2h"], "--for must be between 1s and 60s"),
        (["web", "--measure", "--for", "many"], "'many' is not a duration"),
        (["web", "--measure"], "no VM 'web'"),
        (["qmp:/nowhere/qmp.sock", "--measure"], "there is no socket /nowhere/qmp.sock"),
        (["--trace", CONVERGES, "--to", "tcp:b:1"], "--to goes with a VM"),
    ],
)
@pytest.mark.parametrize("command", ["forecast", "plan"])
def test_wrong_use_of_measure(
    command: str, arguments: list[str], message: str, capsys: Captured
) -> None:
    assert run(command, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-downtime", "0s"], "--max-downtime must be at least 1ms"),
        (["--deadline", "0"], "--deadline must be more than nothing"),
        (["--max-throttle", "100"], "should be less than or equal to 99"),
        (["--post-copy", "now"], "'now' is not one of"),
    ],
)
def test_wrong_limits_of_a_plan(
    tmp_path: Path, options: list[str], message: str, capsys: Captured
) -> None:
    assert run("plan", "--curve", curve_file(tmp_path, 5), *options) == 2
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out


GOOD = {"ram_bytes": GIB, "zero_pages": 0, "non_zero_bytes": GIB}
POINT = {"seconds": 1, "bytes": 5 * MIB}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"points": []}, "'points' is empty"),
        ({"points": {}}, "'points' must be a list"),
        ({"points": [5]}, "points[0] must be a JSON object"),
        ({"points": [{"seconds": float("nan"), "bytes": 5}]}, "NaN is not a number"),
        ({"points": [{"seconds": 1e300, "bytes": 5}]}, "'seconds' must be more than 0 seconds"),
        ({"points": [{"seconds": 1, "bytes": 1e308}]}, "from 0 to 1 EiB"),
        ({"points": [{"seconds": "1", "bytes": 5}]}, "'seconds' must be more than 0 seconds"),
        ({"points": [{"seconds": 1, "bytes": -5}]}, "from 0 to 1 EiB"),
        ({"points": [{**POINT, "n": 10**40}]}, "'n' must be a number of windows"),
        ({"points": [{**POINT, "at": 1e300}]}, "'at' must be unix time"),
        ({"ram_bytes": 10**40}, "at most 1 EiB"),
        ({"zero_pages": 10**6}, "no more than the memory has"),
        ({"compress": {"zstd-1": 1e308}}, "must be a ratio from 0.01 to 10000"),
        ({"xbzrle_ratio": 1e308}, "must be a ratio from 0.01 to 10000"),
        ({"compress": [2]}, "compress must be a JSON object"),
        ({"source": "rumour"}, "'source' must be one of"),
        ({"format": 2}, "this vmferry reads format 1"),
    ],
)
def test_a_curve_of_nonsense_is_no_bug(
    tmp_path: Path, values: dict[str, Any], said: str, capsys: Captured
) -> None:
    path = tmp_path / "curve.json"
    path.write_text(json.dumps({"points": [POINT], **GOOD, **values}))
    for command in ("forecast", "plan"):
        assert run(command, "--curve", str(path)) == 2
        captured = capsys.readouterr()
        assert said in captured.err and str(path) in captured.err and not captured.out


def test_a_curve_of_extremes_is_forecast(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "curve.json"
    for point in ({"seconds": 1e-6, "bytes": 2**60}, {"seconds": 1e8, "bytes": 0}):
        most = {"compress": {"zstd-1": 1e4}, "xbzrle_ratio": 1e4, "throttle": 99, "slowdown": 1}
        path.write_text(json.dumps({"points": [point], **GOOD, **most, "ram_bytes": 2**60}))
        assert run("plan", "--curve", str(path), "--post-copy", "allowed") in (0, 7)
        assert "SETTING" in capsys.readouterr().out


def test_a_mark_before_the_first_letter_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + Path(CONVERGES).read_bytes())
    assert run("forecast", "--trace", str(path)) == 0
    assert run("explain", str(path)) == 0


def test_a_trace_with_a_line_separator_in_a_text_is_read(tmp_path: Path) -> None:
    header = '{"vmferry": {"format": 1, "vm": "a\u2028b\u0085"}}'
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join([header, *trace_lines(CONVERGES)]) + "\n", "utf-8")
    assert run("forecast", "--trace", str(file)) == 0
    assert run("explain", str(file)) == 0
