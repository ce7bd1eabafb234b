"""`labguest`: guests of this host, under KVM, that the lab's agent can be reached in.

`labguest --help` lists the commands. A guest's disk is read-only and the same on every host, so
that it can be moved.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lab.inside.client import AgentLost, Conversation, free_port

FOLDER = Path("/run/labguests")
LAB = Path("/lab")
PORTS = 2
BRIDGE = "br0"
# Two hosts on a machine that is busy with other things besides.
_BOOT_SECONDS = 400.0
_LOST = 255
_KERNEL_WORDS = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr lab.root=labguest lab.overlay=1"
)


class GuestError(Exception):
    """What happened to which guest."""


class Guest:
    """One guest by its name: its folder has its sockets, its console and its QEMU's pid."""

    def __init__(self, name: str) -> None:
        if not name.isalnum() or len(name) > 10:
            raise GuestError(f"'{name}' is no name for a guest: up to 10 letters and digits")
        self.name = name
        self.folder = FOLDER / name

    @property
    def agent_sockets(self) -> list[Path]:
        return [self.folder / f"agent-{number}.sock" for number in range(PORTS)]

    @property
    def tap(self) -> str:
        return f"tap-{self.name}"

    def start(self, options: argparse.Namespace) -> None:
        """Start QEMU; return when the guest's agent answers, or QMP where it is a destination."""
        self.stop()
        self.folder.mkdir(parents=True)
        if options.queues:
            self._make_tap(options.queues)
        with (self.folder / "qemu.log").open("w") as log:
            process = subprocess.Popen(
                self.command(options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "pid").write_text(str(process.pid))
        end = time.monotonic() + _BOOT_SECONDS
        while True:
            if process.poll() is not None:
                raise GuestError(f"QEMU of '{self.name}' ended: {self._said()}")
            if time.monotonic() > end:
                raise GuestError(f"'{self.name}' did not come up: {self._said()}")
            with contextlib.suppress(OSError, AgentLost, GuestError):
                if options.incoming:
                    self.qmp("query-status")
                    return
                if self.run({"words": ["true"], "seconds": 20.0}, patience=20.0) == 0:
                    return
            time.sleep(0.2)

    def run(self, request: dict[str, Any], stdin: bytes = b"", patience: float = 30.0) -> int:
        """Have the agent in the guest run something; its output is ours. Raises AgentLost."""

        def show(data: bytes, of_errors: bool) -> None:
            stream = sys.stderr if of_errors else sys.stdout
            stream.buffer.write(data)
            stream.buffer.flush()

        if not self.folder.is_dir():
            raise GuestError(f"no guest '{self.name}' runs here")
        with free_port(self.agent_sockets, patience) as path:
            ended = Conversation(path).run(request, stdin=stdin, on_output=show, patience=patience)
        if ended.late:
            print(f"labguest: the script was ended after {request['seconds']} s", file=sys.stderr)
        return ended.status if ended.status >= 0 else 128 - ended.status

    def qmp(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """One QMP command by a connection of its own. Raises OSError and GuestError."""
        if not (self.folder / "qmp.sock").exists():
            raise GuestError(f"no guest '{self.name}' runs here")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(20.0)
            connection.connect(str(self.folder / "qmp.sock"))
            with connection.makefile("rw") as stream:
                stream.readline()
                for name, values in (("qmp_capabilities", {}), (command, arguments or {})):
                    stream.write(json.dumps({"execute": name, "arguments": values}) + "\n")
                    stream.flush()
                    answer = _answer(stream)
        if "error" in answer:
            raise GuestError(f"'{self.name}' refused {command}: {answer['error']['desc']}")
        return answer["return"]

    def pid(self) -> int | None:
        """The process of its QEMU while that runs."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "pid").read_text())
            # Pids are given out again; this host's own guest is told by its folder.
            if bytes(self.folder) + b"/" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    def stop(self) -> None:
        """End it and remove what it left; nothing where it does not run."""
        pid = self.pid()
        with contextlib.suppress(OSError):
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                while _runs(pid):
                    time.sleep(0.02)
        subprocess.run(["ip", "link", "delete", self.tap], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_tap(self, queues: int) -> None:
        words = ["ip", "tuntap", "add", "dev", self.tap, "mode", "tap", "vnet_hdr"]
        for command in (
            words + (["multi_queue"] if queues > 1 else []),
            ["ip", "link", "set", self.tap, "master", BRIDGE, "up"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise GuestError(f"cannot make {self.tap}: {done.stderr.strip()}")

    def command(self, options: argparse.Namespace) -> list[str]:
        """QEMU and its arguments."""
        append = f"{_KERNEL_WORDS} lab.name={self.name} {options.append}"
        if options.ip:
            append += f" lab.ip={options.ip}"
        words = ["qemu-system-x86_64", "-name", f"guest={self.name},debug-threads=on"]
        words += ["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"]
        words += ["-accel", options.accel, "-cpu", options.cpu]
        words += ["-smp", str(options.smp), "-m", options.memory]
        words += ["-kernel", str(LAB / "guest-vmlinux"), "-initrd", str(LAB / "guest-initrd")]
        words += ["-append", append]
        words += ["-qmp", f"unix:{self.folder}/qmp.sock,server=on,wait=off"]
        words += ["-serial", f"file:{self.folder}/console.log"]
        words += ["-blockdev", "driver=file,node-name=root,read-only=on,filename=/lab/guest.ext4"]
        words += ["-device", "virtio-blk-pci,drive=root", "-device", "virtio-serial-pci"]
        for number, path in enumerate(self.agent_sockets):
            words += ["-chardev", f"socket,id=agent{number},path={path},server=on,wait=off"]
            words += ["-device", f"virtserialport,chardev=agent{number},name=lab.{number}"]
        if options.queues:
            tap = f"tap,id=net,ifname={self.tap},script=no,downscript=no,vhost=on"
            card = f"virtio-net-pci,netdev=net,romfile=,mac={_mac(self.name)}"
            if options.queues > 1:
                tap += f",queues={options.queues}"
                card += f",mq=on,vectors={2 * options.queues + 2}"
            words += ["-netdev", tap, "-device", card]
        if options.incoming:
            words += ["-incoming", options.incoming]
        return [*words, *options.qemu]

    def _said(self) -> str:
        texts = []
        for name in ("qemu.log", "console.log"):
            with contextlib.suppress(OSError):
                texts.append((self.folder / name).read_text(errors="replace")[-1000:].strip())
        return " / ".join(text for text in texts if text) or "it said nothing"


def _answer(stream: Any) -> dict[str, Any]:
    while line := stream.readline():
        answer: dict[str, Any] = json.loads(line)
        if "event" not in answer:
            return answer
    raise GuestError("QEMU closed its QMP socket")


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _mac(name: str) -> str:
    """The same on every host, and of no other guest."""
    return "52:54:01:" + hashlib.sha256(name.encode()).digest()[:3].hex(":")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="labguest", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="start a guest and wait until it is up")
    start.add_argument("name")
    start.add_argument("--smp", type=int, default=2)
    start.add_argument("--memory", default="512M")
    start.add_argument("--cpu", default="host")
    start.add_argument("--accel", default="kvm")
    start.add_argument("--queues", type=int, default=0, help="a card with so many queues on br0")
    start.add_argument("--ip", help="its address there, as 192.168.77.50/24")
    start.add_argument("--append", default="", help="more words for the guest's kernel")
    start.add_argument("--incoming", help="wait for a migration here, as tcp:0.0.0.0:4444")
    start.epilog = "After -- come more arguments for QEMU."
    run = commands.add_parser("run", help="run a script of bash in a guest")
    run.add_argument("name")
    run.add_argument("script", nargs="?", default="-", help="a file; - is standard input")
    run.add_argument("-c", dest="text", help="the script itself")
    run.add_argument("--timeout", type=float, default=60.0)
    qmp = commands.add_parser("qmp", help="one QMP command")
    qmp.add_argument("name")
    qmp.add_argument("execute")
    qmp.add_argument("arguments", nargs="?", default="{}")
    commands.add_parser("stop", help="end a guest").add_argument("name")
    commands.add_parser("list", help="the guests that run")
    return parser


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; `qemu` is what stands after `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = _parser().parse_args(arguments[:end])
    options.qemu = arguments[end + 1 :]
    return options


def main(arguments: list[str]) -> int:
    """Carry out one command; returns its exit status."""
    options = parse(arguments)
    try:
        if options.command == "list":
            for folder in sorted(FOLDER.iterdir()) if FOLDER.is_dir() else ():
                if Guest(folder.name).pid() is not None:
                    print(folder.name)
            return 0
        guest = Guest(options.name)
        if options.command == "start":
            guest.start(options)
        elif options.command == "stop":
            guest.stop()
        elif options.command == "qmp":
            print(json.dumps(guest.qmp(options.execute, json.loads(options.arguments))))
        else:
            return _run(guest, options)
    except (GuestError, AgentLost, OSError, ValueError) as error:
        print(f"labguest: {error}", file=sys.stderr)
        return _LOST
    return 0


def _run(guest: Guest, options: argparse.Namespace) -> int:
    stdin = b""
    if options.text is not None:
        script = options.text
    elif options.script == "-":
        script = sys.stdin.read()
    else:
        script = Path(options.script).read_text()
    if options.script != "-" or options.text is not None:
        stdin = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    return guest.run({"script": script, "seconds": options.timeout}, stdin)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
