"""The heartbeat of a real guest, through stops, silence and a migration."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.qemu.testguest_vm import GuestVm, wait_for
from vmferry.testguest.beats import RECORD_BYTES, Decoder, unpack
from vmferry.testguest.heartbeat import HeartbeatError, HeartbeatReader, merge, report, work_rate

# A virtio-serial device has two queues of port 0, two of control, then two of each port.
_SENT_BY_PORT_1 = 5


def test_a_stop_of_500_ms_is_the_gap(own_folders: Path) -> None:
    with GuestVm(own_folders / "vm") as vm:
        reader = HeartbeatReader(vm.heartbeat, "source")
        reader.start()
        wait_for("beat", lambda: reader.count > 500, vm)
        # QMP's times are of the real-time clock, the beats' of the monotonic one.
        offset_ns = time.time_ns() - time.monotonic_ns()
        vm.ask("stop")
        stop = vm.event("STOP")
        time.sleep(0.5)
        vm.ask("cont")
        resume = vm.event("RESUME")
        so_far = reader.count
        wait_for("beat", lambda: reader.count > so_far + 500, vm)
        reader.stop()

    stopped_ms, resumed_ms = (
        stamp["seconds"] * 1e3 + stamp["microseconds"] / 1e3 - offset_ns / 1e6
        for stamp in (stop["timestamp"], resume["timestamp"])
    )
    found = report(merge(reader.beats()))
    assert found.missing == 0
    assert found.gap_ms is not None and found.gap_at_ns is not None
    assert found.gap_ms == pytest.approx(resumed_ms - stopped_ms, abs=100)
    assert found.gap_at_ns / 1e6 == pytest.approx(stopped_ms, abs=100)
    # Under TCG the guest's clock stands still meanwhile.
    assert found.guest_clock_gap_ms is not None
    assert found.guest_clock_gap_ms < 0.5 * found.gap_ms


def test_unread_beats_do_not_block_the_guest(own_folders: Path) -> None:
    with (
        GuestVm(own_folders / "vm", write_rate="8MiB/s") as vm,
        socket.socket(socket.AF_UNIX) as deaf,
    ):
        deaf.connect(str(vm.heartbeat))
        before = vm.agent.status()
        vm.guest_seconds_pass(4)
        after = vm.agent.status()
        seconds = (after["guest_ns"] - before["guest_ns"]) / 1e9
        written = (after["pages_written"] - before["pages_written"]) * 4096
        assert written / seconds > 0.8 * 8 * 1024**2

        # What comes now is old beats, a hole in the numbers, new beats; every record is whole.
        decoder, kept, size = Decoder(), b"", 0
        while len(kept) < 2000 * (RECORD_BYTES + 8):
            data = deaf.recv(65536)
            kept += decoder.feed(data, time.monotonic_ns())
            size += len(data)
        assert len(kept) // (RECORD_BYTES + 8) == size // RECORD_BYTES
        found = report(merge(unpack(kept, "source")))
        assert found.missing > 500


def test_hanging_up_costs_the_guest_no_buffer(own_folders: Path) -> None:
    # Without taking leave, about one time in thirty.
    with GuestVm(own_folders / "vm") as vm:
        for turn in range(150):
            reader = HeartbeatReader(vm.heartbeat, "source")
            reader.start()
            time.sleep(0.005 + turn / 10_000)
            reader.stop()
        [serial] = [each for each in vm.ask("x-query-virtio") if each["name"] == "virtio-serial"]
        sent = vm.ask("x-query-virtio-queue-status", path=serial["path"], queue=_SENT_BY_PORT_1)
    assert sent["used-idx"] > 100
    assert sent["last-avail-idx"] == sent["used-idx"]


def test_a_reader_outlives_its_guest(own_folders: Path) -> None:
    with GuestVm(own_folders / "vm") as vm:
        reader = HeartbeatReader(vm.heartbeat, "source")
        reader.start()
        wait_for("beat", lambda: reader.count > 100, vm)
        assert not reader.ended
        vm.process.kill()
        vm.process.wait()
        deadline = time.monotonic() + 30
        while not reader.ended and time.monotonic() < deadline:
            time.sleep(0.01)
        assert reader.ended
    assert len(reader.beats()) == reader.count > 100
    assert len(reader.beats(start=90)) == reader.count - 90
    reader.stop()
    with pytest.raises(HeartbeatError, match="no heartbeat of the source"):
        HeartbeatReader(vm.heartbeat, "source").start()


def test_beats_and_pages_go_on_at_the_destination(own_folders: Path) -> None:
    where = f"unix:{own_folders}/migration.sock"
    settings = {"working_set": "32MiB", "write_rate": "8MiB/s", "cold": "16MiB"}
    with (
        GuestVm(own_folders / "a", **settings) as source,
        GuestVm(own_folders / "b", "-incoming", where, **settings) as destination,
    ):
        readers = [
            HeartbeatReader(vm.heartbeat, side)
            for vm, side in ((source, "source"), (destination, "destination"))
        ]
        for reader in readers:
            reader.start()
        wait_for("beat", lambda: readers[0].count > 500, source)
        source.ask("migrate", uri=where)
        stop, resume = source.event("STOP"), destination.event("RESUME")
        wait_for("beat", lambda: readers[1].count > 500, destination)
        verification = destination.agent.verify()
        assert verification.ok, verification.bad[:5]
        assert verification.pages == (32 + 16) * 256
        for reader in readers:
            reader.stop()
        merged = merge(*(reader.beats() for reader in readers))
        found = report(merged)
    assert merged.sides == ("source", "destination")
    assert found.missing <= 1  # the one that was half sent when the source stopped
    assert found.gap_ms is not None
    pause = resume["timestamp"]["seconds"] - stop["timestamp"]["seconds"]
    pause_ms = (
        pause * 1e3
        + (resume["timestamp"]["microseconds"] - stop["timestamp"]["microseconds"]) / 1e3
    )
    assert found.gap_ms > pause_ms - 100
    handover = merged.take(slice(readers[0].count - 300, readers[0].count + 300))
    rate = work_rate(handover, int(handover.host_ns[0]), int(handover.host_ns[-1]))
    assert rate is not None and rate > 0
    (own_folders / "migration.sock").unlink(missing_ok=True)
