"""What happened, durably: runs, their steps, their recorded trace and their outcome (SQLite)."""

from vmferry.journal.journal import Journal, JournalError, Run, StepRow

__all__ = ["Journal", "JournalError", "Run", "StepRow"]
