"""A hypervisor in virtual time, page by page: QEMU's rules without QEMU. No I/O, no clock."""

from vmferry.hypervisor.simulated.hypervisor import SimulatedMove
from vmferry.hypervisor.simulated.machine import Guest, Machine
from vmferry.hypervisor.simulated.precopy import Precopy, Sync

__all__ = ["Guest", "Machine", "Precopy", "SimulatedMove", "Sync"]
