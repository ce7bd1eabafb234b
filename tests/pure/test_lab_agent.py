"""The lab's agent and its client: the real ones, over a socket in place of a virtio-serial port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.agent import Agent, ScriptFailed
from lab.errors import LabError
from lab.inside import agent as inside
from lab.inside import frames


class _Port:
    """A listening socket whose connections are served one after another, as of QEMU's port."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self.greeting = b"\0"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.sendall(self.greeting)
                connection.setblocking(False)
                inside.serve(connection.fileno())

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def ports(own_folders: Path) -> Iterator[list[_Port]]:
    made = [_Port(own_folders / f"agent-{number}.sock") for number in range(2)]
    yield made
    for port in made:
        port.close()


@pytest.fixture
def agent(ports: list[_Port]) -> Agent:
    return Agent("the machine", [port.path for port in ports])


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Scripts start in /root, where only root may be."""
    monkeypatch.setattr(inside, "_HOME", str(tmp_path))


async def test_output_errors_and_status_come_apart(agent: Agent) -> None:
    result = await agent.run("echo out; echo err >&2; exit 7")
    assert (result.stdout, result.stderr, result.status) == (b"out\n", b"err\n", 7)
    with pytest.raises(ScriptFailed, match="status 7: err"):
        result.check()


async def test_large_input_comes_back_whole(agent: Agent) -> None:
    data = bytes(range(256)) * 12000 + frames.MARK * 1000
    result = await agent.run(["cat"], stdin=data)
    assert result.check().stdout == data


def test_input_that_ends_in_the_same_breath_as_the_request_ends(ports: list[_Port]) -> None:
    session = b"8 bytes."
    request = json.dumps({"words": ["cat"], "seconds": 60}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(ports[0].path))
        client.sendall(frames.PADDING + frames.pack(frames.HELLO, session))
        parser, seen = frames.Parser(), []
        while frames.READY not in seen:
            seen += [frame.kind for frame in parser.feed(client.recv(65536))]
        client.sendall(
            frames.pack(frames.REQUEST, session, request)
            + frames.pack(frames.GO, session)
            + frames.pack(frames.INPUT_END, session)
        )
        while frames.EXIT not in seen:
            seen += [frame.kind for frame in parser.feed(client.recv(65536))]


async def test_input_that_nobody_reads_is_no_trouble(agent: Agent) -> None:
    result = await agent.run("exec <&-; sleep 0.2; echo done", stdin=bytes(10**6))
    assert result.check().text == "done"


async def test_arguments_and_interpreter(agent: Agent) -> None:
    script = "#!/usr/bin/env python3\nimport sys\nprint(sys.argv[1:])\n"
    result = await agent.run(script, arguments=["a b", "c"])
    assert result.check().text == "['a b', 'c']"


async def test_late_script_is_killed_with_what_it_started(agent: Agent, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    result = await agent.run(f"(sleep 1; touch {mark}) ; sleep 60", timeout=0.3)
    assert result.late and result.status == 137 and not result.ok
    await asyncio.sleep(1.0)
    assert not mark.exists()


async def test_background_outlives_its_script(agent: Agent, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    start = time.monotonic()
    script = f"(sleep 0.5; touch {mark}) & echo started"
    assert (await agent.run(script)).check().text == "started"
    while True:
        if mark.exists():
            break
        assert time.monotonic() < start + 30
        await asyncio.sleep(0.05)


async def test_signal_is_told_as_a_shell_does(agent: Agent) -> None:
    assert (await agent.run("kill -TERM $$")).status == 143


async def test_missing_program_is_an_answer(agent: Agent) -> None:
    result = await agent.run(["no-such-program"])
    assert result.status == 127
    assert "no-such-program" in result.complaint


async def test_terminal(agent: Agent) -> None:
    seen: list[bytes] = []
    request = {"words": ["bash", "-c", "tty; stty size"], "terminal": [33, 77], "seconds": 20}
    ended = agent.converse(request, lambda: b"", lambda data, _: seen.append(data), lambda _: None)
    assert ended.status == 0
    assert b"/dev/pts/" in b"".join(seen) and b"33 77" in b"".join(seen)


@pytest.mark.parametrize("cut", [3, 20, 40, 5000, -1])
def test_what_a_killed_client_left_half_said_is_passed_over(cut: int) -> None:
    """The agent need not see that one client went and another came."""
    session = b"12345678"
    half = frames.pack(frames.HELLO, session) + frames.pack(frames.INPUT, session, bytes(30000))
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    thread = threading.Thread(target=inside.serve, args=(theirs.fileno(),))
    thread.start()
    with ours, theirs:
        new = b"87654321"
        ours.sendall(half[:cut] + frames.PADDING + frames.pack(frames.HELLO, new))
        parser = frames.Parser()
        ours.settimeout(20)
        while frames.READY not in [
            frame.kind for frame in parser.feed(ours.recv(65536)) if frame.session == new
        ]:
            pass
        ours.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_bytes_of_an_earlier_session_in_the_port_are_passed_over(
    agent: Agent, ports: list[_Port]
) -> None:
    """A port keeps what its last client did not read."""
    old = frames.pack(frames.OUTPUT, b"12345678", b"x" * 1000)
    for port in ports:
        port.greeting = old + old[:500] + b"\0"
    assert (await agent.run(["echo", "fine"])).check().text == "fine"


async def test_one_client_more_than_ports_waits(agent: Agent) -> None:
    results = await asyncio.gather(*(agent.run("sleep 0.3; echo $PPID") for _ in range(5)))
    assert all(result.ok for result in results)


async def test_cancelled_client_has_its_script_killed(agent: Agent, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await agent.run(f"sleep 1.5; touch {mark}")
    await asyncio.sleep(1.5)
    assert not mark.exists()
    assert (await agent.run(["echo", "fine"])).check().text == "fine"


async def test_dead_machine_is_told(own_folders: Path) -> None:
    agent = Agent("the machine", [own_folders / "agent-0.sock"])
    with pytest.raises(LabError, match="agent of the machine is lost"):
        await agent.run(["true"], patience=0.5)


async def test_input_for_a_script_that_has_ended_does_not_hold_the_port(agent: Agent) -> None:
    for _ in range(3):
        result = await agent.run("exit 3", stdin=bytes(5 * 10**6))
        assert result.status == 3 and result.seconds < 5


def test_request_that_comes_in_one_piece_has_its_input_ended() -> None:
    """Else a program that reads to the end of its input would wait for ever."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    session = b"12345678"
    request = json.dumps({"words": ["cat"], "seconds": 20}).encode()
    said = [(frames.HELLO, b""), (frames.REQUEST, request), (frames.GO, b"")]
    said += [(frames.INPUT, b"all of it"), (frames.INPUT_END, b"")]
    ours.sendall(b"".join(frames.pack(kind, session, data) for kind, data in said))
    thread = threading.Thread(target=inside.serve, args=(theirs.fileno(),))
    thread.start()
    with ours, theirs:
        ours.settimeout(10)
        parser, heard = frames.Parser(), dict[bytes, bytes]()
        while frames.EXIT not in heard:
            heard |= {frame.kind: frame.data for frame in parser.feed(ours.recv(65536))}
        ours.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert heard[frames.OUTPUT] == b"all of it"
    assert json.loads(heard[frames.EXIT]) == {"status": 0, "late": False}
