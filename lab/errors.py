"""What can go wrong with the lab itself, for the person who reads it."""

from __future__ import annotations

from typing import ClassVar

from vmferry.errors import VmferryError

# As of ssh: a script's own status never looks like the lab's.
LAB_FAILED = 255


class LabError(VmferryError):
    """The lab could not be built, started or reached; the state it is in now is in the words."""

    exit_status: ClassVar[int] = LAB_FAILED
