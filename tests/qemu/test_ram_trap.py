"""Both sides of the TCG trap: QEMU before 9.0 loses guest writes in a migration, or not.

The size of the RAM decides (hypervisor/qemu/ram_trap.py). Bare QEMUs and bare QMP, so that nothing
of vmferry's can hide what QEMU does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.qemu.home import Home
from tests.qemu.testguest_vm import GuestVm, wait_for
from vmferry.errors import VmferryError
from vmferry.hypervisor.qemu.binary import find_binary
from vmferry.hypervisor.qemu.ram_trap import FIXED_IN

TRAPPED, ODD = "131072k", "131080k"
# Three passes hide the loss; every further one makes it likelier.
PASSES = 8
TRIES = 4

fixed = find_binary("qemu-system-x86_64").version >= FIXED_IN


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


def guest(folder: Path, memory: str, *arguments: str) -> GuestVm:
    return GuestVm(
        folder,
        *("-m", memory, "-qmp", f"unix:{folder}/attach.sock,server=on,wait=off", *arguments),
        working_set=16 * 2**20,
        write_rate=64 * 2**20,
    )


def sound_after(folder: Path, memory: str) -> bool:
    """Move a busy guest by bare QMP in PASSES passes; whether it has all its pages there.

    In the trap QEMU overlooks so much that it may be done in fewer.
    """
    place = f"unix:{folder}/incoming.sock"
    with (
        guest(folder / "source", memory) as source,
        guest(folder / "destination", memory, "-incoming", place) as destination,
    ):
        source.ask("migrate-set-parameters", **{"max-bandwidth": 48 * 2**20, "downtime-limit": 1})
        source.ask("migrate", uri=place)
        wait_for(f"{PASSES} passes", lambda: passes_of(source) >= PASSES, source)
        source.ask("migrate-set-parameters", **{"downtime-limit": 2000})
        wait_for("end of the migration", lambda: passes_of(source) == math.inf, source)
        return verified(destination)


def passes_of(vm: GuestVm) -> float:
    """How many passes its migration has begun; infinity when it is over."""
    seen = vm.ask("query-migrate")
    if seen["status"] == "completed":
        return math.inf
    assert seen["status"] in ("setup", "active", "device"), seen
    return float(seen["ram"]["dirty-sync-count"]) if "ram" in seen else 0


def verified(vm: GuestVm) -> bool:
    """Whether all pages are right; a guest that has panicked or does not answer has lost some."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and "Kernel panic" not in vm.said():
        try:
            return vm.agent.verify(timeout=5.0).ok
        except VmferryError:
            continue
    return False


def test_the_trap_is_real(home: Home) -> None:
    tries = (sound_after(folder, TRAPPED) for folder in folders(home, "trapped"))
    assert all(tries) is fixed


def test_an_odd_size_avoids_it(home: Home) -> None:
    assert sound_after(next(folders(home, "odd")), ODD)


def folders(home: Home, name: str) -> Iterator[Path]:
    for number in range(TRIES):
        folder = home.folder / f"{name}{number}"
        folder.mkdir()
        yield folder


def test_vmferry_refuses_a_trapped_vm(home: Home) -> None:
    with guest(home.folder / "here", TRAPPED) as source:
        done = home.call(
            *("migrate", f"qmp:{source.folder}/attach.sock", "--to", "tcp:127.0.0.1:9"),
            status=3,
        )
        # Nobody listens there, which is told beside it.
        assert "destination-listens: nobody listens" in done.stderr
        assert ("would lose writes of its guest" in done.stderr) is not fixed
        assert ("131072 KiB" in done.stderr) is not fixed
        assert source.ask("query-status")["status"] == "running"
        assert source.agent.verify().ok
