"""What becomes of a VM whose destination does not fit: by QEMU alone, and by `vmferry check`?

For each row two QEMUs that differ in one thing, the source with a Linux guest that has booted and
loaded its virtio drivers. `vmferry check` is asked first; then the VM is moved by QMP `migrate`
alone, as a script would, and it is looked at which side says what and where the guest answers.

Bar: `check` finds every mismatch under its name, and has nothing against the pair that fits.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._bench_home import Home, call, command
from bench._bench_results import Results, Row, open_results, versions
from bench._mismatch_rows import BASE, ROWS, Mismatch, Options
from bench._qmp import Qmp
from vmferry.testguest.agent import AgentClient
from vmferry.testguest.build import build, kernel_command_line
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

PATIENCE = 60.0
FORBIDDEN = 3
WRITER = PageWriterSettings(working_set=4 * MIB, write_rate=MIB)
THROUGH = "lets it through"


@dataclass(frozen=True, slots=True)
class Machine:
    """A QEMU with two QMP sockets: one for us, one for vmferry."""

    process: subprocess.Popen[bytes]
    folder: Path
    qmp: Qmp

    @property
    def attach(self) -> Path:
        return self.folder / "attach.sock"

    def complaint(self) -> str:
        """The first thing that QEMU wrote to its standard error."""
        said = (self.folder / "stderr.log").read_text().splitlines()
        lines = [line.partition(": ")[2] or line for line in said if "warning:" not in line]
        return lines[0].partition(". ")[0] if lines else ""

    def guest_answers(self) -> bool:
        with contextlib.suppress(Exception):
            return bool(AgentClient(self.folder / "agent.sock", timeout=5.0).status())
        return False


def main() -> int:
    """Go through all rows; 1 where `check` does not say what it must."""
    results = open_results(__doc__, "mismatches")
    with Home() as home:
        for row in ROWS:
            found = results.once(row.title, lambda row=row: _measure(home, row))  # type: ignore[misc]
            _say(f"{row.title}: {found['qemu']}")
    return _report(results)


def _measure(home: Home, row: Mismatch) -> Row:
    place = home.folder / "incoming.sock"
    with (
        _machine(home.folder / "source", row.source) as source,
        _machine(home.folder / "destination", row.destination, "-incoming", f"unix:{place}") as to,
    ):
        _wait("the guest", lambda: "vmferry-guest ready" in _console(source), source)
        findings = _check(source, to, place)
        return {"qemu": _move(source, to, place), **findings}


def _check(source: Machine, to: Machine, place: Path) -> dict[str, list[str]]:
    words = (f"qmp:{source.attach}", "--to", f"unix:{place}", "--to-qmp", str(to.attach))
    said = call(command("check", *words, "--json"), FORBIDDEN)
    last = json.loads(said.splitlines()[-1])
    return {name: last[name] for name in ("blockers", "warnings", "cannot_be_told")}


def _move(source: Machine, to: Machine, place: Path) -> str:
    """By QMP `migrate` alone. What came of it, in words."""
    source.qmp.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
    source.qmp.execute("migrate", uri=f"unix:{place}")
    status = ""

    def over() -> bool:
        nonlocal status
        status = source.qmp.execute("query-migrate").get("status", "")
        return status in ("completed", "failed")

    _wait("the end of the migration", over, source)
    if status == "failed":
        _wait("the destination's end", lambda: to.process.poll() is not None, to, alive=False)
        return f"fails: {to.complaint()}"
    _wait("the destination", lambda: _has_loaded(to), to, alive=False)
    if to.process.poll() is not None:
        return f"the source says `completed`, the destination cannot load: {to.complaint()}"
    if not to.guest_answers():
        return f"{THROUGH}, and the guest does not answer there"
    return THROUGH


def _has_loaded(to: Machine) -> bool:
    if to.process.poll() is not None:
        return True
    try:
        return bool(to.qmp.execute("query-status")["status"] == "running")
    except (RuntimeError, OSError):
        return False


@contextlib.contextmanager
def _machine(folder: Path, options: Options, *words: str) -> Iterator[Machine]:
    """A QEMU of `BASE` with `options` instead, gone when the block ends."""
    folder.mkdir(exist_ok=True)
    image = build()
    chosen = [word for group in {**BASE, **options}.values() for word in group]
    line = [
        *("qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-no-user-config"),
        *("-display", "none", "-serial", f"file:{folder}/console.log"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", kernel_command_line(WRITER), "-netdev", "user,id=net0"),
        *("-blockdev", "driver=null-co,node-name=null0,size=4194304,read-zeroes=on"),
        *("-device", "virtio-serial-pci,id=serial", *_port(folder, "heartbeat")),
        *_port(folder, "agent"),
        *(word for name in ("qmp", "attach") for word in _qmp(folder, name)),
        *chosen,
        *words,
    ]
    with (folder / "stderr.log").open("w") as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        qmp = Qmp(folder / "qmp.sock")
        yield Machine(process, folder, qmp)
        qmp.close()
    finally:
        process.kill()
        process.wait()
        for socket in folder.glob("*.sock"):
            socket.unlink()


def _qmp(folder: Path, name: str) -> tuple[str, str]:
    return "-qmp", f"unix:{folder}/{name}.sock,server=on,wait=off"


def _port(folder: Path, name: str) -> tuple[str, ...]:
    socket = f"socket,id={name},path={folder}/{name}.sock,server=on,wait=off"
    port = f"virtserialport,id={name}0,chardev={name},name=vmferry.{name}"
    return "-chardev", socket, "-device", port


def _console(machine: Machine) -> str:
    return (machine.folder / "console.log").read_text(errors="replace")


def _wait(what: str, holds: Callable[[], bool], machine: Machine, *, alive: bool = True) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end or (alive and machine.process.poll() is not None):
            raise RuntimeError(f"no {what}: {machine.complaint()}")
        time.sleep(0.05)


def _report(results: Results) -> int:
    rows: list[tuple[Mismatch, dict[str, Any]]] = [(row, results[row.title]) for row in ROWS]
    _say(
        f"\n{versions()}, TCG\n\n| other at the destination | QEMU | `check` |\n| --- | --- | --- |"
    )
    bad = 0
    for row, found in rows:
        said = [*found["blockers"], *(f"{name} (warning)" for name in found["warnings"])]
        named = {*found["blockers"], *found["warnings"]}
        right = set(row.found_by) <= named if row.found_by else not named
        bad += not right
        mark = "" if right else " **WRONG**"
        title = row.title + (" ¹" if row.reference else "")
        _say(f"| {title} | {found['qemu']} | {', '.join(f'`{one}`' for one in said)}{mark} |")
    silent = sum(found["qemu"].startswith(THROUGH) for _, found in rows[1:])
    _say(
        f"\n{len(rows) - 1} mismatches: QEMU lets {silent} through; `check` is wrong on {bad} rows"
    )
    return 1 if bad else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
