"""Kills parties of a rehearsal at random moments, and looks at what is left of the VM."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from bench._bench_home import Home, command
from bench._bench_results import Row
from bench._qmp import Qmp
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.instance import Instance

NAMES = {
    "sink": "vmferry.rehearsal.sink",
    "guardian": "vmferry.guardian",
    "command": "vmferry.cli.main",
}
PARTIES = (
    ("sink",),
    ("guardian",),
    ("command",),
    ("command", "guardian"),
    ("command", "guardian", "sink"),
)
# From which on a moment is chosen: the start of the command, or what it tells of.
STAGES = ("start", "pass 1", "pass 2", "pass 4")
LATEST_SECONDS = 1.5
END_SECONDS = 60.0
HUGE_LIMIT_MS = 2_000_000


@dataclass
class StandWatch:
    """Asks on a socket of its own whether the VM runs, as often as it can."""

    instance: Instance
    longest_ms: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> StandWatch:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join()

    def _run(self) -> None:
        qmp = Qmp(self.instance.files.observer_socket)
        stopped_since: float | None = None
        while not self._ended.is_set():
            running = qmp.execute("query-status")["running"]
            now = time.monotonic()
            stopped_since = None if running else stopped_since or now
            if stopped_since is not None:
                self.longest_ms = max(self.longest_ms, 1000 * (now - stopped_since))
            time.sleep(0.005)
        qmp.close()


def hurt(home: Home, instance: Instance, options: list[str], seed: int) -> Row:
    """One rehearsal with one fault; the row's `violations` should be empty."""
    chance = random.Random(seed)
    victims = PARTIES[seed % len(PARTIES)]
    stage = chance.choice(STAGES)
    forced = stage != "start" and chance.random() < 0.5
    delay = chance.uniform(0.0, LATEST_SECONDS)
    before = _settings(instance)
    process = subprocess.Popen(
        command("rehearse", instance.vm, *options, "--json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    reached = threading.Event()
    reading = threading.Thread(target=_read, args=(process.stdout, stage, reached))
    reading.start()
    reached.wait(END_SECONDS)
    time.sleep(delay)
    if forced:
        _force_switchover(instance)
        time.sleep(chance.uniform(0.0, 0.3))
    struck = []
    for name in victims:
        for one in _processes(home, NAMES[name]):
            one.kill()
            struck.append(name)
    with StandWatch(instance) as watch:
        process.wait(END_SECONDS)
        reading.join()
        _wait_alone(home, instance)
    recover = subprocess.run(command("recover"), capture_output=True, text=True, check=False)
    return {
        "victims": list(victims),
        "struck": struck,
        "forced": forced,
        "stage": stage,
        "delay": round(delay, 3),
        "exit": process.returncode,
        "recovered": recover.stdout.strip(),
        "stood_ms": round(watch.longest_ms, 1),
        "violations": _violations(home, instance, before, recover.returncode),
    }


def _read(said: TextIO | None, stage: str, reached: threading.Event) -> None:
    """Take what the command says to its end; `reached` when it is in `stage`, or over."""
    name, _, number = stage.partition(" ")
    if name == "start":
        reached.set()
    for line in said or ():
        with contextlib.suppress(ValueError):  # cut off by its death
            if number and json.loads(line).get("pass_number", 0) >= int(number):
                reached.set()
    reached.set()


def _violations(home: Home, instance: Instance, before: Any, recovered: int) -> list[str]:
    found = []
    qmp = Qmp(instance.files.observer_socket)
    status = qmp.execute("query-status")["status"]
    qmp.close()
    if status != "running":
        found.append(f"the VM is {status}")
    if _settings(instance) != before:
        found.append("its settings have changed")
    if recovered != 0:
        found.append(f"recover ended with {recovered}")
    left = [one.pid for name in NAMES.values() for one in _processes(home, name)]
    if left:
        found.append(f"processes {left} are left")
    checked = home.agent(instance.vm).verify()
    if not checked.ok:
        found.append(f"{checked.faults} pages are damaged")
    return found


def _force_switchover(instance: Instance) -> None:
    """Have QEMU switch over at the end of this pass."""
    qmp = Qmp(instance.files.observer_socket)
    with contextlib.suppress(RuntimeError):
        if qmp.execute("query-migrate").get("status") == "active":
            qmp.execute("migrate-set-parameters", **{"downtime-limit": HUGE_LIMIT_MS})
    qmp.close()


def _settings(instance: Instance) -> Any:
    qmp = Qmp(instance.files.observer_socket)
    try:
        return [
            qmp.execute("query-migrate-parameters"),
            qmp.execute("query-migrate-capabilities"),
        ]
    finally:
        qmp.close()


def _processes(home: Home, name: str) -> list[ProcessId]:
    """Those of this home that have `name` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            ours = os.fsencode(home.folder) in (entry / "environ").read_bytes()
            if ours and name.encode() in (entry / "cmdline").read_bytes():
                found.append(ProcessId.of(int(entry.name)))
    return found


def _wait_alone(home: Home, instance: Instance) -> None:
    """Return when nothing but the VM is left, or after a while: then it is a violation."""
    deadline = time.monotonic() + END_SECONDS
    while any(_processes(home, name) for name in NAMES.values()):
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
