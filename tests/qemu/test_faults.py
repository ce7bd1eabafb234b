"""The most telling faults of bench/faults.py: what dies, hangs or is cut does the VM no harm.

Each is injected into a real move of a guest that writes to its memory and to a qcow2 disk. All that
must hold is judged by the bench's own harness; here, that it judged nothing to be wrong, and what
the user was told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench._faults_case import Case
from bench._faults_inject import inject
from bench._faults_lab import Lab

UNTOLD = "loaded, source not told"


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    """One VM serves all faults that it survives."""
    with pytest.MonkeyPatch.context() as patch:
        # It sets these itself; what they were comes back in the end.
        patch.setenv("XDG_STATE_HOME", "")
        patch.setenv("XDG_RUNTIME_DIR", "")
        lab = Lab.make(disk=True)
        yield lab
        lab.enter()
        left = lab.close()
    assert left == []


@pytest.fixture
def lab(shared_lab: Lab) -> Lab:
    shared_lab.enter()
    return shared_lab


def hurt(lab: Lab, fault: str, stage: str, *, proxy: bool = False) -> dict[str, Any]:
    """Inject it; where it came too late, again. Returns the row, which has no violation."""
    for seed in range(3):
        row = inject(lab, Case(fault, stage, disk=True, proxy=proxy), seed)
        assert row["violations"] == [], row
        if row["reached"]:
            return row
    raise AssertionError(f"'{stage}' was never reached: {row}")


def test_a_guardian_killed_before_the_intent_leaves_the_vm_at_the_source(lab: Lab) -> None:
    row = hurt(lab, "kill guardian", "before intent")
    assert row["landed"]["step"] == "begun"
    assert (row["exit"], row["vm_runs_at"]) == (5, "source")


@pytest.mark.parametrize("stage", ["after intent", "loaded"])
def test_a_guardian_killed_after_the_intent_is_followed_by_the_command(
    lab: Lab, stage: str
) -> None:
    row = hurt(lab, "kill guardian", stage)
    # On a busy machine it comes one row further before the signal reaches it.
    assert row["landed"]["step"] in ("intent", "source-dead")
    assert (row["exit"], row["vm_runs_at"]) == (0, "destination")
    assert "the guardian of the move died" in row["complained"]


def test_recover_settles_when_guardian_and_command_are_killed(lab: Lab) -> None:
    row = hurt(lab, "kill both", "device")
    assert row["landed"]["step"] == "intent"
    assert row["recover"]["exit"] == 0
    assert row["recover"]["vm_runs_at"] in ("source", "destination")


def test_a_killed_command_is_outlived_by_its_guardian(lab: Lab) -> None:
    assert hurt(lab, "kill command", "cont")["landed"]["step"] == "source-dead"


def test_a_destination_that_dies_in_the_switchover_leaves_the_vm_at_the_source(lab: Lab) -> None:
    row = hurt(lab, "kill destination", "device")
    assert (row["exit"], row["vm_runs_at"]) == (5, "source")
    assert "the destination ended" in row["why"]


@pytest.mark.parametrize("fault", ["cut now", "withhold 6 s"])
def test_a_source_that_is_not_told_goes_on_with_its_disks(lab: Lab, fault: str) -> None:
    row = hurt(lab, fault, UNTOLD, proxy=True)
    assert row["landed"]["destination"].endswith("completed")
    assert (row["exit"], row["vm_runs_at"]) == (5, "source")
    assert row["why"]


def test_without_a_journal_the_vm_does_not_change_hands(lab: Lab) -> None:
    row = hurt(lab, "journal refuses", "before intent")
    assert (row["exit"], row["vm_runs_at"]) == (6, "source")
    assert "cannot write the journal" in row["why"]
    assert row["recover"]["vm_runs_at"] == "source"


def test_a_mismatched_destination_is_told_in_qemus_words(lab: Lab) -> None:
    row = hurt(lab, "other RAM size", "start")
    assert (row["exit"], row["vm_runs_at"]) == (5, "source")
    assert "Size mismatch: pc.ram" in row["why"]


def test_a_dead_destination_ends_the_move_though_the_source_still_sends(lab: Lab) -> None:
    row = hurt(lab, "far: other RAM size", "start", proxy=True)
    assert (row["exit"], row["vm_runs_at"]) == (5, "source")
    assert row["why"]


def test_a_connection_that_stalls_in_the_switchover_brings_the_vm_back(lab: Lab) -> None:
    row = hurt(lab, "stall 8 s", "stage 3, not held", proxy=True)
    assert (row["exit"], row["vm_runs_at"], row["recover"]) == (5, "source", None)
    assert "the source does not answer" in row["why"]


def test_settings_that_a_silent_destination_kept_are_put_back_by_recover(lab: Lab) -> None:
    row = hurt(lab, "stop destination 8 s", "done")
    assert (row["exit"], row["status"]) == (6, "needs-recovery")
    assert "settings could not be put back" in row["why"]
    assert (row["recover"]["exit"], row["recover"]["vm_runs_at"]) == (0, "destination")
