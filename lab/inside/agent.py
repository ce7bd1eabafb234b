"""The agent: runs scripts for whoever is connected to a virtio-serial port of this machine.

Started with the name that its ports begin with, it serves each of them in a thread. A request:

    {"script": "text" or null, "words": ["arguments or the whole command"], "seconds": limit,
     "terminal": [rows, columns] or null, "seed": "hex digits" or null}

A seed is for a machine that goes on from a state that others go on from too: without it all of them
would draw the same random numbers.

The answer is standard output and errors apart, then the exit status. When the client goes, what
it started is killed; what a script leaves in the background is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from lab.inside.frames import (
    ERRORS,
    EXIT,
    GO,
    HELLO,
    INPUT,
    INPUT_END,
    MOST,
    OUTPUT,
    PADDING,
    READY,
    REQUEST,
    WINDOW,
    Frame,
    Parser,
    pack,
)

# So much may wait each way before no more is read.
_WAITING_MOST = 512 * 1024
_CANNOT_RUN = 127
_LONGEST_POLL = 3600.0
_SEARCH_SECONDS = 10.0
# linux/random.h: RNDADDENTROPY and RNDRESEEDCRNG.
_ADD_ENTROPY, _RESEED = 0x40085203, 0x5207
_HOME = "/root"
_PORTS = Path("/sys/class/virtio-ports")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": _HOME,
    "LANG": "C.UTF-8",
    "TERM": "linux",
    "XDG_RUNTIME_DIR": "/run",
}


class _Program:
    """A script or command of one request, and its three streams."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.ended: int | None = None
        self.late = False
        self._file: Path | None = None
        words = [*self._script(request.get("script")), *request.get("words", [])]
        terminal = request.get("terminal")
        if terminal:
            ours, theirs = pty.openpty()
            resize(ours, *terminal)
            standard: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        else:
            standard = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        try:
            self._process = subprocess.Popen(
                words,
                cwd=_HOME,
                env=_ENVIRONMENT,
                start_new_session=True,
                preexec_fn=_take_terminal if terminal else None,
                **standard,
            )
        finally:
            if terminal:
                os.close(theirs)
        if terminal:
            self.input: int | None = ours
            self.outputs = {ours: OUTPUT}
        else:
            process = self._process
            assert process.stdin and process.stdout and process.stderr
            self.input = os.dup(process.stdin.fileno())
            process.stdin.close()
            self.outputs = {
                os.dup(process.stdout.fileno()): OUTPUT,
                os.dup(process.stderr.fileno()): ERRORS,
            }
            process.stdout.close()
            process.stderr.close()
        self.terminal = ours if terminal else None
        for file in {self.input, *self.outputs}:
            os.set_blocking(file, False)
        self.pidfd = os.pidfd_open(self._process.pid)
        self.until = time.monotonic() + float(request.get("seconds") or 1e9)

    def _script(self, text: str | None) -> list[str]:
        if text is None:
            return []
        with tempfile.NamedTemporaryFile("w", prefix="script-", delete=False) as file:
            file.write(text)
        self._file = Path(file.name)
        # Read here, since the kernel refuses a file that a child of another thread still holds.
        first = text.partition("\n")[0]
        return [*(shlex.split(first[2:]) if first.startswith("#!") else ["/bin/bash"]), file.name]

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def reap(self) -> None:
        self.ended = self._process.wait()

    def close_input(self) -> None:
        if self.input is not None and self.terminal is None:
            os.close(self.input)
        self.input = None

    def close(self) -> None:
        """Kill what still runs, and close and remove all."""
        if self.ended is None:
            self.kill()
            self.reap()
        self.close_input()
        for file in (*self.outputs, self.pidfd):
            os.close(file)
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def resize(terminal: int, rows: int, columns: int) -> None:
    """Tell a terminal its size."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def reseed(seed: bytes) -> None:
    """Have the kernel's random numbers follow from `seed` from now on."""
    with Path("/dev/urandom").open("wb", buffering=0) as pool:
        fcntl.ioctl(pool, _ADD_ENTROPY, struct.pack("2i", 8 * len(seed), len(seed)) + seed)
        fcntl.ioctl(pool, _RESEED)


