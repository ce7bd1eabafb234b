"""What the controller and the handover need of a hypervisor.

Two protocols: a `Migration` is one move under way (inputs out, actions in); a `Side` is one
instance of the VM, source or destination, and what can be done to it when the VM changes hands.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from vmferry.policy.base import Action, ActionResult, Silence
from vmferry.precopy.sample import Event, Sample


class Process(enum.Enum):
    """What is known of an instance's process."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SideView:
    """What one look at one side told.

    `runstate` is QEMU's RunState and `migration` its MigrationStatus; both are empty where the
    side did not answer. `sent` is what it has sent so far, in bytes: a sign of life.
    """

    process: Process
    runstate: str = ""
    migration: str = ""
    sent: int = 0

    @property
    def answers(self) -> bool:
        return self.runstate != ""

    @property
    def dead(self) -> bool:
        return self.process is Process.DEAD

    @property
    def running(self) -> bool:
        return self.runstate == "running"

    @property
    def loaded(self) -> bool:
        """As a destination: it has all of the VM and waits for `cont`."""
        return self.migration == "completed" and self.runstate != "inmigrate"


DEAD = SideView(Process.DEAD)


class Side(Protocol):
    """One instance of a VM. Only `look` never raises; the rest raise SideError."""

    async def look(self) -> SideView:
        """What state it is in now. A dead or silent side is an answer."""
        ...

    async def proceed(self) -> None:
        """Let the source go on from `pre-switchover` (QMP migrate-continue)."""
        ...

    async def cancel(self) -> None:
        """Ask the source to give the migration up (QMP migrate_cancel)."""
        ...

    async def resume(self) -> None:
        """Start the vCPUs and return when they run (QMP cont, then RESUME or a look)."""
        ...

    async def destroy(self) -> None:
        """End the process and return when it is gone."""
        ...


class SideError(Exception):
    """A side refused or did not answer; the message is the hypervisor's own where there is one."""


class Migration(Protocol):
    """One migration, from `migrate` to the moment before the VM changes hands.

    Times are seconds since `start` returned its first input, by a clock that may be virtual.
    """

    def now(self) -> float:
        """Seconds since migrate was issued; 0 before."""
        ...

    async def start(self) -> None:
        """Issue migrate. Raises SideError where the hypervisor refuses."""
        ...

    async def receive(self, until: float | None) -> Sample | Event | Silence:
        """The next sample or event, or Silence at time `until` where none came before."""
        ...

    async def perform(self, action: Action) -> ActionResult:
        """Carry an action out. A refusal is a result, not an exception."""
        ...
