"""The command's end of the pipe to its guardian: starts it, hears it, relays Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmferry.move.run import Request
    from vmferry.rehearsal.request import RehearsalRequest


class GuardianDied(Exception):
    """The guardian ended without an outcome. `run` is its run, where it had begun one; `said` is
    what it wrote to its standard error."""

    def __init__(self, run: str | None, said: str) -> None:
        super().__init__("the guardian of the move died")
        self.run = run
        self.said = said


def guarded(
    request: Request | RehearsalRequest, on_cancel: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """The lines of a guardian that carries `request` out, to its last.

    Ctrl-C and SIGTERM ask it to undo the move. Raises GuardianDied.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "vmferry.guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        # Until the guardian has ended: what it said last is not to be lost by a late Ctrl-C.
        with _relayed(process, on_cancel), process:
            _send(process, json.dumps(request.to_json()))
            run, ended = None, False
            for line in process.stdout or ():
                if not line.endswith(b"\n"):
                    break  # it died in the middle of a word
                said: dict[str, Any] = json.loads(line)
                run = said.get("run", run) if "run" in said and len(said) == 1 else run
                if "error" in said and run is not None:
                    # It is no refusal any more: the VM may stand still.
                    raise GuardianDied(run, str(said["error"]))
                ended = ended or said.get("event") == "outcome" or "error" in said
                if said:
                    yield said
            if not ended:
                errors.seek(0)
                raise GuardianDied(run, errors.read().decode(errors="replace").strip())


@contextmanager
def _relayed(process: subprocess.Popen[bytes], on_cancel: Callable[[], None]) -> Iterator[None]:
    def relay(_number: int, _frame: FrameType | None) -> None:
        # First of all: a terminal that takes no words now (Ctrl-S) must not hold this up.
        _send(process, "cancel")
        on_cancel()

    before = {number: signal.signal(number, relay) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(process: subprocess.Popen[bytes], line: str) -> None:
    if process.stdin is not None:
        try:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return  # it has ended, or is about to
