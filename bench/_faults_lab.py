"""Where faults are injected: folders of their own, one VM after another, commands as a user's."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._faults_watch import WATCH_SOCKET
from bench._qmp import Qmp
from tests import leftovers
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.command_line import command_line
from vmferry.hypervisor.qemu.instance import Instance, InstanceFiles, load_instance
from vmferry.testguest.agent import AgentClient, Verification
from vmferry.testguest.build import build

VMFERRY = [sys.executable, "-c", "from vmferry.cli.main import main; main()"]
VM = "ft"
BANDWIDTH = "64MiB/s"
_STATE_BYTES = 24 << 20

# Of a command line: what to put in place of what.
Changes = tuple[tuple[str, str], ...]

# A QEMU with one more QMP socket, for the watcher; as a destination it may be told to be broken:
# the file `broken` has what to replace in its command line, and what to add to it.
_WRAPPER = """#!/usr/bin/env python3
import os, sys, json
words = sys.argv[1:]
for word in words:
    if word.startswith("socket,id=control,path="):
        folder = word.partition("path=")[2].partition("/control.sock")[0]
        words = [*words, "-qmp", f"unix:{folder}/%(watch)s,server=on,wait=off"]
broken = "%(root)s/broken"
if "-incoming" in words and os.path.exists(broken):
    with open(broken) as file:
        said = json.load(file)
    for old, new in said["replace"]:
        words = [word.replace(old, new) for word in words]
    words += said["add"]
os.execvp("qemu-system-x86_64", ["qemu-system-x86_64", *words])
"""

_SPEC = """
name = "{vm}"
[memory]
size = "128MiB"
[boot]
kernel = "testguest"
[testguest]
working_set = "24MiB"
write_rate = "16MiB/s"
threads = 2
{writer}
[qemu]
accelerator = "tcg"
binary = "{binary}"
{disk}
"""
_DISK = '[[disk]]\npath = "{path}"\nformat = "qcow2"\n'


@dataclass
class Place:
    """The VM where it is: how vmferry names it, its QEMU, its folder."""

    address: str
    process: ProcessId
    files: InstanceFiles


class Lab:
    """Folders below `root`, set as the environment of this process and of all that it starts.

    With `small_state` the state, and so the journal, is on a file system that can be filled.
    """

    def __init__(self, root: Path, *, disk: bool, small_state: bool = False) -> None:
        self.root = root
        self.disk = root / "disk.qcow2" if disk else None
        self.small_state = small_state
        self.state, self.runtime, self.far = root / "s", root / "r", root / "far"
        for folder in (self.state, self.runtime, self.far):
            folder.mkdir(parents=True)
        if small_state:
            where = ("-o", f"size={_STATE_BYTES},mode=700", "tmpfs", str(self.state))
            subprocess.run(["mount", "-t", "tmpfs", *where], check=True)
        self.enter()
        self.runtime.chmod(0o700)
        binary = root / "qemu"
        binary.write_text(_WRAPPER % {"watch": WATCH_SOCKET, "root": root})
        binary.chmod(0o755)
        self.place: Place | None = None
        self.settings: Any = None
        self._far: list[subprocess.Popen[bytes]] = []
        self._disk_options = ""
        if self.disk is not None:
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", str(self.disk), "64M"], check=True
            )
            self._disk_options = _DISK.format(path=self.disk)

    @classmethod
    def make(cls, *, disk: bool, small_state: bool = False) -> Lab:
        """A lab in a new folder with a short path."""
        root = Path(tempfile.mkdtemp(prefix="vf-faults-", dir=tempfile.gettempdir()))
        return cls(root, disk=disk, small_state=small_state)

    def enter(self) -> None:
        """Have this process, and all that it starts, use these folders."""
        os.environ["XDG_STATE_HOME"] = str(self.state)
        os.environ["XDG_RUNTIME_DIR"] = str(self.runtime)

    @property
    def journal(self) -> Path:
        return self.state / "vmferry" / "journal.sqlite"

    @property
    def instances(self) -> Path:
        return self.runtime / "vmferry" / "instances"

    def close(self) -> list[str]:
        """Stop the VM, remove everything; returns what nobody accounted for."""
        self.stop_vm()
        left = leftovers.collect(self.runtime)
        self.reap()
        if self.small_state:
            subprocess.run(["umount", str(self.state)], check=True)
        shutil.rmtree(self.root)
        return left

    def boot(self) -> Place:
        """The VM, booted where there is none."""
        if self.place is not None:
            return self.place
        writer = 'disk = "8MiB"\ndisk_rate = "1MiB/s"' if self.disk is not None else ""
        spec = self.root / f"{VM}.toml"
        spec.write_text(
            _SPEC.format(vm=VM, binary=self.root / "qemu", writer=writer, disk=self._disk_options)
        )
        done = self.run("run", str(spec))
        if done.returncode:
            raise RuntimeError(f"vmferry run: {done.stderr}")
        instance = self.named()
        if instance is None:
            raise RuntimeError("vmferry run left no instance")
        self.place = Place(VM, instance.process, instance.files)
        self.settings = read_settings(self.place.files.control_socket)
        return self.place

    def stop_vm(self) -> None:
        """End the VM, wherever it is."""
        if self.place is not None and self.place.address != VM:
            self.place.process.kill()
            self.place.process.wait_dead(5.0)
        self.run("stop", VM, "--force")
        self.place = None
        self.reap()

    def named(self) -> Instance | None:
        """The instance that has the VM's name."""
        link = self.state / "vmferry" / "vms" / VM / "current"
        return load_instance(link) if link.exists() else None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One vmferry command, to its end."""
        return subprocess.run(
            [*VMFERRY, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    def start_far(self, replace: Changes = ()) -> tuple[Place, Path]:
        """A QEMU that vmferry does not know, waiting at a socket; `replace` makes it another
        machine. Returns it and the socket."""
        place = self.boot()
        source = load_instance(place.files.folder)
        spec = source.spec if source is not None else None
        if spec is None:
            raise RuntimeError("the VM is not vmferry's own")
        folder = Path(tempfile.mkdtemp(prefix="q", dir=self.far))
        files = InstanceFiles(folder)
        words = command_line(spec, files, build(), incoming=True)
        words[words.index("defer")] = f"unix:{folder}/in.sock"
        for old, new in replace:
            words = [word.replace(old, new) for word in words]
        with files.stderr_log.open("wb") as log:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._far.append(process)
        wait_until(lambda: (folder / "in.sock").exists() or process.poll() is not None, 10.0)
        if process.poll() is not None:
            raise RuntimeError(files.stderr_log.read_text())
        address = f"qmp:{files.control_socket}"
        return Place(address, ProcessId.of(process.pid), files), folder / "in.sock"

    def reap(self) -> None:
        """Collect the far QEMUs that have ended; end those that are not the VM."""
        keep = self.place.process.pid if self.place is not None else None
        for process in self._far:
            if process.pid != keep and process.poll() is None:
                process.kill()
                process.wait()
        self._far = [process for process in self._far if process.poll() is None]
        for folder in self.far.iterdir():
            if self.place is None or folder != self.place.files.folder:
                shutil.rmtree(folder, ignore_errors=True)

    def break_destination(self, replace: Changes, add: tuple[str, ...]) -> None:
        """Have the next destination that vmferry starts be another machine, or none at all."""
        (self.root / "broken").write_text(json.dumps({"replace": replace, "add": add}))

    def mend_destination(self) -> None:
        (self.root / "broken").unlink(missing_ok=True)

    def fill_state(self) -> None:
        """Leave no room on the journal's file system."""
        with (self.state / "filler").open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 512, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def make_room(self) -> None:
        (self.state / "filler").unlink(missing_ok=True)

    def steps(self, run: int | None = None) -> list[str]:
        """The durable steps of the newest run, as they are on disk."""
        with contextlib.closing(sqlite3.connect(self.journal, timeout=5)) as journal:
            if run is None:
                run = self.last_run()
            rows = journal.execute("SELECT step FROM steps WHERE run = ? ORDER BY rowid", (run,))
            return [str(row[0]) for row in rows]

    def last_run(self) -> int:
        if not self.journal.exists():
            return 0
        with contextlib.closing(sqlite3.connect(self.journal, timeout=5)) as journal:
            try:
                row = journal.execute("SELECT max(id) FROM runs").fetchone()
            except sqlite3.OperationalError:
                return 0
            return int(row[0] or 0)

    def verify(self) -> Verification:
        """Have the guest check all its pages and disk blocks."""
        if self.place is None:
            raise RuntimeError("no VM")
        return AgentClient(self.place.files.agent_socket).verify(60.0)


