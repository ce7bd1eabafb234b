"""The journal of all runs of this user.

A step is on disk before the caller goes on: the handover's safety rests on it (docs/safety.md).
Trace lines are kept too, but a run does not fail where they cannot be.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmferry.errors import UsageError, VmferryError
from vmferry.handover import Step
from vmferry.host.paths import journal_file

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    vm TEXT NOT NULL,
    started_at REAL NOT NULL,
    policy TEXT NOT NULL,
    limits TEXT NOT NULL,
    parties TEXT NOT NULL,
    outcome TEXT
);
CREATE TABLE IF NOT EXISTS steps (
    run INTEGER NOT NULL REFERENCES runs (id),
    at REAL NOT NULL,
    step TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS lines (
    run INTEGER NOT NULL REFERENCES runs (id),
    line TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS steps_of_run ON steps (run);
CREATE INDEX IF NOT EXISTS lines_of_run ON lines (run);
PRAGMA user_version = 1;
"""
# Made when it is first written, and of the same version: a journal goes without it, and an earlier
# vmferry does not look at it.
_DERIVED = """
CREATE TABLE IF NOT EXISTS derived (
    run INTEGER PRIMARY KEY REFERENCES runs (id),
    version TEXT NOT NULL,
    value TEXT NOT NULL
)
"""
_PATIENCE_SECONDS = 10


class JournalError(VmferryError):
    """The journal cannot be written or read (a full disk, for one)."""

    exit_status = 5


@dataclass(frozen=True, slots=True)
class StepRow:
    """One durable step; `at` is seconds since the epoch."""

    step: Step
    at: float
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One move. `parties` holds what is needed to find both sides again."""

    id: str
    vm: str
    started_at: float
    policy: str
    limits: dict[str, Any]
    parties: dict[str, Any]
    outcome: dict[str, Any] | None
    steps: tuple[StepRow, ...]

    @property
    def last_step(self) -> Step:
        return self.steps[-1].step if self.steps else Step.BEGUN

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do or to undo."""
        return self.outcome is not None and self.outcome.get("status") != "needs-recovery"


