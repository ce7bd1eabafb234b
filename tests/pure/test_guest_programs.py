"""The benchmarks' programs for the test guest: what is packed, and that a load tells its begin."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench import _guest_programs as programs
from bench._guest_programs import PROGRAMS, Program
from tests.pure.test_testguest_image import read
from vmferry.testguest.packages import BuildError

ELF = b"\x7fELF"
LOADER = "ld-linux-x86-64.so.2"


def put(root: Path, name: str, data: bytes = b"") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def needs(monkeypatch: pytest.MonkeyPatch, table: dict[str, Sequence[str]]) -> None:
    """Have readelf tell these libraries of a file, by its name."""

    def run(command: Sequence[str], cwd: Path) -> bytes:
        assert command[:2] == ["readelf", "-d"]
        lines = (f" 0x1 (NEEDED)  Shared library: [{one}]" for one in table[Path(command[2]).name])
        return "\n".join([" 0xe (SONAME)  Library soname: [me.so]", *lines]).encode()

    monkeypatch.setattr(programs, "run", run)


# What is packed


def test_the_disk_has_the_files_the_links_and_the_load(tmp_path: Path) -> None:
    put(tmp_path, "usr/bin/tool-12", b"#!")
    put(tmp_path, "usr/bin/other", b"not asked for")
    (tmp_path / "usr/bin/tool").symlink_to("tool-12")
    put(tmp_path, "usr/lib/tool/a/b.py", b"pass")
    load = Program(
        ("tool",), ("usr/bin/tool", "usr/bin/tool-*", "usr/lib/**/*.py"), "x\n", (("s", "é"),)
    )
    packed = programs._pack(load, tmp_path)
    # A disk is whole sectors: QEMU refuses or rounds down what is not.
    assert len(packed) % 512 == 0
    entries = {path: (mode, data) for path, mode, data in read(packed) if not stat.S_ISDIR(mode)}
    assert {path: data for path, (_, data) in entries.items()} == {
        "usr/bin/tool": b"tool-12",
        "usr/bin/tool-12": b"#!",
        "usr/lib/tool/a/b.py": b"pass",
        "programs/load": b"x\n",
        "programs/s": "é".encode(),
    }
    assert stat.S_ISLNK(entries["usr/bin/tool"][0])
    assert entries["usr/bin/tool-12"][0] & 0o111


def test_libraries_of_libraries_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "usr/bin/tool", ELF)
    put(tmp_path, "usr/lib/x/liba.so.1.2", ELF + b"a")
    (tmp_path / "usr/lib/x/liba.so.1").symlink_to("liba.so.1.2")
    put(tmp_path, "lib/y/libb.so", ELF + b"b")
    put(tmp_path, "usr/lib/x/libunused.so", ELF)
    put(tmp_path, f"usr/lib64/{LOADER}", ELF + b"loader")
    needs(
        monkeypatch,
        {
            "tool": ["liba.so.1"],
            "liba.so.1.2": ["libb.so"],
            # Each other's, and the loader as a library too.
            "libb.so": ["liba.so.1", LOADER],
            LOADER: [],
        },
    )
    packed = programs._pack(Program(("tool",), ("usr/bin/*",), ""), tmp_path)
    found = {path: data for path, mode, data in read(packed) if stat.S_ISREG(mode)}
    # A link's own name is what the loader looks for, and there is one folder that it looks in.
    assert found == {
        "usr/bin/tool": ELF,
        "lib/x86_64-linux-gnu/liba.so.1": ELF + b"a",
        "lib/x86_64-linux-gnu/libb.so": ELF + b"b",
        f"lib64/{LOADER}": ELF + b"loader",
        "programs/load": b"",
    }


def test_a_library_that_no_package_has_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "usr/bin/tool", ELF)
    needs(monkeypatch, {"tool": ["libgone.so.3"]})
    with pytest.raises(BuildError, match=r"libgone\.so\.3, which tool needs"):
        programs._pack(Program(("tool",), ("usr/bin/*",), ""), tmp_path)


def test_without_readelf_its_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "usr/bin/tool", ELF)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="no readelf") as caught:
        programs._pack(Program(("tool",), ("usr/bin/*",), ""), tmp_path)
    assert "binutils" in str(caught.value.hint)


def test_packages_that_are_virtual_or_of_no_use_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = (
        "tool\n  Depends: libc6\n |Depends: <awk>\nlibc6\n<awk>\n  mawk\ndebconf\nzlib1g\nlibc6\n"
    )
    monkeypatch.setattr(programs, "run", lambda command, cwd: told.encode())
    assert programs._closure(("tool",), tmp_path) == ["libc6", "tool", "zlib1g"]


def test_a_disk_is_made_once_and_anew_when_its_program_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    def unpack(packages: Sequence[str], work: Path) -> Path:
        made.extend(packages)
        return put(work, "root/usr/bin/tool", b"tool").parents[2]

    monkeypatch.setattr(programs, "_closure", lambda packages, work: list(packages))
    monkeypatch.setattr(programs, "unpack", unpack)
    for version, text in enumerate(("echo ready\n", "echo ready; :\n"), 1):
        monkeypatch.setitem(PROGRAMS, "tool", Program(("tool",), ("usr/bin/tool",), text))
        place = programs.archive("tool")
        assert programs.archive("tool") == place
        assert len(made) == version
        packed = {path: data for path, _, data in read(place.read_bytes())}
        assert packed["programs/load"] == text.encode()
        # Neither the last one nor what it was made of is left lying about.
        assert list(place.parent.iterdir()) == [place]


# The loads


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A folder as the guest's root, whose programs write their names into `log`."""
    for name in ("load", "bin"):
        (tmp_path / name).mkdir()
    log = tmp_path / "log"
    log.touch()
    every = {
        # Not there at once.
        "redis-cli": "[ $(grep -c redis-cli $log) -gt 2 ]",
        "redis-server": "",
        "redis-benchmark": "",
        # Ends with its input, which is a table or never ends.
        "sqlite3": "while read -r line; do echo update >> $log; done",
        "gcc": "",
        "sort": "",
        "sleep": "",
        "usleep": "",
    }
    for name, text in every.items():
        script = put(
            tmp_path, f"bin/{name}", f"#!/bin/sh\nlog={log}\necho {name} >> $log\n{text}\n".encode()
        )
        script.chmod(0o755)
    return tmp_path