class Command:
    """A `vmferry migrate --json` under way."""

    def __init__(self, lab: Lab, *arguments: str) -> None:
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._err = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*VMFERRY, "migrate", *arguments, "--bandwidth", BANDWIDTH, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )
        self.guardian: ProcessId | None = None

    def find_guardian(self) -> ProcessId | None:
        """The guardian, once there is one; it is remembered when it has gone."""
        if self.guardian is None:
            tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            with contextlib.suppress(OSError, ProcessLookupError):
                for pid in tasks.read_text().split():
                    if b"vmferry.guardian" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        self.guardian = ProcessId.of(int(pid))
        return self.guardian

    def signal(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, seconds: float) -> int | None:
        """The exit status; None where it does not end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def said(self) -> list[dict[str, Any]]:
        self._out.seek(0)
        lines = self._out.read().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def complained(self) -> str:
        self._err.seek(0)
        return self._err.read()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._out.close()
        self._err.close()


def read_settings(socket: Path) -> Any:
    """Migration parameters and capabilities of a QEMU, over a QMP socket that nobody holds."""
    qmp = Qmp(socket, timeout=5.0)
    try:
        capabilities = qmp.execute("query-migrate-capabilities")
        return {
            "parameters": qmp.execute("query-migrate-parameters"),
            "capabilities": {row["capability"]: row["state"] for row in capabilities},
        }
    finally:
        qmp.close()


def freeze(process: ProcessId) -> None:
    """SIGSTOP, and return when it stands."""
    process.kill(signal.SIGSTOP)
    wait_until(lambda: not process.alive() or is_stopped(process), 2.0)


def thaw(process: ProcessId) -> None:
    process.kill(signal.SIGCONT)


def is_stopped(process: ProcessId) -> bool:
    try:
        text = Path(f"/proc/{process.pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "T"


def wait_until(condition: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True
