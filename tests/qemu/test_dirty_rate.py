"""calc-dirty-rate on a real guest, against what its page writer really wrote."""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.qemu.testguest_vm import GuestVm
from vmferry.cli.main import run_command
from vmferry.errors import RefusedError, UsageError
from vmferry.host.guest_memory import non_zero_bytes
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.dirty_rate import measure_dirty_curve
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.move.measure import measure_vm
from vmferry.precopy.profile import DirtyProfile
from vmferry.units import MIB
from vmferry.vm.address import parse_vm

RAM = 262152 * 1024
PAGE = 4096


@pytest.fixture(scope="module")
def shared_guest() -> Iterator[GuestVm]:
    with tempfile.TemporaryDirectory(prefix="vf-", dir="/tmp") as folder:
        second = f"unix:{folder}/second.sock,server=on,wait=off"
        with GuestVm(Path(folder), "-qmp", second, working_set="64MiB", cold="32MiB") as vm:
            yield vm


@pytest.fixture
def guest(shared_guest: GuestVm) -> GuestVm:
    shared_guest.agent.set(working_set=64 * MIB, write_rate=16 * MIB, content="random")
    return shared_guest


@pytest.fixture
async def side(guest: GuestVm) -> AsyncIterator[QemuSide]:
    side = QemuSide(guest.folder / "second.sock", ProcessId.of(guest.process.pid), ours=False)
    await side.connect()
    yield side
    await side.close()


async def measured(guest: GuestVm, side: QemuSide, seconds: float) -> tuple[DirtyProfile, float]:
    """The profile, and how many pages a second the writer really wrote meanwhile."""
    written, start = guest.agent.status()["pages_written"], time.monotonic()
    profile = await measure_dirty_curve(side, seconds)
    written = guest.agent.status()["pages_written"] - written
    return profile, written / (time.monotonic() - start)


def uniform(seconds: float, pages: int, rate: float) -> float:
    """Bytes of `pages` pages that uniform writes hit at least once."""
    return -pages * PAGE * math.expm1(rate * seconds * math.log1p(-1 / pages))


async def test_the_curve_of_a_uniform_writer_is_found(guest: GuestVm, side: QemuSide) -> None:
    profile, rate = await measured(guest, side, 8.0)
    assert (profile.source, profile.ram_bytes, profile.page_size) == ("calc-dirty-rate", RAM, PAGE)
    points = profile.points
    assert [point.seconds for point in points] == [1.0, 2.0, 4.0]
    for point in points:
        truth = uniform(point.seconds, 64 * MIB // PAGE, rate)
        # 1 MiB is the guest's own, about; the bands are of eight cases in ten.
        assert point.low / 1.25 <= truth + 1 * MIB <= point.high * 1.25 + 1 * MIB


async def test_longer_windows_are_left_out_where_a_small_set_is_written_fast(
    guest: GuestVm, side: QemuSide
) -> None:
    guest.agent.set(working_set=8 * MIB, write_rate=64 * MIB)
    profile, _ = await measured(guest, side, 6.0)
    points = profile.points
    assert [point.seconds for point in points] == [1.0, 2.0]
    assert points[-1].low < 9 * MIB and points[-1].high > 7 * MIB


async def test_a_page_that_keeps_its_content_is_not_dirty_to_qemu(
    guest: GuestVm, side: QemuSide
) -> None:
    """The documented weakness: a migration would send these pages."""
    guest.agent.set(content="same")
    profile, rate = await measured(guest, side, 1.0)
    assert rate > 0
    assert max(point.bytes for point in profile.points) < 8 * MIB


async def test_somebody_elses_measurement_is_left_alone(side: QemuSide) -> None:
    await side.execute("calc-dirty-rate", {"calc-time": 1, "sample-pages": 600})
    with pytest.raises(RefusedError, match="somebody else measures"):
        await measure_dirty_curve(side, 1.0)
    await asyncio.sleep(1.0)
    assert (await side.execute("query-dirty-rate"))["sample-pages"] == 600


async def test_a_vm_that_stands_is_not_measured(side: QemuSide) -> None:
    await side.execute("stop")
    try:
        with pytest.raises(RefusedError, match="only while it runs"):
            await measure_dirty_curve(side, 1.0)
        assert (await side.execute("query-dirty-rate"))["status"] != "measuring"
    finally:
        await side.execute("cont")


async def test_any_qemu_is_measured_by_its_socket(guest: GuestVm) -> None:
    profile = await measure_vm(parse_vm(f"qmp:{guest.folder}/second.sock"), 1.0)
    assert [point.seconds for point in profile.points] == [1.0]
    assert 48 * MIB < profile.non_zero_bytes < RAM


def test_a_measurement_is_forecast_by_and_found_again(
    guest: GuestVm, capsys: pytest.CaptureFixture[str]
) -> None:
    vm = f"qmp:{guest.folder}/second.sock"
    status = run_command(["forecast", vm, "--measure", "--for", "2s", "--json"])
    first = capsys.readouterr()
    curve = json.loads(first.out)["given"]["curve"]
    assert status in (0, 7, 8) and curve["source"] == "calc-dirty-rate"
    assert 4 * MIB < curve["points"][0]["bytes"] < 40 * MIB
    assert "from calc-dirty-rate, measured just now in " in first.err
    assert run_command(["plan", vm, "--bandwidth", "64MiB/s"]) in (0, 7)
    again = capsys.readouterr()
    assert "SETTING" in again.out and "from calc-dirty-rate, measured " in again.err


async def test_a_socket_that_nobody_holds_is_told(own_folders: Path) -> None:
    with pytest.raises(UsageError, match="cannot be measured"):
        await measure_vm(parse_vm(f"qmp:{own_folders}/none.sock"), 1.0)


async def test_a_vm_that_does_not_exist_is_told() -> None:
    with pytest.raises(UsageError, match="no VM 'nosuch'"):
        await measure_vm(parse_vm("nosuch"))


def test_the_zero_pages_are_counted_from_outside(guest: GuestVm) -> None:
    guest.ask("stop")
    try:
        image = guest.folder / "memory"
        guest.ask("pmemsave", val=0, size=RAM, filename=str(image))
        found = non_zero_bytes(ProcessId.of(guest.process.pid), RAM)
    finally:
        guest.ask("cont")
    zero = bytes(PAGE)
    content = image.read_bytes()
    image.unlink()
    pages = sum(content[at : at + PAGE] != zero for at in range(0, RAM, PAGE))
    assert found.sampled
    # Three deviations of a sample of 8192 pages.
    assert found.bytes / RAM == pytest.approx(pages * PAGE / RAM, abs=0.017)


def test_without_a_process_all_of_the_ram_may_be_in_use() -> None:
    assert non_zero_bytes(None, RAM).bytes == RAM
    assert not non_zero_bytes(None, RAM).sampled
