"""Benchmarks of the fast paths: rows that outlive an interruption, turns, tables, frames."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.fastpath import Kept
from vmferry.cli.main import run_command
from vmferry.errors import RefusedError
from vmferry.fastpath.bench import wire
from vmferry.fastpath.bench.guest import Counters, busiest_share
from vmferry.fastpath.bench.rows import Row, Rows, Spread, change, short
from vmferry.fastpath.bench.run import Benchmark, Figure, Setting, report, run
from vmferry.fastpath.benchmarks import BENCHMARKS
from vmferry.fastpath.finding import Feature


def benchmark(measured: list[str], problem: str = "", fail_at: int = -1) -> Benchmark:
    async def measure(case: str, setting: Setting) -> Row:
        assert setting.folder.is_dir()
        if len(measured) == fail_at:
            raise KeyboardInterrupt
        measured.append(case)
        return {"speed": len(measured)}

    return Benchmark(
        name="nothing",
        question="what for?",
        cases=("off", "on"),
        figures=(Figure("speed", "speed"), Figure("none", "never measured")),
        problem=lambda: problem,
        measure=measure,
        limits="all of it",
        prove=lambda rows: [f"{len(rows)} rows"],
    )


async def test_cases_take_turns_and_change_their_order() -> None:
    measured: list[str] = []
    rows = Rows()
    await run(benchmark(measured), rows, 3, 1.0, lambda _: None)
    assert measured == ["off", "on", "on", "off", "off", "on"]
    assert report(benchmark([]), rows) == [
        ["", "off", "on"],
        ["speed", "4 (2.5–4.5)", "3 (2.5–4.5)"],
        ["runs", "3", "3"],
    ]


async def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "rows"
    with pytest.raises(KeyboardInterrupt):
        await run(benchmark([], fail_at=3), Rows(file), 2, 1.0, lambda _: None)
    with file.open("a") as open_file:
        open_file.write('{"key": "1/off", "case"')  # cut short by a crash
    measured: list[str] = []
    heard: list[Row] = []
    await run(benchmark(measured), Rows(file, heard.append), 2, 1.0, lambda _: None)
    assert measured == ["off"]
    assert [row["key"] for row in heard] == ["1/off"]
    assert len(Rows(file)) == 4


async def test_what_cannot_run_says_why() -> None:
    with pytest.raises(RefusedError, match="there is no /dev/kvm"):
        await run(benchmark([], "there is no /dev/kvm"), Rows(), 1, 1.0, lambda _: None)


@given(st.lists(st.floats(0, 1e9), max_size=9))
def test_quartiles_hold_the_median(values: list[float]) -> None:
    found = Spread.of(values)
    if found is None:
        assert values == []
    else:
        assert found.low <= found.median <= found.high
        assert found.n == len(values)


@pytest.mark.parametrize(
    ("base", "other", "text"),
    [
        ([10, 10, 11], [20, 21, 22], "+110 %"),
        ([10, 10, 11], [9, 11, 12], "+10 % (no clear difference: the quartiles overlap)"),
        ([10], [20], "+100 % (too few runs to rely on)"),
        ([0, 0, 0], [1, 1, 1], "from nothing"),
    ],
)
def test_changes_say_whether_they_can_be_relied_on(
    base: list[float], other: list[float], text: str
) -> None:
    one, two = Spread.of(base), Spread.of(other)
    assert one is not None and two is not None
    assert change(one, two) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (99.96, "100"), (123456.7, "123,457")]
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert short(value) == text


def test_counts_of_a_window() -> None:
    before = Counters({"30 virtio1-input.0": {0: 5, 1: 5}, "RES x": {0: 1, 1: 1}}, {})
    after = Counters(
        {"30 virtio1-input.0": {0: 105, 1: 5}, "31 virtio1-output.0": {0: 0, 1: 100}},
        {"NET_RX": {0: 1, 1: 2}},
    )
    came = after.since(before)
    assert came.per_cpu(r"-(input|output)\.\d+$") == [100, 100]
    assert came.per_cpu("nothing") == []
    assert came.softirqs == {"NET_RX": {0: 1, 1: 2}}


def test_shares() -> None:
    assert busiest_share([30, 10]) == 75.0
    assert busiest_share([]) is None
    assert busiest_share([0, 0]) is None


def test_frames_are_sound() -> None:
    frames = {wire._frame(flow) for flow in range(wire._FLOWS)}
    assert len(frames) == wire._FLOWS
    for frame in frames:
        words = sum(struct.unpack(">10H", frame[14:34]))
        assert (words & 0xFFFF) + (words >> 16) == 0xFFFF
        (length,) = struct.unpack(">H", frame[16:18])
        assert length == len(frame) - 14


def test_every_feature_has_a_benchmark() -> None:
    assert set(BENCHMARKS) == {feature.value for feature in Feature}
    for one in BENCHMARKS.values():
        keys = [figure.key for figure in one.figures]
        assert len(keys) == len(set(keys))
        # With nothing measured nothing is proved, and the table is empty.
        assert one.prove(Rows()) is not None
        assert len(report(one, Rows())) == 2


def test_rows_of_a_host_are_kept_as_they_come(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "rows")
    rows: list[dict[str, Any]] = [
        {"event": "row", "format": 1, "key": f"0/{case}", "case": case, "x": 1}
        for case in ("off", "on")
    ]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]).encode()
    kept.hear(text[:50], False)
    kept.hear(text[50:], False)
    assert (tmp_path / "rows").read_text().count("\n") == 2
    assert Rows(tmp_path / "rows").of("on") == [{"key": "0/on", "case": "on", "x": 1}]


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(["bench", "fastpath", "speed"]) == 2
    assert "net-queues" in capsys.readouterr().err
    file = tmp_path / "rows"
    file.write_text("[1]\n")
    assert run_command(["bench", "fastpath", "clock", "--out", str(file)]) == 2
    assert "does not hold rows" in capsys.readouterr().err