class Journal:
    """An open journal. Use it as a context manager, from one thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    @classmethod
    def open(cls, path: Path | None = None) -> Journal:
        """Open or make the journal. Raises JournalError."""
        path = path or journal_file()
        connection = None
        try:
            connection = sqlite3.connect(path, timeout=_PATIENCE_SECONDS, isolation_level=None)
            path.chmod(0o600)
            _use_wal(connection)
            # In WAL mode only FULL has a commit on disk when it returns.
            connection.execute("PRAGMA synchronous = FULL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            if connection is not None:
                connection.close()
            raise JournalError(f"cannot open the journal {path}: {error}") from None
        if version > 1:
            connection.close()
            raise JournalError(f"the journal {path} was written by a later vmferry")
        return cls(connection, path)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def begin(
        self, vm: str, policy: str, limits: Mapping[str, Any], parties: Mapping[str, Any]
    ) -> str:
        """Record a new run, durably, and return its id. Raises JournalError."""
        with self._writing():
            cursor = self._connection.execute(
                "INSERT INTO runs (vm, started_at, policy, limits, parties) VALUES (?, ?, ?, ?, ?)",
                (vm, time.time(), policy, json.dumps(limits), json.dumps(parties)),
            )
            run = str(cursor.lastrowid)
            self._insert_step(run, Step.BEGUN, {})
        return run

    def record(self, run: str, step: Step, detail: Mapping[str, Any] | None = None) -> None:
        """Record a step; on disk when this returns. Raises JournalError."""
        with self._writing():
            self._insert_step(run, step, detail or {})

    def set_parties(self, run: str, parties: Mapping[str, Any]) -> None:
        """Replace what is needed to find both sides again, durably. Raises JournalError."""
        with self._writing():
            self._connection.execute(
                "UPDATE runs SET parties = ? WHERE id = ?", (json.dumps(parties), run)
            )

    def append(self, run: str, lines: Iterable[str]) -> None:
        """Keep trace lines. Raises JournalError."""
        with self._writing():
            self._connection.executemany(
                "INSERT INTO lines (run, line) VALUES (?, ?)", ((run, line) for line in lines)
            )

    def finish(self, run: str, outcome: Mapping[str, Any]) -> None:
        """Record how the run ended. Raises JournalError."""
        with self._writing():
            self._connection.execute(
                "UPDATE runs SET outcome = ? WHERE id = ?", (json.dumps(outcome), run)
            )

    def runs(self, vm: str | None = None) -> list[Run]:
        """All runs, oldest first, or those of one VM."""
        where, values = ("WHERE vm = ?", (vm,)) if vm is not None else ("", ())
        return [self._run(row) for row in self._rows(where, values)]

    def run(self, run: str) -> Run:
        """One run by its id, or the newest for `last`. Raises UsageError where there is none."""
        if run == "last":
            rows = self._rows("", ())[-1:]
        else:
            rows = self._rows("WHERE id = ?", (run,)) if run.isdecimal() else []
        if not rows:
            ids = ", ".join(str(row[0]) for row in self._rows("", ())[-5:])
            raise UsageError(
                f"no run '{run}'" if run != "last" else "no run yet",
                hint=f"the newest are {ids}; `vmferry runs` lists all" if ids else None,
            )
        return self._run(rows[0])

    def unsettled(self) -> list[Run]:
        """The runs that were left half-way, oldest first."""
        return [run for run in self.runs() if not run.settled]

    def lines(self, run: str) -> Iterator[str]:
        """The recorded trace of a run, line by line."""
        with self._reading():
            rows = self._connection.execute(
                "SELECT line FROM lines WHERE run = ? ORDER BY rowid", (run,)
            )
            for (line,) in rows:
                yield str(line)

    def derived(self, run: str, version: str) -> str | None:
        """What `keep_derived` kept of a run in this version; None where there is nothing."""
        # Without the table, and whatever else is the matter: it can be derived again.
        with contextlib.suppress(sqlite3.Error):
            row = self._connection.execute(
                "SELECT value FROM derived WHERE run = ? AND version = ?", (run, version)
            ).fetchone()
            return None if row is None else str(row[0])
        return None

    def keep_derived(self, run: str, version: str, value: str) -> None:
        """Keep what was derived from a run's lines, where that can be done at once.

        It takes the place of another version's. Nothing is lost where it cannot be kept.
        """
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            with contextlib.suppress(JournalError), self._writing():
                self._connection.execute(_DERIVED)
                self._connection.execute(
                    "INSERT OR REPLACE INTO derived (run, version, value) VALUES (?, ?, ?)",
                    (run, version, value),
                )
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {1000 * _PATIENCE_SECONDS}")

    def _insert_step(self, run: str, step: Step, detail: Mapping[str, Any]) -> None:
        self._connection.execute(
            "INSERT INTO steps (run, at, step, detail) VALUES (?, ?, ?, ?)",
            (run, time.time(), step.value, json.dumps(detail)),
        )

    def _rows(self, where: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
        with self._reading():
            query = (
                "SELECT id, vm, started_at, policy, limits, parties, outcome "
                f"FROM runs {where} ORDER BY id"
            )
            return self._connection.execute(query, values).fetchall()

    def _run(self, row: tuple[Any, ...]) -> Run:
        number, vm, started_at, policy, limits, parties, outcome = row
        with self._reading():
            steps = self._connection.execute(
                "SELECT step, at, detail FROM steps WHERE run = ? ORDER BY rowid", (number,)
            ).fetchall()
        try:
            return Run(
                id=str(number),
                vm=vm,
                started_at=started_at,
                policy=policy,
                limits=json.loads(limits),
                parties=json.loads(parties),
                outcome=None if outcome is None else json.loads(outcome),
                steps=tuple(
                    StepRow(Step(step), at, json.loads(detail)) for step, at, detail in steps
                ),
            )
        except ValueError as error:
            raise JournalError(
                f"run {number} in the journal {self.path} is damaged: {error}"
            ) from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            full = _kind(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
            raise JournalError(
                f"cannot write the journal {self.path}: {error}",
                hint="free some disk space" if full else None,
            ) from None

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(f"cannot read the journal {self.path}: {error}") from None


def _use_wal(connection: sqlite3.Connection) -> None:
    """Where two open a new journal at once, the connection's time-out does not hold for this."""
    for tries_left in reversed(range(200)):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.Error as error:
            if _kind(error) != sqlite3.SQLITE_BUSY or not tries_left:
                raise
            time.sleep(0.05)


def _kind(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for errors of the Python module itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
