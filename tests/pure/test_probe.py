"""The probe of the network: what it measures, whom it talks to, and whom it leaves alone."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from vmferry.cli import main
from vmferry.errors import UsageError
from vmferry.host import throughput
from vmferry.host.throughput import (
    Listener,
    ProbeError,
    Report,
    Token,
    send_through_this_machine,
    send_to,
)
from vmferry.journal.probes import Probe, keep_probe, newest_probe, probes_file
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.speeds import speed_of_probe
from vmferry.units import MIB

HOST = "127.0.0.1"
PATIENCE = 60.0
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener(HOST) as found:
        yield found


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


class Peer:
    """Something that listens and is no probe: it says `greeting` and keeps what it is sent."""

    def __init__(self, greeting: bytes) -> None:
        self.received = b""
        self._greeting = greeting
        self._socket = socket.create_server((HOST, 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(PATIENCE)
            connection.sendall(self._greeting)
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(4096):
                    self.received += chunk

    def close(self) -> None:
        self._thread.join()
        self._socket.close()


def serve(background: ThreadPoolExecutor, listener: Listener) -> Future[Report]:
    return background.submit(listener.serve, PATIENCE)


def probe(**changes: object) -> Probe:
    values: dict[str, object] = {
        "place": "tcp:b",
        "at": 5.0,
        "speed": Quantiles(1.0, 2.0, 3.0),
        "limited": False,
        "seconds": 0.5,
        "bytes": 9,
    }
    return Probe(**{**values, **changes})  # type: ignore[arg-type]


def test_all_that_is_sent_on_this_machine_arrives() -> None:
    report = send_through_this_machine(PATIENCE, 0, 32 * MIB)
    assert report.bytes == 32 * MIB
    assert sum(window.bytes for window in report.windows) <= report.bytes
    assert sum(window.seconds for window in report.windows) <= report.seconds


def test_a_limit_is_kept() -> None:
    """In bytes for the time: how long it really took is the machine's business."""
    report = send_through_this_machine(0.5, 10 * MIB, 1024 * MIB)
    assert 0 < report.bytes <= 0.5 * 10 * MIB + 0.02 * 10 * MIB


def test_over_tcp_both_ends_tell_the_same(
    background: ThreadPoolExecutor, listener: Listener
) -> None:
    served = serve(background, listener)
    report = send_to(HOST, listener.token, PATIENCE, 0, 16 * MIB)
    assert report.bytes == 16 * MIB
    received = served.result()
    assert received.bytes == report.bytes
    assert len(received.windows) == len(report.windows)


def test_others_do_not_count_and_do_not_end_it(
    background: ThreadPoolExecutor, listener: Listener
) -> None:
    served = serve(background, listener)
    port = listener.token.port
    socket.create_connection((HOST, port)).close()
    with socket.create_connection((HOST, port)) as stranger:
        stranger.sendall(b"GET / HTTP/0.9\n")
        stranger.settimeout(PATIENCE)
        assert stranger.recv(4096).startswith(b"vmferry-probe 1 ")
        assert stranger.recv(4096) == b""
    with pytest.raises(ProbeError, match="does not know this token"):
        send_to(HOST, Token(port, "0" * 32), PATIENCE, 0, MIB)
    assert send_to(HOST, listener.token, PATIENCE, 0, MIB).bytes == MIB
    assert served.result().bytes == MIB


def test_a_listener_takes_one_probe_and_ends(
    background: ThreadPoolExecutor, listener: Listener
) -> None:
    served = serve(background, listener)
    send_to(HOST, listener.token, PATIENCE, 0, MIB)
    served.result()
    with pytest.raises(ProbeError, match="no probe listens"):
        send_to(HOST, listener.token, PATIENCE, 0, MIB)


def test_a_listener_to_whom_nobody_comes_says_so(listener: Listener) -> None:
    with pytest.raises(ProbeError, match="nobody with the token came"):
        listener.serve(0.01)


@pytest.mark.parametrize(
    "greeting", [b'{"QMP": {"version": {}}}\r\n', b"SSH-2.0-x\r\n", b"x" * 70000]
)
def test_nothing_is_sent_to_what_greets_as_something_else(greeting: bytes) -> None:
    peer = Peer(greeting)
    try:
        with pytest.raises(ProbeError, match="is no `vmferry probe --listen`") as caught:
            send_to(HOST, Token(peer.port, "0" * 32), PATIENCE, 0, MIB)
    finally:
        peer.close()
    assert peer.received == b""
    assert caught.value.hint is not None and "-incoming" in caught.value.hint


def test_nothing_is_sent_to_what_says_nothing_as_a_waiting_qemu_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throughput, "_GREETING_SECONDS", 0.2)
    peer = Peer(b"")
    try:
        with pytest.raises(ProbeError, match="it says nothing"):
            send_to(HOST, Token(peer.port, "0" * 32), PATIENCE, 0, MIB)
    finally:
        peer.close()
    assert peer.received == b""


