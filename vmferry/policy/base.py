"""What every policy is given and what it may answer.

The controller feeds a policy with inputs in the order of time, and calls it with `Silence` at the
`wake_at` of its last decision even when the hypervisor is mute: deadlines and refused actions are
the policy's business too. So a policy runs unchanged against a recording, the simulated
hypervisor, QEMU and libvirt. Times are seconds since migrate was issued.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vmferry.precopy.sample import Event, Sample


@dataclass(frozen=True, slots=True)
class SetDowntimeLimit:
    """QEMU's `downtime-limit`, in milliseconds."""

    downtime_limit_ms: int


@dataclass(frozen=True, slots=True)
class SetBandwidth:
    """QEMU's `max-bandwidth`, in bytes per second; 0 is unlimited."""

    bandwidth: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Cancel the migration; the VM runs on at the source."""

    why: str


Action = SetDowntimeLimit | SetBandwidth | Abandon


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What became of an action: `error` is None where the hypervisor took it."""

    t: float
    action: Action
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing came until `t`, the policy's own `wake_at`."""

    t: float


Input = Sample | Event | ActionResult | Silence


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allows. Bytes, bytes per second, milliseconds and seconds.

    `max_downtime_ms` is the promise to the user; `downtime_limit_ms` is QEMU's parameter.
    """

    max_downtime_ms: int = 300
    downtime_limit_ms: int = 300
    bandwidth: int = 0
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The actions to carry out now, in order, and when to be called at the latest."""

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None


class Policy(Protocol):
    """Steers one migration by its inputs. Holds state; does no I/O."""

    name: str

    def start(self) -> Decision:
        """The decision at t = 0, before migrate is issued."""
        ...

    def receive(self, item: Input) -> Decision:
        """The decision after one input."""
        ...
