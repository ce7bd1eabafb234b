"""Brings a move to a stage and holds it there, so that a fault lands where it is meant to.

Two ways to hold: a write lock on the journal stops the guardian before its next durable step, and
SIGSTOP stops a QEMU, which makes the guardian wait for it.

    before intent     journal locked when the source says pre-switchover
    after intent      source stopped, journal let go until the row is there
    device            destination stopped, journal let go: the source waits for the way back
    loaded            destination let go with the journal locked: loaded and told, no row yet
    source-dead       destination stopped, journal let go until the row is there
    cont              destination let go, journal locked before the row `done`
    done              source stopped, journal let go until the row is there
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from bench._faults_lab import Command, Lab, freeze, thaw, wait_until
from bench._faults_watch import Eye, Watch
from vmferry.host.process import ProcessId

STAGES = (
    "prepare",
    "setup",
    "pass 1",
    "later passes",
    "before intent",
    "after intent",
    "stage 3, not held",
    "device",
    "loaded, source not told",
    "loaded",
    "source-dead",
    "cont",
    "done",
)
STAGE_3 = frozenset(STAGES[4:])
# nanosleep and clock_nanosleep, as the kernel numbers them on x86-64.
_SLEEPS = frozenset({"35", "230"})
_MUTE_SECONDS = 0.3
# The most that it may take to come from one hold to the next.
_REACH_SECONDS = 60.0


class NotReached(Exception):
    """The move ended before it came to the stage."""


class JournalHold:
    """A write lock on the journal; taking and leaving it twice is harmless."""

    def __init__(self, lab: Lab) -> None:
        self._connection = sqlite3.connect(
            lab.journal, isolation_level=None, check_same_thread=False, timeout=0.0
        )
        self._lock = threading.Lock()
        self.held = False

    def take(self) -> bool:
        with self._lock:
            if not self.held:
                with contextlib.suppress(sqlite3.OperationalError):
                    self._connection.execute("BEGIN IMMEDIATE")
                    self.held = True
            return self.held

    def leave(self) -> None:
        with self._lock:
            if self.held:
                self._connection.execute("ROLLBACK")
                self.held = False

    def close(self) -> None:
        self.leave()
        self._connection.close()


class Holder:
    """Holds one move. `source` is the QEMU that has the VM when it begins."""

    def __init__(self, lab: Lab, watch: Watch, command: Command, source: ProcessId) -> None:
        self.lab, self.watch, self.command, self.source = lab, watch, command, source
        self.journal = JournalHold(lab)
        self.frozen: list[ProcessId] = []
        self.run_before = lab.last_run()
        self._gate = threading.Event()
        self._gated = False

    @property
    def destination(self) -> ProcessId | None:
        """The other QEMU, once there is one."""
        for eye in self.watch.eyes.values():
            if eye.pid != self.source.pid:
                with contextlib.suppress(ProcessLookupError):
                    return ProcessId.of(eye.pid)
        return None

    def eyes(self) -> tuple[Eye | None, Eye | None]:
        source = self.watch.eye(self.source.pid)
        other = [eye for eye in self.watch.eyes.values() if eye is not source]
        return source, other[0] if other else None

    def arm(self, stage: str) -> None:
        """Call before the move begins: the first hold must come at once."""
        self._gated = stage in STAGE_3

        def heard(eye: Eye, name: str, data: dict[str, Any]) -> None:
            if name == "MIGRATION" and data.get("status") == "pre-switchover":
                if self._gated and stage not in ("stage 3, not held", "loaded, source not told"):
                    self.journal.take()
                self._gate.set()

        self.watch.heard = heard

    def reach(self, stage: str, chance: random.Random) -> None:
        """Return when the move is at the stage, and held there. Raises NotReached."""
        if stage == "prepare":
            self._until(lambda: self.command.find_guardian() is not None)
            time.sleep(chance.uniform(0.0, 1.5))
        elif stage == "setup":
            self._until(lambda: self._source_says("setup", "active"))
        elif stage == "pass 1":
            self._until(lambda: self._source_says("active"))
            time.sleep(chance.uniform(0.0, 0.8))
        elif stage == "later passes":
            self._until(lambda: (self.eyes()[0] or _NOBODY).passes >= 2)
            time.sleep(chance.uniform(0.0, 0.1))
        elif stage == "stage 3, not held":
            self._until(self._gate.is_set)
            time.sleep(chance.uniform(0.0, 0.15))
        elif stage == "loaded, source not told":
            self._until(self._gate.is_set)
            self._until(lambda: (self.eyes()[1] or _NOBODY).migration == "completed")
        else:
            self._reach_held(stage)

    def _reach_held(self, stage: str) -> None:
        self._until(self._gate.is_set)
        destination = self.destination
        if destination is None:
            raise NotReached("no destination")
        self._until(self._guardian_stands)
        if stage == "before intent":
            return
        if stage == "after intent":
            self._step_with_frozen("intent", self.source)
            return
        self._freeze(destination)
        self.journal.leave()
        self._until(self._in_device)
        if stage == "device":
            return
        self._until(self.journal.take)
        self._thaw(destination)
        self._until(lambda: self._source_says("completed"))
        self._until(self._guardian_stands)
        if stage == "loaded":
            return
        if stage == "source-dead":
            self._step_with_frozen("source-dead", destination)
            return
        self._until_step("source-dead")
        self._until(self.journal.take)
        self._until(lambda: (self.eyes()[1] or _NOBODY).runs)
        self._until(self._guardian_stands)
        if stage == "done":
            self._step_with_frozen("done", self.source)

    def release(self) -> None:
        """Let everything go on, and hold nothing any more."""
        self._gated = False
        self.journal.leave()
        for process in list(self.frozen):
            self._thaw(process)

    def close(self) -> None:
        self.release()
        self.journal.close()

    def landed(self) -> dict[str, Any]:
        """Where the move is now: the last row, and what both QEMUs last said."""
        source, destination = self.eyes()
        run = self.lab.last_run()
        steps = self.lab.steps() if run > self.run_before else []
        return {
            "step": steps[-1] if steps else None,
            "source": _said(source),
            "destination": _said(destination),
        }

    def _step_with_frozen(self, step: str, process: ProcessId) -> None:
        """Let the guardian write this row and come no further than to `process`, which stands.

        What it waited for the journal for may have been lines of the trace: then it looks at the
        QEMUs once more before the row, and has to be let through.
        """
        for _ in range(20):
            self._freeze(process)
            self.journal.leave()
            if wait_until(lambda: self.lab.steps()[-1:] == [step], 0.5):
                return
            self._until(self.journal.take)
            self._thaw(process)
            self._until(self._guardian_stands)
        raise NotReached(f"no row '{step}'")

    def _until_step(self, step: str) -> None:
        """Let the journal go, and return as soon as the row is on disk."""
        self.journal.leave()
        self._until(lambda: self.lab.steps()[-1:] == [step], quick=True)

    def _until(self, condition: Any, *, quick: bool = False) -> None:
        def ready() -> bool:
            return bool(condition()) or self.command.process.poll() is not None

        wait = wait_until if quick else self.watch.wait
        reached = wait(ready, _REACH_SECONDS)
        if not reached or not condition():
            raise NotReached("the move ended first" if reached else "it did not come there")

    def _guardian_stands(self) -> bool:
        """Whether it sleeps in SQLite, waiting for the journal, and not in its event loop."""
        guardian = self.command.find_guardian()
        if guardian is None:
            return False
        with contextlib.suppress(OSError):
            call = Path(f"/proc/{guardian.pid}/syscall").read_text().split()[0]
            return call in _SLEEPS
        return False

    def _in_device(self) -> bool:
        """Whether the source is in stage 3 for good. While it sends to a QEMU that stands it holds
        QEMU's big lock, and may not get to say so."""
        source = self.eyes()[0]
        if source is None or self.lab.steps()[-1:] != ["intent"]:
            return False
        return source.migration == "device" or source.silent_seconds > _MUTE_SECONDS

    def _source_says(self, *statuses: str) -> bool:
        eye = self.eyes()[0]
        return eye is not None and eye.migration in statuses

    def _freeze(self, process: ProcessId) -> None:
        freeze(process)
        self.frozen.append(process)

    def _thaw(self, process: ProcessId) -> None:
        thaw(process)
        self.frozen = [one for one in self.frozen if one != process]


class _Nobody:
    passes = 0
    migration = ""
    runs = False


_NOBODY = _Nobody()


def _said(eye: Eye | None) -> str | None:
    return None if eye is None else f"{eye.runstate}/{eye.migration}"