@contextlib.contextmanager
def loaded(name: str, guest: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The load, running as in the guest, its words in `log` too; ended with all it started."""
    program = PROGRAMS[name]
    for file, text in program.sources:
        put(guest, f"programs/{file}", text.encode())
    text = re.sub(r"(?<![\w.])/(load|programs)\b", rf"{guest}/\1", program.load)
    put(guest, "programs/load", text.encode())
    with (guest / "log").open("ab") as log:
        process = subprocess.Popen(
            ["sh", str(guest / "programs/load")],
            env={"PATH": f"{guest}/bin:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            start_new_session=True,
        )
    with process:
        try:
            yield process
        finally:
            # Not waited for yet: the group is its own, with all that its shell started.
            os.killpg(process.pid, signal.SIGKILL)


# What has to be over before a load is called ready, and what it then does again and again.
COURSES = {
    "redis": (["redis-server", *3 * ["redis-cli"], "redis-benchmark"], ["redis-benchmark"]),
    "redis-bursts": (
        ["redis-server", *3 * ["redis-cli"], "redis-benchmark"],
        ["redis-benchmark", "sleep"],
    ),
    "sqlite": (["sqlite3", *programs._TABLE.count("\n") * ["update"]], ["update"]),
    "sqlite-paced": (["sqlite3", *programs._TABLE.count("\n") * ["update"]], ["update", "usleep"]),
    "gcc": ([], ["gcc"]),
    "gcc-pauses": ([], ["gcc", "sleep"]),
    "sort": ([], ["sort"]),
}


@pytest.mark.parametrize("name", COURSES)
def test_a_load_says_ready_once_its_memory_is_filled_and_goes_on(name: str, guest: Path) -> None:
    before, again = COURSES[name]
    log = guest / "log"
    with loaded(name, guest) as process:
        while "ready" not in (lines := log.read_text().splitlines()):
            time.sleep(0.01)
        begun = lines.index("ready")
        # Of waiting for a server there may be more or less.
        assert [one for one in lines[:begun] if one != "usleep"] == before
        while len(lines := log.read_text().splitlines()) < begun + 30:
            time.sleep(0.01)
        assert process.poll() is None
    # Ready is said once, and what follows is done over and over.
    assert "ready" not in lines[begun + 1 :]
    assert set(again) == set(lines[begun + 15 :])


@pytest.mark.parametrize("name", ["python", "python-paced"])
def test_a_load_in_python_says_ready_and_goes_on(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (file, text), *rest = PROGRAMS[name].sources
    command = PROGRAMS[name].load.split()
    assert command[:3] == ["exec", "python3", f"/programs/{file}"] and not rest
    pauses = 0

    def sleep(_: float) -> None:
        nonlocal pauses
        pauses += 1
        assert capsys.readouterr().out == ("ready\n" if pauses == 1 else "")
        if pauses == 3:
            raise InterruptedError

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(sys, "argv", command[2:])
    with pytest.raises(InterruptedError):
        exec(compile(text, file, "exec"), {})


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_load_has_the_files_that_it_reads(name: str) -> None:
    program = PROGRAMS[name]
    read_by_load = set(re.findall(r"/programs/([\w.]+)", program.load))
    assert read_by_load == {file for file, _ in program.sources}


@pytest.mark.parametrize(("name", "rows"), [("sqlite", 200), ("sqlite-paced", 20)])
def test_an_update_rewrites_so_many_rows_and_no_more(name: str, rows: int) -> None:
    sources = dict(PROGRAMS[name].sources)
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as table:
        table.executescript(sources["table.sql"])
        for _ in range(2):
            table.executescript(sources["updates.sql"])
        sizes = table.execute("SELECT count(*), min(length(b)), max(length(b)) FROM t").fetchone()
        # Rows are drawn with repetition.
        written = table.execute("SELECT sum(a) FROM t").fetchone()[0]
    assert sizes == (24000, 1000, 1000)
    assert 1.8 * rows < written <= 2 * rows


# Its start


@contextlib.contextmanager
def console(folder: Path, *says: bytes, stays: bool = False) -> Iterator[tuple[Path, list[bytes]]]:
    """A serial console that says this once it was told something, and what it was told."""
    path = folder / "console"
    told: list[bytes] = []
    done = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            line, _ = listener.accept()
            with line, contextlib.suppress(ConnectionError):
                while told[-1:] != [b""] and not b"".join(told).endswith(b"&\n"):
                    told.append(line.recv(65536))
                for part in says:
                    line.sendall(part)
                if stays:
                    done.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path, told
        finally:
            done.set()
            thread.join()


def test_a_load_has_begun_when_the_console_says_so(tmp_path: Path) -> None:
    said = b"\xff# \r\nload begun: re", b"ady\r\n"
    with console(tmp_path, *said, stays=True) as (path, told):
        programs.start(path, "sort")
    sent = b"".join(told)
    # What somebody typed before is ended first; then one command, which the shell runs as a whole.
    assert sent.startswith(b"\n") and sent.count(b"\n") == 2
    subprocess.run(["sh", "-n"], input=sent, check=True)


def test_the_echo_of_the_command_is_not_its_answer(tmp_path: Path) -> None:
    """The terminal echoes what is typed, until its stty has run."""
    with console(tmp_path, b"") as (path, told), pytest.raises(RuntimeError):
        programs.start(path, "sort")
    (tmp_path / "console").unlink()
    with console(tmp_path, *told) as (path, _), pytest.raises(RuntimeError, match="did not begin"):
        programs.start(path, "sort")


def test_what_the_console_said_instead_is_told(tmp_path: Path) -> None:
    said = b"sh: mount: not found\r\n"
    with (
        console(tmp_path, said) as (path, _),
        pytest.raises(RuntimeError, match=r"'redis' did not begin.*mount: not found"),
    ):
        programs.start(path, "redis")


def test_a_console_that_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_READY_SECONDS", 0.1)
    with (
        console(tmp_path, b"# ", stays=True) as (path, _),
        pytest.raises(RuntimeError, match="'gcc' did not begin"),
    ):
        programs.start(path, "gcc")
