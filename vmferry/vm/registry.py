"""The VMs that vmferry runs: a folder each, with its specification and its current instance.

`current` is a symbolic link to the folder of the instance that has the VM's name. Replacing the
link is the one step by which the name passes to a destination.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from vmferry.errors import UsageError, VmferryError
from vmferry.host.files import link_in_one_step, write_in_one_step
from vmferry.host.paths import vm_dir, vms_dir
from vmferry.vm.fields import check_name
from vmferry.vm.spec import VmSpec


class DamagedError(VmferryError):
    """What is recorded of a VM cannot be read."""

    exit_status = 2


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM by its name. It may have no current instance: one that is being started has none."""

    name: str

    @property
    def folder(self) -> Path:
        return vm_dir(self.name)

    def spec(self) -> VmSpec:
        """What the VM was run as: resolved, so that the next instance is the same. Raises
        DamagedError."""
        path = self.folder / "spec.json"
        try:
            return VmSpec.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DamagedError(
                f"the record of VM '{self.name}' cannot be read: {path}",
                hint=f"`vmferry stop {self.name} --force` removes what is left of it",
            ) from error

    def current(self) -> Path | None:
        """The folder of the current instance; it may have gone."""
        try:
            return (self.folder / "current").readlink()
        except OSError:
            return None

    def set_current(self, instance_folder: Path) -> None:
        """Pass the name to that instance, in one step."""
        link_in_one_step(self.folder / "current", instance_folder)

    def remove(self) -> None:
        """Forget the VM; its instances are not touched."""
        shutil.rmtree(self.folder, ignore_errors=True)


def create(spec: VmSpec) -> Vm:
    """Record a VM that is about to start, in place of a dead one of that name.

    The caller holds the VM's lock.
    """
    vm = Vm(spec.name)
    vm.remove()
    vm.folder.mkdir(mode=0o700)
    write_in_one_step(vm.folder / "spec.json", spec.model_dump_json())
    return vm


def list_vms() -> list[Vm]:
    """Every VM that is recorded, by name. What else lies in the folder is passed over."""
    found = []
    for folder in sorted(vms_dir().iterdir()):
        with contextlib.suppress(ValueError):
            if folder.is_dir():
                found.append(Vm(check_name(folder.name)))
    return found


def lookup(name: str) -> Vm:
    """The VM of that name. Raises UsageError that lists those there are."""
    try:
        vm = Vm(check_name(name))
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not vm.folder.is_dir():
        names = ", ".join(one.name for one in list_vms())
        raise UsageError(
            f"no VM '{name}'; vmferry runs: {names}" if names else f"no VM '{name}'; none runs",
            hint=None if names else "`vmferry run SPEC.toml` starts one",
        )
    return vm
