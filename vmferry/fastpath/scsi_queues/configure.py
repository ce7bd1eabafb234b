"""Multi-queue virtio-scsi, and virtio-blk: a queue for each vCPU, and threads that serve them.

Many queues alone spread the guest's side only: QEMU serves all queues of a device in one thread,
unless it can spread them over several (iothread-vq-mapping: virtio-blk from 9.0, virtio-scsi from
10.0).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from vmferry.fastpath.configured import Configured, Reason
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.finding import Feature
from vmferry.vm.spec import Disk, Scsi, VmSpec

# Each is a thread that competes with the vCPUs for the host's CPUs.
MOST_IOTHREADS = 4
Device = TypeVar("Device", Disk, Scsi)
MODELS = {"virtio": "virtio-blk-pci", "scsi": "virtio-scsi-pci"}
_SPREAD_FROM = {"virtio-blk-pci": "QEMU 9.0", "virtio-scsi-pci": "QEMU 10.0"}


def configure(
    spec: VmSpec, host: HostFacts, spreading: Collection[str] = frozenset()
) -> Configured:
    """`spec` with queues and iothreads chosen for its disks. `spreading`: models whose queues this
    QEMU can spread over several iothreads."""
    chosen = _Choices(spec, host, spreading)
    scsi = spec.scsi
    if any(disk.interface == "scsi" for disk in spec.disk):
        scsi = chosen.device(scsi or Scsi(), "scsi", "the virtio-scsi controller")
    disks = tuple(
        chosen.device(disk, "virtio", f"disk {index}") if disk.interface == "virtio" else disk
        for index, disk in enumerate(spec.disk)
    )
    return Configured(spec.model_copy(update={"scsi": scsi, "disk": disks}), tuple(chosen.reasons))


class _Choices:
    """Goes from device to device; those without a share of all iothreads take turns."""

    def __init__(self, spec: VmSpec, host: HostFacts, spreading: Collection[str]) -> None:
        self._vcpus = spec.cpu.count
        self._cpus = host.cpus
        self._spreading = spreading
        self._turn = 0
        self.reasons: list[Reason] = []

    def device(self, device: Device, interface: str, name: str) -> Device:
        model = MODELS[interface]
        spreads = model in self._spreading
        queues = self._queues(device.queues, name)
        iothreads = device.iothreads
        if iothreads is None:
            iothreads = self._iothreads(queues, spreads=spreads)
            self._say(self._why(name, model, iothreads, queues, spreads=spreads))
        elif len(iothreads) > 1 and not spreads:
            self._say(
                f"{name} shall have {len(iothreads)} iothreads: this QEMU cannot spread the queues "
                f"of a {model} ({_SPREAD_FROM[model]} can) and will not start",
                warning=True,
            )
        elif queues > 1 and not iothreads:
            self._say(f"{name} has {queues} queues, and QEMU's main loop serves all", warning=True)
        return device.model_copy(update={"queues": queues, "iothreads": iothreads})

    def _queues(self, queues: int | None, name: str) -> int:
        if queues is None:
            each = "one queue" if self._vcpus == 1 else f"{self._vcpus} queues, one for each vCPU"
            self._say(f"{name} has {each}")
            return self._vcpus
        if queues > self._vcpus:
            self._say(
                f"{name} has {queues} queues for {self._vcpus} vCPUs; Linux uses no more queues "
                "than vCPUs",
                warning=True,
            )
        return queues

    def _iothreads(self, queues: int, *, spreads: bool) -> tuple[int, ...]:
        if self._cpus == 1:
            return ()
        most = min(MOST_IOTHREADS, self._cpus)
        if spreads:
            return tuple(range(min(queues, most)))
        turn = self._turn % most
        self._turn += 1
        return (turn,)

    def _why(
        self, name: str, model: str, iothreads: tuple[int, ...], queues: int, *, spreads: bool
    ) -> str:
        if not iothreads:
            return f"{name} is served by QEMU's main loop: the host has one CPU, for all threads"
        if len(iothreads) > 1:
            return f"{name} is served by {len(iothreads)} iothreads, which share its queues"
        if queues == 1 or spreads:
            return f"{name} is served by an iothread, beside QEMU's main loop"
        return (
            f"{name} is served by one iothread for all its queues: this QEMU cannot spread them "
            f"over several ({_SPREAD_FROM[model]} can)"
        )

    def _say(self, text: str, *, warning: bool = False) -> None:
        self.reasons.append(Reason(Feature.SCSI_QUEUES, text, warning))
