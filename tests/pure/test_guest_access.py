"""Ways into a guest: each gives facts, or a reason, within its time limit."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.fastpath import guest_agent
from vmferry.fastpath.guest_access import (
    ByAgent,
    ByCommand,
    ByFile,
    GuestAccess,
    GuestUntold,
    ThisMachine,
    program,
    read_guest,
)
from vmferry.fastpath.guest_report import BadReportError, facts_of

PYTHON = shlex.quote(sys.executable)

REPORT = {"event": "guest", "format": 1, "kernel": "6.1", "cpus": 2, "window": 1.0, "unread": {}}
Answer = Callable[[str, dict[str, Any]], Any]


async def reason(access: GuestAccess, limit: float = 20.0) -> str:
    with pytest.raises(GuestUntold) as caught:
        await read_guest(access, 0.0, limit)
    return caught.value.reason


async def test_this_machine() -> None:
    facts = await read_guest(ThisMachine(), 0.05)
    assert facts.kernel == os.uname().release
    assert facts.window >= 0.05


async def test_a_command_that_greets() -> None:
    words = ("sh", "-c", f"echo Welcome; exec {PYTHON} -I -")
    assert (await read_guest(ByCommand(words), 0.0)).cpus >= 1


async def test_the_window_goes_with_the_program() -> None:
    assert "'--seconds', '0.25'" in program(0.25)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("/no/such/ssh",), "does not start: No such file"),
        ((), "does not start"),
        (("sh", "-c", "echo no route >&2; exit 255"), "ended with 255: no route"),
        (("true",), "no line of JSON"),
        (("echo", '{"event": "guest", "format": 9}'), "format is 9"),
        (("sh", "-c", "kill -9 $$"), "ended with -9"),
    ],
)
async def test_commands_that_fail(words: tuple[str, ...], said: str) -> None:
    assert said in await reason(ByCommand(words))


async def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    words = ("sh", "-c", f"sleep 98765 & echo $! > {tmp_path}/pid; wait")
    assert "no answer within 0.5 s" in await reason(ByCommand(words), 0.5)
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if _dead(child):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the child is still there")


async def test_a_command_that_leaves_something_behind(tmp_path: Path) -> None:
    """As ssh does for later connections, with the outputs still open."""
    inner = f"sleep 54321 & echo $! > {shlex.quote(str(tmp_path))}/pid; exec {PYTHON} -I -"
    assert (await read_guest(ByCommand(("sh", "-c", inner)), 0.0, 20.0)).cpus >= 1
    os.kill(int((tmp_path / "pid").read_text()), 9)


async def test_a_command_that_never_stops() -> None:
    assert "no answer within 0.5 s" in await reason(ByCommand(("yes",)), 0.5)


def _dead(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


async def test_files(tmp_path: Path) -> None:
    file = tmp_path / "report"
    file.write_text("some words\n" + json.dumps(REPORT) + "\n")
    assert (await read_guest(ByFile(file), 0.0)).cpus == 2
    assert "not there" in await reason(ByFile(tmp_path / "none"))
    assert "guest_audit.py --json" in await reason(ByFile(tmp_path))
    file.write_bytes(b"\xff\xfe{")
    assert "no line of JSON" in await reason(ByFile(file))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cpus": "two"}, "cpus"),
        ({"cpus": 0}, "0 CPUs"),
        ({"window": -1}, "-1 s"),
        ({"kernel": None}, "kernel"),
        ({"cards": [{"name": "eth0"}]}, "cards.0.mac"),
        ({"busy": [1, "x"]}, "busy.1"),
        ({"event": "finding"}, "guest"),
    ],
)
def test_reports_that_are_wrong_say_where(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadReportError, match=said):
        facts_of(json.dumps({**REPORT, **change}))


@pytest.mark.parametrize("text", ["", "{", '{"a": NaN}', "{}", '{"a": 1e999}', "[" * 10**5])
def test_texts_that_are_no_report(text: str) -> None:
    with pytest.raises(BadReportError):
        facts_of(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(st.sampled_from([*REPORT, "cards", "disks", "clock", "steal", "softirqs"]), values)
def test_any_report_is_read_or_refused(name: str, value: Any) -> None:
    with suppress(BadReportError):
        facts_of(json.dumps({**REPORT, name: value}))


@asynccontextmanager
async def agent(path: Path, answer: Answer, before: bytes = b"") -> AsyncIterator[ByAgent]:
    """The protocol of QEMU's guest agent, with what a former client left in the line."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        while line := await reader.readline():
            told = json.loads(line.rpartition(b"\xff")[2])
            reply: Any
            if told["execute"] == "guest-sync-delimited":
                writer.write(b"\xff")
                reply = {"return": told["arguments"]["id"]}
            else:
                reply = answer(told["execute"], told["arguments"])
            if reply is None:
                continue
            writer.write(json.dumps(reply).encode() + b"\n")
        writer.close()

    server = await asyncio.start_unix_server(serve, path, limit=1 << 20)
    try:
        yield ByAgent(path)
    finally:
        server.close()