class _Session:
    """What one client of a port is about: at most one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._parser = Parser()
        self._session = b""
        self._request = bytearray()
        self._program: _Program | None = None
        self._input = bytearray()
        self._input_ended = False
        self._waiting = bytearray()

    def serve(self) -> None:
        """Until the client is gone."""
        try:
            while self._step():
                pass
        finally:
            self._drop()

    def _step(self) -> bool:
        program = self._program
        poll = select.poll()
        wanted = select.POLLIN if len(self._input) < _WAITING_MOST else 0
        poll.register(self._port, wanted | (select.POLLOUT if self._waiting else 0))
        timeout = None
        if program is not None:
            if len(self._waiting) < _WAITING_MOST:
                for file in program.outputs:
                    poll.register(file, select.POLLIN)
            if program.input is not None and self._input:
                # A terminal is one file for both ways.
                both = select.POLLIN if program.input in program.outputs else 0
                poll.register(program.input, select.POLLOUT | both)
            poll.register(program.pidfd, select.POLLIN)
            timeout = 1000 * min(max(0.0, program.until - time.monotonic()), _LONGEST_POLL)
        ready = dict(poll.poll(timeout))
        if ready.get(self._port, 0) & (select.POLLHUP | select.POLLERR):
            return False
        if ready.get(self._port, 0) & select.POLLIN:
            data = os.read(self._port, 2 * MOST)
            if not data:
                return False
            for frame in self._parser.feed(data):
                self._take(frame)
        if self._program is not None:
            # What has just begun is not among what was waited for; its input may be at its end.
            self._work(self._program, ready if self._program is program else {})
        if self._waiting:
            with contextlib.suppress(BlockingIOError):
                del self._waiting[: os.write(self._port, self._waiting[:MOST])]
        return True

    def _work(self, program: _Program, ready: dict[int, int]) -> None:
        for file in list(program.outputs):
            if file in ready:
                self._pass_on(program, file)
        if program.input is not None:
            self._feed(program)
        if time.monotonic() > program.until and not program.late:
            program.late = True
            program.until = time.monotonic() + 1e9
            program.kill()
        if program.pidfd in ready:
            program.reap()
            for file in list(program.outputs):
                while self._pass_on(program, file):
                    pass
            assert program.ended is not None
            answer = {"status": program.ended, "late": program.late}
            self._send(EXIT, json.dumps(answer).encode())
            self._program = None
            self._input.clear()
            program.close()

    def _pass_on(self, program: _Program, file: int) -> bool:
        """Whether there was something; a stream that is at its end is closed."""
        try:
            data = os.read(file, MOST)
        except OSError:  # nothing there now, or a terminal without a program
            return False
        if data:
            self._send(program.outputs[file], data)
        else:
            # Polling it would tell of the end for ever.
            program.outputs.pop(file)
            os.close(file)
        return bool(data)

    def _feed(self, program: _Program) -> None:
        assert program.input is not None
        try:
            if self._input:
                del self._input[: os.write(program.input, self._input[:MOST])]
        except BlockingIOError:
            return
        except OSError:  # the program reads no more
            self._input.clear()
            self._input_ended = True
        if self._input_ended and not self._input:
            program.close_input()

    def _take(self, frame: Frame) -> None:
        if frame.kind == HELLO:
            self._drop()
            self._session = frame.session
            self._waiting += PADDING
            self._send(READY)
        elif frame.session != self._session:
            return
        elif frame.kind == REQUEST:
            self._request += frame.data
        elif frame.kind == GO:
            self._start()
        elif frame.kind == INPUT and self._program is not None:
            self._input += frame.data
        elif frame.kind == INPUT_END:
            self._input_ended = True
        elif frame.kind == WINDOW and self._program and self._program.terminal is not None:
            resize(self._program.terminal, *struct.unpack("2H", frame.data))

    def _start(self) -> None:
        try:
            request = json.loads(bytes(self._request))
            if request.get("seed"):
                reseed(bytes.fromhex(request["seed"]))
            self._program = _Program(request)
        except (OSError, ValueError, KeyError) as error:
            self._send(ERRORS, f"the agent cannot run it: {error}\n".encode())
            self._send(EXIT, json.dumps({"status": _CANNOT_RUN, "late": False}).encode())
        self._request.clear()

    def _send(self, kind: bytes, data: bytes = b"") -> None:
        self._waiting += pack(kind, self._session, data)

    def _drop(self) -> None:
        """Forget the request, and end what it started."""
        program, self._program = self._program, None
        if program is not None:
            program.close()
        self._request.clear()
        self._input.clear()
        self._input_ended = False
        self._waiting.clear()


def serve(port: int) -> None:
    """Serve the client of an open port until it is gone. Raises OSError."""
    _Session(port).serve()


def _serve_port(path: str) -> None:
    port = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    while True:
        # Polling a port without a client tells "hung up" at once, for ever; a write waits for one.
        os.set_blocking(port, True)
        os.write(port, b"\0")
        os.set_blocking(port, False)
        try:
            serve(port)
        except Exception:  # a port that is served no more is lost until the machine ends
            traceback.print_exc()
            time.sleep(0.1)


def main(prefix: str) -> None:
    """Serve every port whose name begins with `prefix`, for ever."""
    served = set()
    # The kernel learns of ports and their names one after another.
    end = time.monotonic() + _SEARCH_SECONDS
    while time.monotonic() < end:
        for device in _PORTS.glob("*"):
            if device.name not in served and _name(device).startswith(prefix):
                served.add(device.name)
                path = f"/dev/{device.name}"
                threading.Thread(target=_serve_port, args=(path,), daemon=True).start()
        time.sleep(0.05)
    while True:
        signal.pause()


def _name(device: Path) -> str:
    try:
        return (device / "name").read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    main(sys.argv[1])
