"""`vmferry recover`, and a command whose guardian has died, where others are at work too."""

from __future__ import annotations

import os
from typing import cast

import pytest

from vmferry.cli.display import Display
from vmferry.cli.guardian_client import GuardianDied
from vmferry.cli.guardian_lines import settle_after_death
from vmferry.cli.main import run_command
from vmferry.errors import NeedsRecoveryError
from vmferry.journal import Journal
from vmferry.move.parties import Parties, Party
from vmferry.vm.lock import MoveLock

GONE = {"pid": os.getpid(), "start_ticks": 1, "boot": "an earlier one"}


class Mute:
    def message(self, text: str) -> None: ...


def begin(vm: str) -> str:
    """A run whose processes are long dead."""
    parties = Parties(
        vm, "", Party(socket="/nonexistent/a", process=GONE), Party("/nonexistent/b", process=GONE)
    )
    with Journal.open() as journal:
        return journal.begin(vm, "fixed", {}, parties.to_json())


def test_a_move_under_way_does_not_keep_others_from_being_settled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    under_way, left = begin("busy"), begin("left")
    with MoveLock.acquire("busy", "migrate"):
        assert run_command(["recover"]) == 3
    assert "'busy' is busy" in capsys.readouterr().err
    with Journal.open() as journal:
        assert [run.id for run in journal.unsettled()] == [under_way]
        assert journal.run(left).settled


def test_who_finds_that_another_settles_its_run_does_not_say_that_it_was_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vmferry.cli.guardian_lines._OTHERS_SECONDS", 0.1)
    death = GuardianDied(begin("web"), "")
    display = cast(Display, Mute())
    with MoveLock.acquire("web", "recover"), pytest.raises(NeedsRecoveryError, match="half-way"):
        settle_after_death(death, "move", display)
    assert settle_after_death(death, "move", display)["vm_runs_at"] == "nowhere"
