"""`vmferry rehearse --watch`: its exit status, its table, and what is told meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from vmferry.cli import rehearse, rehearse_watch
from vmferry.cli.output import Output
from vmferry.cli.rehearse_watch import LineDisplay
from vmferry.errors import RefusedError, VmferryError
from vmferry.policy.base import Limits
from vmferry.precopy.profile import CurvePoint, DirtyProfile
from vmferry.rehearsal.request import RehearsalRequest
from vmferry.units import MIB

Captured = pytest.CaptureFixture[str]
POINT = CurvePoint(0.5, 10.0 * MIB, 8.0 * MIB, 12.0 * MIB, at=1.8e9)
FOUND = {"profile": DirtyProfile((POINT,), 256 * MIB, 0, 256 * MIB).to_json()}


class Clock:
    """Time that passes while it is slept."""

    localtime, time = staticmethod(time.localtime), staticmethod(time.time)

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def watch(ends: Sequence[int | VmferryError], monkeypatch: pytest.MonkeyPatch) -> int:
    """A watch whose rehearsals end so, one an hour."""
    left = iter(ends)

    def carry_out(*_: object) -> rehearse.Rehearsed:
        end = next(left)
        if isinstance(end, VmferryError):
            raise end
        return rehearse.Rehearsed(end, {}, FOUND)

    monkeypatch.setattr(rehearse, "carry_out", carry_out)
    monkeypatch.setattr(rehearse_watch, "time", Clock())
    seconds = 3600.0 * (len(ends) - 1)
    return rehearse_watch.rehearse_over(
        RehearsalRequest("web", Limits()), seconds, 3600.0, Output(as_json=False)
    )


@pytest.mark.parametrize(
    ("ends", "expected"),
    [([0, 7, 8], 7), ([0, 8, 0], 8), ([7, 6], 6), ([8, 5], 5), ([7, 130], 130)],
)
def test_the_exit_status_is_that_of_the_worst_answer_or_of_what_is_none(
    ends: list[int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watch(ends, monkeypatch) == expected


def test_what_was_found_is_told_where_the_last_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    with pytest.raises(RefusedError):
        watch([0, 7, RefusedError("'web' is busy")], monkeypatch)
    assert "The most that the guest dirtied, by the hour:" in capsys.readouterr().out


def test_what_goes_wrong_is_told_and_what_was_found_is_a_line(capsys: Captured) -> None:
    display = LineDisplay(Output(as_json=False))
    display.message("the run is no longer recorded: the disk is full")
    display.close({"run": "7", "why": "a rehearsal: the move would converge; near\nbecause"})
    display.message("X-ray: pages and pages")
    said = capsys.readouterr()
    assert said.err == "the run is no longer recorded: the disk is full\n"
    assert said.out.endswith("  run 7: the move would converge; near\n")
    assert "X-ray" not in said.out
