"""Does anything malformed get past a clear error? Every command, a running VM in harm's way.

Bar: every specification, name, destination, unit and option is answered with exit status 2 and a
message of at most three lines, without a traceback; nothing is printed as an answer, and the VM
that many of them name is in the same process with the same migration settings, and no move of it
was begun. Prints every message, to be read aloud.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._bench_home import Home, command
from bench._malformed_cases import COMMANDS, SPECIFICATIONS
from bench._qmp import Qmp
from vmferry.hypervisor.qemu.instance import list_instances
from vmferry.hypervisor.qemu.lifecycle import start_vm
from vmferry.hypervisor.qemu.resolve import resolve
from vmferry.journal import Journal
from vmferry.vm.spec import load_spec

USAGE = 2
MOST_LINES = 3
SHOWN = 100

VICTIM = """
name = "web"
[memory]
size = "64MiB"
[[disk]]
path = "web.raw"
[qemu]
accelerator = "tcg"
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one malformed thing was answered with; `faults` is what was wrong with that."""

    what: str
    message: str
    faults: tuple[str, ...]


def main() -> int:
    """Try all of them; 1 where an answer is not as it must be."""
    with Home() as home:
        folder = home.folder / "specs"
        folder.mkdir()
        for name in ("empty.raw", "web.raw"):
            (folder / name).write_bytes(bytes(1 << 20))
        (folder / "web.toml").write_text(VICTIM)
        asyncio.run(start_vm(resolve(load_spec(folder / "web.toml")).spec))
        _leave_a_run()
        before = _seen(home)
        answers = [_show(answer) for answer in _answers(home, folder)]
        harmed = _seen(home) != before
    bad = [answer for answer in answers if answer.faults]
    kinds = Counter(fault for answer in bad for fault in answer.faults)
    sys.stdout.write(
        f"\n{len(answers)} malformed: {len(SPECIFICATIONS)} specifications, {len(COMMANDS)} "
        f"command lines; {len(answers) - len(bad)} clear errors with exit status {USAGE}, "
        f"{len(bad)} others; the VM was {'HARMED' if harmed else 'unharmed'}\n"
    )
    for fault, count in kinds.items():
        sys.stdout.write(f"{count} times {fault}\n")
    return 1 if bad or harmed or len(answers) < 100 else 0


def _leave_a_run() -> None:
    """A run in the journal, for commands that name one: nobody waits at that socket."""
    words = (
        "migrate",
        "web",
        "--to",
        "unix:/nonexistent/vm.sock",
        "--force",
        "destination-listens",
    )
    subprocess.run(command(*words), capture_output=True, check=False)
    with Journal.open() as journal:
        if not journal.run("last").settled:
            raise RuntimeError("the first run did not end")


def _seen(home: Home) -> dict[str, Any]:
    """All that no malformed thing may change."""
    instance = home.current("web")
    qmp = Qmp(instance.files.observer_socket)
    try:
        with Journal.open() as journal:
            return {
                "process": instance.process,
                "instances": [one.id for one in list_instances()],
                "state": qmp.execute("query-status"),
                "parameters": qmp.execute("query-migrate-parameters"),
                "capabilities": qmp.execute("query-migrate-capabilities"),
                "runs": [run.id for run in journal.runs()],
            }
    finally:
        qmp.close()


def _answers(home: Home, folder: Path) -> Iterator[Answer]:
    for what, text in SPECIFICATIONS.items():
        path = folder / "vm.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        yield _ask(f"specification: {what}", ("run", str(path)))
    places = {
        "{qmp}": str(home.current("web").files.observer_socket),
        "{folder}": str(folder),
    }
    for words in COMMANDS:
        yield _ask("vmferry " + " ".join(_quoted(word) for word in words), _filled(words, places))


def _filled(words: tuple[str, ...], places: dict[str, str]) -> tuple[str, ...]:
    return tuple(
        word.replace("{qmp}", places["{qmp}"]).replace("{folder}", places["{folder}"])
        for word in words
    )


def _ask(what: str, words: tuple[str, ...]) -> Answer:
    done = subprocess.run(
        command(*words), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    faults = []
    if done.returncode != USAGE:
        faults.append(f"exit status {done.returncode}")
    if done.stdout:
        faults.append("an answer on standard output")
    if "Traceback" in done.stderr or "this is a bug" in done.stderr:
        faults.append("a traceback")
    if not done.stderr.startswith("vmferry: "):
        faults.append("no message")
    if len(done.stderr.splitlines()) > MOST_LINES:
        faults.append(f"more than {MOST_LINES} lines")
    return Answer(what, done.stderr, tuple(faults))


def _show(answer: Answer) -> Answer:
    sys.stdout.write(f"{answer.what}\n")
    for line in answer.message.splitlines():
        sys.stdout.write(f"    {line}\n")
    for fault in answer.faults:
        sys.stdout.write(f"    *** {fault}\n")
    sys.stdout.flush()
    return answer


def _quoted(word: str) -> str:
    """As it would be typed, cut short."""
    shown = word if len(word) <= SHOWN else f"{word[: SHOWN - 3]}..."
    return shown if shown.isprintable() and shown and " " not in shown else repr(shown)


if __name__ == "__main__":
    sys.exit(main())