def test_one_that_greets_right_must_know_the_token_too() -> None:
    peer = Peer(b"vmferry-probe 1 " + b"0" * 32 + b"\n" + b"0" * 64 + b"\n")
    try:
        with pytest.raises(ProbeError, match="does not know this token"):
            send_to(HOST, Token(peer.port, "0" * 32), PATIENCE, 0, MIB)
    finally:
        peer.close()
    # What a probe says of itself, and not a byte of data.
    assert len(peer.received) == 64 + 1 + 32 + 1
    assert b"0" * 32 not in peer.received


@pytest.mark.parametrize(
    "text",
    ["", "4444", "4444-", "0-" + "0" * 32, "65536-" + "0" * 32, "1-" + "g" * 32, "٣-" + "0" * 32],
)
def test_a_token_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a token"):
        Token.parse(text)


def test_a_token_is_read_as_it_is_printed(listener: Listener) -> None:
    assert Token.parse(str(listener.token)) == listener.token


def test_two_listeners_do_not_share_a_port(listener: Listener) -> None:
    with pytest.raises(ProbeError, match="cannot listen"):
        Listener(HOST, listener.token.port)


def test_the_start_of_a_probe_does_not_count() -> None:
    slow, fast = (0.1, 100), (0.1, 100_000)
    speed, limited = speed_of_probe([slow, slow, *[fast] * 8], 0)
    assert speed.p50 == pytest.approx(1e6)
    assert speed.p10 > 0.8e6 and speed.p90 < 1.2e6
    assert not limited


def test_a_probe_held_by_its_limit_says_so() -> None:
    windows = [(0.1, 100_000)] * 10
    assert speed_of_probe(windows, 1_000_000)[1]
    assert not speed_of_probe(windows, 2_000_000)[1]


@pytest.mark.parametrize("windows", [[], [(0.1, 5)], [(0.1, 5)] * 3])
def test_too_little_is_no_speed(windows: list[tuple[float, int]]) -> None:
    with pytest.raises(ValueError, match="too short"):
        speed_of_probe(windows, 0)


def test_the_newest_probe_of_a_place_is_kept() -> None:
    assert newest_probe("tcp:b") is None
    for one in (probe(at=1.0), probe(at=2.0), probe(at=3.0, place="tcp:c")):
        keep_probe(one)
    assert newest_probe("tcp:b") == probe(at=2.0)
    assert newest_probe("tcp:c") == probe(at=3.0, place="tcp:c")
    assert stat.S_IMODE(probes_file().stat().st_mode) == 0o600


def test_lines_that_are_not_whole_are_passed_over() -> None:
    keep_probe(probe())
    good = probes_file().read_text()
    with probes_file().open("a") as file:
        file.write(
            '[]\n{}\n\n{"format": 2}\n' + good.replace("2.0", '"x"') + good[: len(good) // 2]
        )
    assert newest_probe("tcp:b") == probe()


def test_a_probe_on_this_machine_is_shown_with_its_cost_and_kept(capsys: Captured) -> None:
    arguments = ["probe", "--to", "local", "--for", "2s", "--limit", "8MiB/s", "--json"]
    assert main.run_command(arguments) == 0
    shown = capsys.readouterr()
    (line,) = shown.out.splitlines()
    record = json.loads(line)
    kept = newest_probe("local")
    assert kept is not None
    assert record == {"event": "probe", **kept.to_json()}
    assert 0 < kept.bytes <= 16.2 * MIB
    assert "cost: " in shown.err and "QEMU" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --to"),
        (["--to", "local", "--listen", HOST], "give either --to"),
        (["--to", "nowhere"], "not a destination"),
        (["--to", "unix:/x"], "local or to tcp:"),
        (["--to", "local", "--token", "x"], "needs no --token"),
        (["--to", "tcp:b:1"], "needs --token"),
        (["--to", "tcp:b:1", "--token", "x"], "not a token"),
        (["--to", "local", "--for", "1h"], "--for must be"),
        (["--to", "local", "--for", "0"], "--for must be"),
        (["--to", "local", "--limit", "0"], "--limit must be"),
        (["--listen", HOST, "--token", "x"], "belong to the side that sends"),
        (["--listen", "a b"], "--listen takes"),
        (["--listen", "::1"], "--listen takes"),
        (["--listen", f"{HOST}:99999"], "--listen takes"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], message: str, capsys: Captured) -> None:
    assert main.run_command(["probe", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_port_where_qemu_waits_is_not_touched(capsys: Captured) -> None:
    with socket.create_server((HOST, 0)) as qemu:
        qemu.settimeout(0.0)
        port = qemu.getsockname()[1]
        arguments = ["--to", f"tcp:{HOST}:{port}", "--token", f"{port}-{'0' * 32}"]
        assert main.run_command(["probe", *arguments]) == 2
        with pytest.raises(BlockingIOError):
            qemu.accept()
    assert "a port of its own" in capsys.readouterr().err


def test_listen_prints_the_token_and_ends_after_one_probe(
    background: ThreadPoolExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    listening = background.submit(main.run_command, ["probe", "--listen", HOST, "--json"])
    out = ""
    while not out.endswith("\n"):
        out += capfd.readouterr().out
    token = Token.parse(json.loads(out)["token"])
    assert send_to(HOST, token, PATIENCE, 0, MIB).bytes == MIB
    assert listening.result() == 0
    assert json.loads(capfd.readouterr().out)["bytes"] == MIB
