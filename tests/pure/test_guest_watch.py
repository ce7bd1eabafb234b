"""Following a guest's heartbeats through a move, from sockets that send them as a guest does."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vmferry.hypervisor.qemu.instance import InstanceFiles
from vmferry.move import guest
from vmferry.move.guest import GuestWatch, Work
from vmferry.testguest.beats import MAGIC


def record(sequence: int, guest_ns: int, work: int) -> bytes:
    """As guest/heartbeat.c writes it: all its 32-bit words together give all ones."""
    rest = struct.pack("<QQQ", sequence, guest_ns, work)
    check = 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", MAGIC + rest):
        check ^= word
    return MAGIC + struct.pack("<I", check) + rest


class Heart:
    """One side's heartbeat socket."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.files = InstanceFiles(folder)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self.files.heartbeat_socket))
        self._socket.listen()
        self._client: socket.socket | None = None

    def take_leave(self) -> None:
        """Wait until the client, which has heard nothing, hangs up; hang up too."""
        client, _ = self._socket.accept()
        assert client.recv(1) == b""
        client.close()

    def hung_up(self) -> bool:
        assert self._client is not None
        self._client.setblocking(False)
        try:
            return self._client.recv(1) == b""
        except BlockingIOError:
            return False

    def beat(self, sequences: Sequence[int]) -> None:
        """Send these beats; of each page written a beat tells ten."""
        if self._client is None:
            self._client, _ = self._socket.accept()
        for number in sequences:
            self._client.sendall(record(number, number * 2_000_000, number * 10))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._socket.close()


class Watched:
    """A watch on two hearts, and the lines that it wrote."""

    def __init__(self, runtime: Path) -> None:
        self.lines: list[Any] = []
        self.watch = GuestWatch(self.lines.append)
        self.source, self.destination = Heart(runtime / "a"), Heart(runtime / "b")
        self.watch.follow("source", self.source.files)
        self.watch.follow("destination", self.destination.files)

    def beat(self, side: str, sequences: Sequence[int]) -> None:
        """Send beats and wait until they have come."""
        reader = self.watch._readers[side]
        until = reader.count + len(sequences)
        (self.source if side == "source" else self.destination).beat(sequences)
        while reader.count < until:
            pass


@pytest.fixture
def watched(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(guest, "BASELINE_SECONDS", 0.0)
    monkeypatch.setattr(guest, "_LINE_SECONDS", 0.0)
    one = Watched(own_folders)
    yield one
    one.watch.stop()
    one.source.close()
    one.destination.close()


async def test_the_beats_of_both_sides_are_one_series(watched: Watched) -> None:
    watch = watched.watch
    watched.beat("source", range(50))
    watch.begin()
    watched.beat("source", range(50, 80))
    watched.beat("destination", range(80, 120))
    await watch.finish("destination")
    told = watch.record()
    assert told is not None
    # One from before the move, so that no gap is cut.
    assert (told.beats, told.missing_beats) == (71, 0)
    assert told.guest_clock_gap_ms == 0.0
    assert (told.verified, told.lost_pages) == (None, None)


async def test_beats_that_are_missing_are_counted(watched: Watched) -> None:
    watch = watched.watch
    watched.beat("source", range(10))
    watch.begin()
    watched.beat("source", range(10, 20))
    watched.beat("destination", [*range(23, 30), *range(31, 40)])
    await watch.finish("destination")
    told = watch.record()
    assert told is not None and told.missing_beats == 4


async def test_the_lines_tell_each_beat_once_and_each_side_by_name(watched: Watched) -> None:
    watch = watched.watch
    watched.beat("source", range(10))
    watch.begin()
    for first in (10, 20, 30):
        watched.beat("source", range(first, first + 10))
        watch.poll()
    watch.poll()  # with nothing new
    watched.beat("destination", range(40, 60))
    watch.poll()
    assert [(line["guest"]["side"], line["guest"]["beats"]) for line in watched.lines] == [
        *[("source", 10)] * 3,
        ("destination", 19),
    ]
    assert [line["guest"]["work"] for line in watched.lines] == [190, 290, 390, 590]
    times = [line["t"] for line in watched.lines]
    assert times == sorted(times) and times[0] >= 0


async def test_a_mute_source_is_listened_to_anew(watched: Watched) -> None:
    watch = watched.watch
    looking = asyncio.create_task(watch.baseline())
    await asyncio.to_thread(watched.source.take_leave)
    await looking
    watched.beat("source", range(10))
    watch.begin()
    watched.beat("source", range(10, 20))
    await watch.finish("source")
    told = watch.record()
    assert told is not None and (told.beats, told.missing_beats) == (11, 0)


async def test_a_source_that_beats_is_left_connected(watched: Watched) -> None:
    watched.beat("source", range(10))
    await watched.watch.baseline()
    assert not watched.source.hung_up()


async def test_nothing_is_told_before_the_move_begins(watched: Watched) -> None:
    watched.beat("source", range(10))
    watched.watch.poll()
    assert watched.lines == []
    assert watched.watch.work() == Work()


async def test_a_guest_without_a_heart_is_moved_all_the_same(own_folders: Path) -> None:
    lines: list[Any] = []
    watch = GuestWatch(lines.append)
    watch.follow("source", InstanceFiles(own_folders))
    assert len(watch.problems) == 1 and "no heartbeat of the source" in watch.problems[0]
    await watch.baseline()
    watch.begin()
    watch.poll()
    await watch.finish("source")
    watch.stop()
    assert lines == [] and watch.record() is None and watch.work() == Work()


async def test_pages_that_cannot_be_verified_are_a_problem_in_words(own_folders: Path) -> None:
    watch = GuestWatch(lambda line: None)
    await watch.verify("source", runs=True)
    watch.follow("source", InstanceFiles(own_folders))
    await watch.verify("source", runs=False)
    await watch.verify("source", runs=True)
    await watch.verify("nowhere", runs=True)
    assert [problem for problem in watch.problems if "pages" in problem] == [
        "its pages were not verified: only a test guest can do that",
        "its pages were not verified: it is paused",
        watch.problems[-1],
    ]
    assert "could not be verified" in watch.problems[-1]


def test_loss_is_of_the_work_before() -> None:
    assert Work(200.0, 150.0, 190.0).loss_percent == 25.0
    assert Work(200.0, None, 190.0).loss_percent is None
    assert Work(0.0, 10.0, 10.0).loss_percent is None
    assert Work().loss_percent is None
