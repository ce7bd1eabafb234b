"""The sink of a rehearsal: it hangs up by itself whenever the VM might be taken, and when alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.stream_encoder import Encoder
from vmferry.hypervisor.base import DEAD
from vmferry.precopy.xray import XRayResult
from vmferry.rehearsal.sink import Sink
from vmferry.rehearsal.sink_process import SinkProcess, SinkSide
from vmferry.rehearsal.stream_end import StreamEnd

PAGE = 4096
PAGES = 64
CONTENT = bytes(range(256)) * 16
PATIENCE = 20.0


def begun() -> Encoder:
    encoder = Encoder()
    encoder.start()
    encoder.blocks((b"pc.ram", PAGES * PAGE))
    encoder.close_section()
    return encoder


def one_pass(encoder: Encoder, pages: int = PAGES) -> None:
    """All pages, every second one zero."""
    encoder.part()
    for page in range(pages):
        if page % 2:
            encoder.zero(b"pc.ram", page * PAGE)
        else:
            encoder.ordinary(b"pc.ram", page * PAGE, CONTENT)
    encoder.close_section()


class Running:
    """A sink at work in a thread, and QEMU's end of its channels."""

    def __init__(self, channels: int = 1) -> None:
        pairs = [socket.socketpair() for _ in range(channels)]
        self.qemu = [ours for ours, _ in pairs]
        for one in self.qemu:
            one.settimeout(PATIENCE)
        self.sink = Sink([its for _, its in pairs])
        self.ends: list[StreamEnd] = []
        self._thread = threading.Thread(target=lambda: self.ends.append(self.sink.run()))
        self._thread.start()

    def end(self) -> StreamEnd:
        self._thread.join(PATIENCE)
        return self.ends[0]

    def close(self) -> None:
        self.sink.hang_up()
        self._thread.join(PATIENCE)
        for one in self.qemu:
            one.close()


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.close()


def hung_up(channel: socket.socket) -> bool:
    """Whether the other end has closed both ways; waits for it."""
    try:
        if channel.recv(1) != b"":
            return False
    except ConnectionResetError:
        pass
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        channel.sendall(b"more")
    return True


def test_it_hangs_up_at_the_first_byte_of_stage_3(running: Running) -> None:
    encoder = begun()
    one_pass(encoder)
    running.qemu[0].sendall(encoder.out)
    encoder.out = bytearray()
    encoder.end()
    running.qemu[0].sendall(encoder.out)
    assert hung_up(running.qemu[0])
    end = running.end()
    assert (end.how, end.zero_pages, end.ordinary_pages) == ("switchover", PAGES // 2, PAGES // 2)


def test_it_hangs_up_at_what_it_does_not_know(running: Running) -> None:
    running.qemu[0].sendall(begun().out + b"\x02\0\0\0\7")
    assert hung_up(running.qemu[0])
    end = running.end()
    assert end.how == "unreadable"
    assert "not under way" in end.why


def test_it_says_nothing_while_the_stream_goes_on(running: Running) -> None:
    encoder = begun()
    for _ in range(5):
        one_pass(encoder)
    running.qemu[0].sendall(encoder.out)
    running.qemu[0].settimeout(0.2)
    with pytest.raises(TimeoutError):
        running.qemu[0].recv(1)
    running.qemu[0].close()
    assert running.end().how == "closed"


def test_its_x_ray_has_a_row_a_pass(running: Running) -> None:
    encoder = begun()
    one_pass(encoder)
    one_pass(encoder, 10)
    running.qemu[0].sendall(encoder.out)
    running.sink.mark(PAGES)
    running.qemu[0].close()
    xray = running.end().xray
    assert xray is not None
    rows = XRayResult.from_json(xray).rows
    assert [row.zero + row.ordinary for row in rows] == [PAGES, 10]


def test_further_channels_are_read_and_not_looked_into() -> None:
    running = Running(channels=3)
    encoder = begun()
    one_pass(encoder)
    running.qemu[1].sendall(b"x" * 1000)
    running.qemu[2].sendall(b"y" * 500)
    running.qemu[0].sendall(encoder.out)
    encoder.out = bytearray()
    encoder.end()
    running.qemu[0].sendall(encoder.out)
    assert all(hung_up(one) for one in running.qemu)
    assert running.end().bytes > 0
    running.close()


async def test_a_process_of_its_own_tells_its_end() -> None:
    sink, channel = await SinkProcess.start()
    with channel:
        encoder = begun()
        one_pass(encoder)
        channel.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(channel, bytes(encoder.out))
    end = await sink.finish()
    assert end is not None
    # Which of the two it hears first is chance.
    assert end.how in ("closed", "told")
    assert (end.zero_pages, end.ordinary_pages) == (PAGES // 2, PAGES // 2)
    assert await sink.look() == DEAD
    assert await sink.said() == ""


async def test_it_hangs_up_when_it_is_told_to_end() -> None:
    sink, channel = await SinkProcess.start()
    await sink.destroy()
    assert hung_up(channel)
    channel.close()
    assert (await sink.finish()) is not None


async def test_a_killed_sink_is_a_closed_connection() -> None:
    sink, channel = await SinkProcess.start()
    # As `recover` does it, which did not start it.
    await SinkSide(sink.process).destroy()
    assert hung_up(channel)
    channel.close()
    assert await sink.finish() is None


def test_it_hangs_up_when_its_owner_is_killed() -> None:
    ours, its = socket.socketpair()
    ours.settimeout(PATIENCE)
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(its.fileno())],
        pass_fds=[its.fileno()],
        stdout=subprocess.PIPE,
        text=True,
    )
    its.close()
    assert owner.stdout is not None
    sink = int(owner.stdout.readline())
    ours.sendall(begun().out)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert hung_up(ours)
    ours.close()
    owner.stdout.close()
    with pytest.raises(ProcessLookupError):
        for _ in range(1000):
            os.kill(sink, 0)
            threading.Event().wait(0.01)


_OWNER = """
import json, subprocess, sys, time
fd = int(sys.argv[1])
sink = subprocess.Popen([sys.executable, "-m", "vmferry.rehearsal.sink", str(fd)], pass_fds=[fd],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
assert json.loads(sink.stdout.readline()) == {"ready": True}
import os
os.close(fd)
print(sink.pid, flush=True)
time.sleep(60)
"""


def test_it_hangs_up_when_its_owner_dies_in_the_middle_of_a_word() -> None:
    ours, its = socket.socketpair()
    with ours:
        ours.settimeout(PATIENCE)
        with its:
            sink = subprocess.Popen(
                [sys.executable, "-m", "vmferry.rehearsal.sink", str(its.fileno())],
                pass_fds=[its.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        try:
            sink.communicate(b'{"sent_pa', timeout=PATIENCE)
            assert hung_up(ours)
        finally:
            sink.kill()
            sink.wait()


def test_a_stream_end_is_what_was_told() -> None:
    end = StreamEnd("unreadable", "why", 1, 2, 3, 4, None, ("a problem",))
    assert StreamEnd.from_json(json.loads(json.dumps(end.to_json()))) == end
