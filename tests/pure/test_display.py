"""The three displays of a move, over the snapshots of one progress."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from vmferry.cli.display import Display, PlainDisplay, RecordDisplay, fields, going, make_display
from vmferry.cli.guardian_lines import show
from vmferry.cli.live_display import LiveDisplay, Signs, draw
from vmferry.precopy.progress import Estimate, Progress, Remedy, Snapshot, Stage

MIB = 1024**2
UTF, ASCII = Signs.fitting("utf-8"), Signs.fitting("iso8859-1")
NEVER = Estimate(
    "does-not-converge",
    p_converge=0.02,
    ends=None,
    bytes=None,
    why="The guest dirties 42.0 MiB in 400 ms.",
    remedies=(Remedy("bandwidth", 180 * MIB), Remedy("downtime", 1500)),
)
OUTCOME: dict[str, Any] = {
    "event": "outcome",
    "format": 1,
    "run": "1",
    "vm": "web",
    "status": "abandoned",
    "vm_runs_at": "source",
    "policy": "fixed",
    "total_ms": 60000.0,
    "downtime_ms": None,
    "bytes": 5 * MIB,
    "resent_bytes": MIB,
    "passes": [],
    "guest": None,
    "cost": None,
    "why": "the deadline of 60.0 s passed",
}
START = Snapshot(
    t=1.0,
    stage="passes",
    pass_number=1,
    dirty_left=512 * MIB,
    sent=100 * MIB,
    speed=100.0 * MIB,
    dirty_rate=None,
    throttle=0,
    eta=None,
    pass_eta=None,
    estimate=None,
    fraction=0.2,
)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def feed(display: Display, clock: Clock, *moments: tuple[float, int, Stage]) -> None:
    """Snapshots at the given times, of the given passes and stages."""
    for time, number, stage in moments:
        clock.time = time
        display.update(dataclasses.replace(START, t=time, pass_number=number, stage=stage))


def test_plain_has_a_line_for_each_stage_and_pass_and_few_others() -> None:
    stream, clock = io.StringIO(), Clock()
    moments: list[tuple[float, int, Stage]] = [
        (0.0, 0, "setup"),
        (0.1, 1, "passes"),
        *((0.2 + i / 10, 1, "passes") for i in range(40)),
        (4.3, 2, "passes"),
        (4.4, 3, "passes"),  # a pass that is too short to be read
        (5.4, 4, "passes"),
        (10.5, 4, "passes"),
        (10.6, 5, "switchover"),
        (10.7, 5, "done"),
    ]
    feed(PlainDisplay(stream, clock), clock, *moments)
    lines = [line.split(", ")[:2] for line in stream.getvalue().splitlines()]
    assert [(name[10:], number) for name, number in lines] == [
        ("1 mark all", "pass 0"),
        ("2 copy in passes", "pass 1"),
        ("2 copy in passes", "pass 2"),
        ("2 copy in passes", "pass 4"),
        ("2 copy in passes", "pass 4"),
        ("3 switchover", "pass 5"),
        ("done", "pass 5"),
    ]


def test_plain_gives_the_long_reason_once_and_at_once() -> None:
    stream, clock = io.StringIO(), Clock()
    display = PlainDisplay(stream, clock)
    display.update(START)
    for second in (0.3, 0.6, 6.0, 12.0):
        clock.time = second
        display.update(dataclasses.replace(START, estimate=NEVER))
    text = stream.getvalue()
    assert text.count("will not converge as it goes") == 3
    assert text.count("The guest dirties 42.0 MiB") == 1


def test_records_are_ndjson_and_nothing_else() -> None:
    stream, beside, clock = io.StringIO(), io.StringIO(), Clock()
    display = RecordDisplay(stream, beside, clock)
    feed(display, clock, (0.0, 1, "passes"), (0.1, 1, "passes"), (0.2, 2, "passes"))
    display.message("be\x1bware")
    display.close(OUTCOME)
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [r["event"] for r in records] == ["progress", "progress", "outcome"]
    assert [r["pass_number"] for r in records[:2]] == [1, 2]
    assert records[-1] == OUTCOME
    assert beside.getvalue() == "be\\x1bware\n"


def test_forecasts_of_the_guardian_reach_programs_and_the_display() -> None:
    stream, progress = io.StringIO(), Progress()
    display = RecordDisplay(stream, io.StringIO(), Clock())
    found = {
        "verdict": "uncertain",
        "p_converge": 0.5,
        "total_ms": {"p10": 4000.0, "p50": 5000.0, "p90": 9000.0},
        "bytes": {"p10": 1.0, "p50": 2.0, "p90": 3.0},
        "why": "because",
        "remedies": [],
    }
    show({"t": 0.0, "forecast": found}, progress, display)
    forecast, shown = (json.loads(line) for line in stream.getvalue().splitlines())
    assert forecast == {"event": "forecast", "t": 0.0, **found}
    assert shown["event"] == "progress" and shown["eta"] == [4.0, None]


def test_close_tells_the_outcome_in_words() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream, Clock())
    display.update(START)
    display.close(OUTCOME)
    assert "the deadline of 60.0 s passed" in stream.getvalue()


def test_before_the_first_byte_there_are_no_figures() -> None:
    assert fields(dataclasses.replace(START, sent=0)) == []


def test_a_message_that_interrupts_a_line_waits_for_its_end() -> None:
    class Interrupted(io.StringIO):
        """A signal handler that speaks while a line is being written."""

        def write(self, text: str) -> int:
            if "pass 1" in text:
                display.message("cancelling")
            return super().write(text)

    stream = Interrupted()
    display = PlainDisplay(stream, Clock())
    display.update(START)
    first, second = stream.getvalue().splitlines()
    assert "pass 1" in first and second == "cancelling"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eta": (4.0, 9.0)}, "done in 4.0 s to 9.0 s"),
        ({"eta": (4.0, None)}, "done in 4.0 s at the least, perhaps never"),
        ({"eta": (4.0, 4.01)}, "done in about 4.0 s"),
        ({"pass_eta": (0.0, 5.0)}, "this pass done in at most 5.0 s"),
        ({}, ""),
    ],
)
def test_outlook(changes: dict[str, Any], words: str) -> None:
    assert going(dataclasses.replace(START, **changes)) == words


def test_outlook_of_a_move_that_will_not_converge_has_the_numbers() -> None:
    assert going(dataclasses.replace(START, estimate=NEVER)) == (
        "will not converge as it goes: The guest dirties 42.0 MiB in 400 ms. At least 180 MiB/s or"
        " a downtime limit of 1.5 s would do."
    )


SNAPSHOTS = st.builds(
    Snapshot,
    t=st.floats(0, 1e6),
    stage=st.sampled_from(["setup", "passes", "switchover", "handover", "done"]),
    pass_number=st.integers(0, 10**6),
    dirty_left=st.integers(0, 2**50),
    sent=st.integers(0, 2**50),
    speed=st.floats(0, 1e12),
    dirty_rate=st.none() | st.floats(0, 1e12),
    throttle=st.integers(0, 99),
    eta=st.none() | st.tuples(st.floats(0, 1e3), st.none() | st.floats(1e3, 1e6)),
    pass_eta=st.none() | st.tuples(st.floats(0, 1e3), st.floats(1e3, 1e6)),
    estimate=st.none() | st.just(NEVER),
    fraction=st.floats(0, 1),
)


@given(SNAPSHOTS, st.integers(1, 200), st.sampled_from([UTF, ASCII]))
def test_no_line_is_wider_than_the_terminal(snapshot: Snapshot, width: int, signs: Signs) -> None:
    picture = draw(snapshot, width, signs)
    assert all(line.cell_len <= width for line in picture.split("\n"))


def test_a_terminal_without_unicode_gets_none() -> None:
    assert draw(START, 80, ASCII).plain.isascii()
    assert not draw(START, 80, UTF).plain.isascii()


def bar_columns(picture: Text) -> int:
    return picture.plain.count(UTF.full)


def test_bar_is_empty_at_the_start_and_full_at_the_end() -> None:
    empty = dataclasses.replace(START, fraction=0.0)
    full = dataclasses.replace(START, fraction=1.0, stage="done")
    assert bar_columns(draw(empty, 80, UTF)) == 0
    assert UTF.empty not in draw(full, 80, UTF).plain


def test_live_draws_at_most_four_times_a_second_and_ends_with_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Snapshot] = []
    stream, clock = io.StringIO(), Clock()
    display = LiveDisplay(stream, clock)

    def note(snapshot: Snapshot, *_: object) -> Text:
        drawn.append(snapshot)
        return Text("picture")

    monkeypatch.setattr("vmferry.cli.live_display.draw", note)
    for step in range(100):
        clock.time = step / 32
        display.update(dataclasses.replace(START, t=clock.time))
    assert len(drawn) == 13
    display.stop()
    assert drawn[-1].t == 99 / 32


def test_the_display_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_display(as_json=False, stream=io.StringIO())) is PlainDisplay
    assert type(make_display(as_json=True, stream=io.StringIO())) is RecordDisplay
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setenv("TERM", "xterm")
        assert type(make_display(as_json=False, stream=terminal)) is LiveDisplay
        monkeypatch.setenv("TERM", "dumb")
        assert type(make_display(as_json=False, stream=terminal)) is PlainDisplay
    os.close(ours)
