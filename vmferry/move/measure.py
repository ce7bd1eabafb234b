"""Measures the dirty curve of a VM by its name, where no rehearsal or move has measured it."""

from __future__ import annotations

from vmferry.errors import RefusedError, UsageError
from vmferry.host.sockets import peer_of
from vmferry.hypervisor.qemu.dirty_rate import MEASURE_SECONDS, measure_dirty_curve
from vmferry.hypervisor.qemu.lifecycle import current_instance
from vmferry.hypervisor.qemu.qmp import QmpError, QmpGone
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.precopy.profile import DirtyProfile
from vmferry.vm.address import QmpAddress, VmAddress
from vmferry.vm.registry import lookup


async def measure_vm(address: VmAddress, seconds: float = MEASURE_SECONDS) -> DirtyProfile:
    """The curve by calc-dirty-rate. Raises UsageError for a VM that does not run, RefusedError."""
    side = _side(address)
    try:
        return await measure_dirty_curve(side, seconds)
    except QmpError as error:
        kind = UsageError if isinstance(error, QmpGone) else RefusedError
        raise kind(f"the dirty curve of '{address.key}' cannot be measured: {error}") from None
    finally:
        await side.close()


def _side(address: VmAddress) -> QemuSide:
    """The VM, by a socket that no guardian holds."""
    if isinstance(address, QmpAddress):
        return QemuSide(address.path, peer_of(address.path), ours=False)
    instance = current_instance(lookup(address.name))
    if instance is None or not instance.alive():
        raise UsageError(
            f"VM '{address.name}' does not run", hint=f"`vmferry status {address.name}` tells more"
        )
    return QemuSide(instance.files.observer_socket, instance.process, ours=True)
