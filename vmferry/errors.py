"""Errors for the person who reads them, each with the exit status of the command that meets it."""

from __future__ import annotations

from typing import ClassVar


class VmferryError(Exception):
    """What happened, to which VM, and what to do (`hint`). Never shown with a traceback."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(VmferryError):
    """A wrong option or unit, a bad file, or a VM or file that does not exist."""

    exit_status = 2


class RefusedError(VmferryError):
    """A condition that must hold before a move does not hold; nothing was touched."""

    exit_status = 3


class MoveFailedError(VmferryError):
    """The move failed; the VM runs at the source."""

    exit_status = 5


class NeedsRecoveryError(VmferryError):
    """The VM's place is unknown, or `vmferry recover` has to settle an earlier move first."""

    exit_status = 6
