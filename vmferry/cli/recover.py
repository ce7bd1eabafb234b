"""`vmferry recover`: settles moves that were left half-way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vmferry.cli.options import Json, known_key
from vmferry.cli.output import Output

if TYPE_CHECKING:
    from vmferry.journal import Journal, Run
    from vmferry.precopy.outcome import Outcome

NEEDS_RECOVERY = 6


def recover(
    vm: Annotated[
        str | None, typer.Argument(metavar="VM", help="Only this VM's; otherwise everybody's.")
    ] = None,
    json: Json = False,
) -> int:
    """Settle moves that were left half-way.

    They are undone, or finished where they had switched over.
    """
    from vmferry.errors import VmferryError
    from vmferry.journal import Journal
    from vmferry.vm.lock import forget_dead_holders

    output = Output(as_json=json)
    status, in_the_way = 0, None
    with Journal.open() as journal:
        key = known_key(vm, journal) if vm is not None else None
        left = [run for run in journal.unsettled() if key in (None, run.vm)]
        if not left:
            output.say("nothing to recover")
        for run in left:
            try:
                outcome = settle_run(journal, run)
            except VmferryError as error:
                # One whose guardian lives, for one: it does not keep the others from being settled.
                if in_the_way is not None:
                    output.note(f"run {run.id} of '{run.vm}': {error.message}")
                in_the_way = in_the_way or error
                continue
            output.record(outcome.to_json())
            output.say(f"run {run.id} of '{run.vm}': {outcome.why}")
            if outcome.status == "needs-recovery":
                status = NEEDS_RECOVERY
    forget_dead_holders()
    if in_the_way is not None:
        raise in_the_way
    return status


def settle_run(journal: Journal, run: Run) -> Outcome:
    """Settle one run here and now. Raises VmferryError."""
    import asyncio

    from vmferry.recover import recover_run
    from vmferry.settle import WallClock

    return asyncio.run(recover_run(journal, run, WallClock()))
