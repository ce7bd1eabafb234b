"""What commands with a guardian share: what it says is shown, what it leaves is settled."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmferry.cli.display import Display
    from vmferry.cli.guardian_client import GuardianDied
    from vmferry.errors import VmferryError
    from vmferry.precopy.progress import Progress, Stage

# How long another one that has begun to settle the same run is waited for.
_OTHERS_SECONDS = 30.0
# What the guardian says of the handover, as stages of the display.
STAGE_OF: dict[str, Stage] = {
    "record that the source is dead": "handover",
    "record that the move is done": "done",
}


def show(line: Mapping[str, Any], progress: Progress, display: Display) -> None:
    """Show one line of the guardian's. Raises VmferryError where it says that it refused."""
    from vmferry.precopy.trace import Note, item_of

    if "error" in line:
        raise refusal_of(line)
    if "message" in line:
        display.message(str(line["message"]))
    if "t" not in line:
        return
    item = item_of(line)
    if not isinstance(item, Note):
        progress.receive(item)
    elif item.kind == "forecast":
        progress.foresee(item.value)
        display.record({"event": "forecast", "t": item.t, **item.value})
    elif item.kind == "stage":
        if item.value not in STAGE_OF:
            return
        progress.enter(STAGE_OF[item.value])
    else:
        return
    display.update(progress.snapshot())


def refusal_of(line: Mapping[str, Any]) -> VmferryError:
    """The guardian's error, of the class that has its exit status."""
    from vmferry.errors import NeedsRecoveryError, RefusedError, UsageError, VmferryError

    status = int(line["exit_status"])
    for kind in (UsageError, RefusedError, NeedsRecoveryError):
        if kind.exit_status == status:
            return kind(str(line["error"]), hint=line["hint"])

    class Other(VmferryError):
        exit_status = status

    return Other(str(line["error"]), hint=line["hint"])


def settle_earlier(key: str) -> None:
    """Settle what an earlier move of this VM left half-way. Raises VmferryError where it cannot."""
    from vmferry.cli.recover import settle_run
    from vmferry.errors import NeedsRecoveryError
    from vmferry.journal import Journal

    with Journal.open() as journal:
        for run in journal.unsettled():
            if run.vm == key and settle_run(journal, run).status == "needs-recovery":
                raise NeedsRecoveryError(
                    f"run {run.id} of '{key}' was left half-way and cannot be settled",
                    hint=f"`vmferry show {run.id}` tells what is in the way",
                )


def settle_after_death(death: GuardianDied, what: str, display: Display) -> dict[str, Any]:
    """The guardian of a move or a rehearsal is gone: settle here and now what it left."""
    from vmferry.cli.recover import settle_run
    from vmferry.errors import MoveFailedError, NeedsRecoveryError, RefusedError
    from vmferry.journal import Journal, JournalError

    run, last = death.run, death.said.rpartition("\n")[2]
    because = f" ({last})" if last else ""
    if run is None:
        raise MoveFailedError(
            f"the guardian of the {what} died before it began{because}; the VM was not touched"
        )
    display.message(f"the guardian of the {what} died{because}; settling run {run}")
    end = time.monotonic() + _OTHERS_SECONDS
    while True:
        try:
            with Journal.open() as journal:
                return settle_run(journal, journal.run(run)).to_json()
        except (RefusedError, JournalError) as error:
            # Refused is this where another one settles the run already: its account is the answer.
            if isinstance(error, JournalError) or time.monotonic() > end:
                raise NeedsRecoveryError(
                    f"run {run} was left half-way: {error.message}",
                    hint="`vmferry recover` settles it",
                ) from None
        time.sleep(0.1)
