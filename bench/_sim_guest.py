"""A test guest in a bare QEMU, moved by bare QMP, with QEMU's own trace events of each move."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench._qmp import Qmp
from vmferry.precopy.sample import ENDED
from vmferry.testguest.build import build, kernel_command_line
from vmferry.testguest.settings import PageWriterSettings

TRACED = ("migrate_pending", "migration_bitmap_sync_start", "migration_bitmap_sync_end")
PAGE = 4096
_LINE = re.compile(r"\d+@(\d+\.\d+):(\w+)\D*(\d*)")


@dataclass(frozen=True, slots=True)
class PassStart:
    """One sync of the dirty bitmap by QEMU's trace: seconds since migrate and pages.

    `seconds` is how long the sync took; `dirty` what was to send after it, `new` what it added.
    """

    t: float
    seconds: float
    new: int
    dirty: int


@dataclass(frozen=True, slots=True)
class Move:
    """One migration as QEMU told it. Seconds, pages; `looks` are its times and pages left.

    `issued_at` is by the monotonic clock.
    """

    issued_at: float
    status: str
    syncs: tuple[PassStart, ...]
    looks: tuple[tuple[float, int], ...]
    seconds: float
    downtime_ms: int
    setup_ms: int
    ram: dict[str, Any]


class Instance:
    """One QEMU process with a QMP socket, the agent's port and a trace file."""

    def __init__(self, folder: Path, ram_kib: int, boot: list[str], *, incoming: bool) -> None:
        folder.mkdir()
        self.folder = folder
        words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"]
        words += ["-accel", "tcg,thread=multi", "-m", f"{ram_kib}k"]
        words += [*boot]
        words += ["-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
        words += [
            "-chardev",
            f"file,id=console,path={folder}/console",
            "-serial",
            "chardev:console",
        ]
        words += ["-device", "virtio-serial-pci"]
        for name in ("heartbeat", "agent"):
            words += ["-chardev", f"socket,id={name},path={folder}/{name},server=on,wait=off"]
            words += ["-device", f"virtserialport,chardev={name},name=vmferry.{name}"]
        words += ["-D", f"{folder}/trace", "-msg", "timestamp=on"]
        words += [word for event in TRACED for word in ("-trace", event)]
        if incoming:
            words += ["-S", "-incoming", f"unix:{folder}/migration"]
        errors = (folder / "stderr").open("wb")
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=errors)
        errors.close()
        try:
            self.qmp = Qmp(folder / "qmp")
        except BaseException:
            self.process.kill()
            raise

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return when the page writer runs."""
        give_up = time.monotonic() + timeout
        console = self.folder / "console"
        while b"vmferry-guest ready" not in console.read_bytes():
            if time.monotonic() > give_up or self.process.poll() is not None:
                raise RuntimeError(f"the guest did not start: {console.read_text()[-400:]}")
            time.sleep(0.05)

    def ask(self, **request: Any) -> dict[str, Any]:
        """One question to the agent in the guest."""
        with socket.socket(socket.AF_UNIX) as port:
            port.settimeout(60)
            port.connect(str(self.folder / "agent"))
            port.sendall(json.dumps(request | {"id": 1}).encode() + b"\n")
            reply: dict[str, Any] = json.loads(port.makefile().readline())
        if not reply.get("ok"):
            raise RuntimeError(f"the guest refused {request}: {reply}")
        return reply

    def traced(self, since: float) -> list[tuple[float, str, int]]:
        """QEMU's trace events since a Unix time: seconds after it, name, first figure."""
        matches = map(_LINE.match, (self.folder / "trace").read_text().splitlines())
        events = ((float(m[1]) - since, m[2], int(m[3] or 0)) for m in matches if m)
        return [event for event in events if event[0] >= 0]

    def end(self) -> None:
        """End the process and remove its files."""
        self.qmp.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)


class Guest:
    """A test guest that can be moved again and again; a context manager."""

    def __init__(self, ram_kib: int, settings: PageWriterSettings) -> None:
        image = build()
        line = kernel_command_line(settings)
        boot = ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", line]
        self._work = tempfile.TemporaryDirectory(prefix="vmferry-bench-")
        self._config = (ram_kib, boot)
        self._count = 0
        self._instances: list[Instance] = []
        self.instance = self._start(incoming=False)

    def __enter__(self) -> Guest:
        try:
            self.instance.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for instance in list(self._instances):
            self._end(instance)
        self._work.cleanup()

    def _start(self, *, incoming: bool) -> Instance:
        ram_kib, boot = self._config
        self._count += 1
        folder = Path(self._work.name) / str(self._count)
        instance = Instance(folder, ram_kib, boot, incoming=incoming)
        self._instances.append(instance)
        return instance

    def _end(self, instance: Instance) -> None:
        self._instances.remove(instance)
        instance.end()

    def move(
        self,
        bandwidth: int,
        downtime_limit_ms: int = 300,
        *,
        least_passes: int = 8,
        least_seconds: float = 6.0,
    ) -> Move:
        """Migrate; give up after so many passes and seconds. The guest runs on where it is then."""
        source, destination = self.instance, self._start(incoming=True)
        for side in (source, destination):
            on = [{"capability": name, "state": True} for name in ("events", "return-path")]
            side.qmp.execute("migrate-set-capabilities", capabilities=on)
        limits = {"max-bandwidth": bandwidth, "downtime-limit": downtime_limit_ms}
        source.qmp.execute("migrate-set-parameters", **limits)
        started, issued_at = time.time(), time.monotonic()
        source.qmp.execute("migrate", uri=f"unix:{destination.folder}/migration")
        active: dict[str, Any] = {}
        while (reply := source.qmp.execute("query-migrate"))["status"] not in ENDED:
            if reply["status"] == "active":
                active = reply
                passes = reply["ram"]["dirty-sync-count"]
                if passes >= least_passes and time.time() - started > least_seconds:
                    source.qmp.execute("migrate_cancel")
            time.sleep(0.05)
        spare = destination
        if reply["status"] == "completed":
            while not reply["total-time"]:
                reply = source.qmp.execute("query-migrate")
            active = reply
            destination.qmp.execute("cont")
            self.instance, spare = destination, source
        trace = source.traced(started)
        self._end(spare)
        return Move(
            issued_at=issued_at,
            status=reply["status"],
            syncs=_syncs(trace),
            looks=tuple((t, size // PAGE) for t, name, size in trace if name == "migrate_pending"),
            seconds=active["total-time"] / 1000,
            downtime_ms=active.get("downtime", 0),
            setup_ms=active["setup-time"],
            ram=active["ram"],
        )


def _syncs(trace: list[tuple[float, str, int]]) -> tuple[PassStart, ...]:
    """The syncs of a trace. The look after a sync tells what is dirty then."""
    syncs: list[PassStart] = []
    counted, counts_since, begun, looked, left = 0, 0.0, 0.0, 0.0, 0
    for t, name, figure in trace:
        if name == "migration_bitmap_sync_start":
            begun = t
        elif name == "migration_bitmap_sync_end":
            # No look follows the last sync, but nothing was sent since the look before it.
            new = figure - counted
            syncs.append(PassStart(t, t - begun, new, left + new))
            # QEMU counts on over syncs less than a second apart.
            counts_since = counts_since or t
            restarts = t - counts_since > 1.0
            counted, counts_since = (0, t) if restarts else (figure, counts_since)
        else:
            left = figure // PAGE
            if syncs and syncs[-1].t > looked:
                syncs[-1] = replace(syncs[-1], dirty=left)
            looked = t
    return tuple(syncs)
