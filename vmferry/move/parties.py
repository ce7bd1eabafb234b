"""Both sides of one move: written to the journal when it begins, found again by whoever settles it.

Also what is done to them once the VM has its place: the name passes, settings are put back, dead
instances are removed. All of it may be done twice, since `recover` cannot know how far it came.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vmferry.handover import Settled, Step
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.command_line import late_commands
from vmferry.hypervisor.qemu.instance import Instance, InstanceFiles, load_instance
from vmferry.hypervisor.qemu.networks import release_bridges
from vmferry.hypervisor.qemu.qmp import EventHandler, QmpError
from vmferry.hypervisor.qemu.settings import Settings, restore_settings
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.journal import Journal, StepRow
from vmferry.vm.registry import Vm


@dataclass(frozen=True, slots=True)
class Party:
    """One side. `instance` is the folder of one that vmferry started, `socket` the QMP socket of
    any other; neither means that it cannot be seen. `settings` are what to put back."""

    instance: str | None = None
    socket: str | None = None
    process: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def ours(self) -> bool:
        return self.instance is not None

    @property
    def blind(self) -> bool:
        return self.instance is None and self.socket is None

    def loaded(self) -> Instance | None:
        """The instance, where its record is still there."""
        return load_instance(Path(self.instance)) if self.instance is not None else None

    def side(self, *, recovering: bool, on_event: EventHandler = lambda message: None) -> QemuSide:
        """The side, not yet connected. Not for one that cannot be seen."""
        if self.instance is not None:
            files = InstanceFiles(Path(self.instance))
            path = files.recovery_socket if recovering else files.control_socket
        else:
            path = Path(self.socket or "")
        process = ProcessId.from_json(dict(self.process)) if self.process is not None else None
        return QemuSide(path, process, ours=self.ours, on_event=on_event)


@dataclass(frozen=True, slots=True)
class Parties:
    """Both sides, the disks that they share, and whether the VM ran when the move began."""

    vm: str
    uri: str
    source: Party
    destination: Party
    ran_before: bool = True
    disks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Parties:
        values = dict(data)
        values["source"] = Party(**values["source"])
        values["destination"] = Party(**values["destination"])
        values["disks"] = tuple(values["disks"])
        return cls(**values)


class RunLedger:
    """The durable steps of one run, with what must be known together with each.

    `steps` are those that an earlier owner has recorded. The journal is not read: it may be out of
    order by the time that the VM stands still. `ran` is whether the VM ran when it was stopped for
    the switchover; it goes to disk with the intent.
    """

    def __init__(
        self, journal: Journal, run: str, parties: Parties, steps: tuple[StepRow, ...] = ()
    ) -> None:
        self._journal = journal
        self._run = run
        self._parties = parties
        self._last = steps[-1].step if steps else Step.BEGUN
        self.ran: bool = next(
            (row.detail["ran"] for row in steps if "ran" in row.detail), parties.ran_before
        )
        self._disks: Mapping[str, Any] | None = next(
            (row.detail.get("disks") for row in steps if row.step is Step.SOURCE_DEAD), None
        )

    def last(self) -> Step:
        return self._last

    def record(self, step: Step) -> None:
        detail: dict[str, Any] = {}
        if step is Step.INTENT:
            detail = {"ran": self.ran}
        if step is Step.SOURCE_DEAD:
            self._disks = disk_states(self._parties.disks)
            detail = {"disks": self._disks}
        self._journal.record(self._run, step, detail)
        self._last = step
        if step is Step.DONE:
            pass_name(self._parties)

    def disks_unchanged(self) -> bool:
        """Whether no disk was written since the source was declared dead."""
        if self._disks is None:
            return True
        return self._disks == disk_states(self._parties.disks) and None not in self._disks.values()


def disk_states(paths: tuple[str, ...]) -> dict[str, Any]:
    """Size and time of the last write of each image; None where that cannot be told."""
    states: dict[str, Any] = {}
    for name in paths:
        states[name] = None
        with contextlib.suppress(OSError):
            status = Path(name).stat()
            if Path(name).is_file():
                states[name] = [status.st_size, status.st_mtime_ns]
    return states


async def writable_disks(side: QemuSide) -> tuple[str, ...]:
    """The image files that this QEMU may write. Raises QmpError."""
    rows = await side.execute("query-block")
    inserted = [row["inserted"] for row in rows if row.get("inserted")]
    return tuple(
        dict.fromkeys(
            one["image"]["filename"] if "image" in one else one["file"]
            for one in inserted
            if not one.get("ro")
        )
    )


def pass_name(parties: Parties) -> str | None:
    """Give the VM's name to the destination, in one step, or forget it where it has left us.

    Returns what is in the way (a full disk), in words; `recover` tries again.
    """
    if not parties.source.ours:
        return None
    vm = Vm(parties.vm)
    current, sides = vm.current(), (parties.source.instance, parties.destination.instance)
    if current is not None and current.resolve() not in [
        Path(one).resolve() for one in sides if one
    ]:
        return None  # somebody has started it anew since
    try:
        if parties.destination.instance is not None:
            vm.set_current(Path(parties.destination.instance))
        else:
            vm.remove()
    except OSError as error:
        return f"the name '{parties.vm}' could not be passed on: {error.strerror}"
    return None


async def tidy(
    parties: Parties, settled: Settled, source: QemuSide, destination: QemuSide | None
) -> tuple[Settled, list[str]]:
    """Leave nothing behind; returns what could not be tidied, in words.

    Where that matters (the name, settings), the end is not final: `recover` does it.
    """
    problems: list[str] = []
    restored = True
    if settled.place == "destination":
        problem = pass_name(parties)
        restored = await _tidy_destination(parties, destination, problems) and problem is None
        problems += [problem] if problem is not None else []
        _remove_dead(parties.source)
    elif settled.place == "source":
        restored = await _restore(source, parties.source, problems)
        _remove_dead(parties.destination)
    elif settled.place == "nowhere":
        _remove_dead(parties.destination)
    return replace(settled, final=settled.final and restored), problems


async def _tidy_destination(
    parties: Parties, destination: QemuSide | None, problems: list[str]
) -> bool:
    if destination is None:
        return True
    restored = await _restore(destination, parties.destination, problems)
    instance = parties.destination.loaded()
    for command, arguments in late_commands(instance.spec) if instance is not None else ():
        try:
            await destination.execute(command, arguments)
        except QmpError as error:
            problems.append(f"{command}: {error}")
    return restored


async def _restore(side: QemuSide, party: Party, problems: list[str]) -> bool:
    """Whether the side's migration settings are as before."""
    if party.settings is None:
        return True
    try:
        await restore_settings(side, Settings.from_json(party.settings))
    except QmpError as error:
        problems.append(f"the migration settings could not be put back: {error}")
        return False
    return True


def _remove_dead(party: Party) -> None:
    instance = party.loaded()
    if instance is not None and not instance.alive():
        instance.remove()
        # It may have been the last on this host: `stop` is not told of a VM that has left.
        release_bridges(instance.spec)