def working(polls: int, status: dict[str, Any]) -> Answer:
    left = [polls]

    def answer(command: str, arguments: dict[str, Any]) -> Any:
        if command == "guest-exec":
            assert arguments["path"] == "python3"
            assert b"def collect(" in base64.b64decode(arguments["input-data"])
            return {"return": {"pid": 7}}
        assert arguments == {"pid": 7}
        left[0] -= 1
        return {"return": {"exited": False} if left[0] >= 0 else status}

    return answer


def told(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def test_agent(tmp_path: Path) -> None:
    status = {"exited": True, "exitcode": 0, "out-data": told(json.dumps(REPORT))}
    left_over = b'{"return": {"pid": 3}}\n{"ret\xff{"return": 1}\n'
    async with agent(tmp_path / "qga", working(2, status), left_over) as access:
        assert (await read_guest(access, 0.0, 20.0)).cpus == 2


async def _agent_says(tmp_path: Path, answer: Answer, limit: float = 20.0) -> str:
    async with agent(tmp_path / "qga", answer) as access:
        return await reason(access, limit)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            working(0, {"exited": True, "exitcode": 1, "err-data": told("SyntaxError")}),
            "ended with 1: SyntaxError",
        ),
        (working(0, {"exited": True, "signal": 11}), "ended with 11"),
        (working(0, {"exited": True, "exitcode": 0, "out-data": "!"}), "no line of JSON"),
        (lambda *_: {"error": {"class": "CommandNotFound", "desc": "x"}}, "allow guest-exec"),
        (lambda *_: {"error": {"class": "GenericError", "desc": "No such file"}}, "No such file"),
        (lambda *_: {"error": 5}, "failed: 5"),
        (lambda *_: [1], "no object"),
        (lambda *_: {"return": 5}, "guest-exec-status gave 5"),
    ],
)
async def test_agents_that_refuse(tmp_path: Path, answer: Answer, said: str) -> None:
    assert said in await _agent_says(tmp_path, answer)


async def test_agent_that_does_not_come_to_an_end(tmp_path: Path) -> None:
    said = await _agent_says(tmp_path, lambda *_: None, 0.3)
    assert "answers, but the look into the guest was not over within 0.3 s" in said


async def test_agent_that_is_dead_is_given_up_before_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_agent, "GREETING_SECONDS", 0.2)

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = mute
    server = await asyncio.start_unix_server(handler, tmp_path / "qga")
    said = await reason(ByAgent(tmp_path / "qga"), 3600.0)
    server.close()
    assert "does not answer within 0.2 s: is qemu-guest-agent running" in said


async def test_agent_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be reached" in await reason(ByAgent(tmp_path / "none"))
    assert "cannot be reached" in await reason(ByAgent(tmp_path / ("x" * 200)))


async def test_agent_that_goes(tmp_path: Path) -> None:
    async def gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = gone
    server = await asyncio.start_unix_server(handler, tmp_path / "qga")
    said = await reason(ByAgent(tmp_path / "qga"))
    server.close()
    assert "connection broke" in said
