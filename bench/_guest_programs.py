"""Real programs of Debian in the test guest: fetched, packed, and started on its serial shell.

The packages are downloaded and unpacked, not installed, and need no root. What a program needs of
them goes into an archive that the guest has as a read-only disk: its shell unpacks it and starts
the load. The guest itself stays as vmferry builds it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vmferry.host import paths
from vmferry.testguest import cpio
from vmferry.testguest.packages import BuildError, run, unpack

_DEPENDS = ("--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks")
_KEPT = re.compile(r"lib|zlib|gcc-|cpp-|binutils|python3\.")
_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
_INTERPRETER = "lib64/ld-linux-x86-64.so.2"
_LIBRARIES = "lib/x86_64-linux-gnu"
_SECTOR = 512
_BEGUN = "load begun:"
_READY_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Program:
    """What is fetched, which of the packages' files are taken (globs), and the load.

    `load` is a shell script for the folder /load, which is a file system in memory. It has to print
    `ready` when its load is under way and never ends.
    """

    packages: tuple[str, ...]
    files: tuple[str, ...]
    load: str
    sources: tuple[tuple[str, str], ...] = ()


def _c_source(functions: int) -> str:
    """A file that keeps a compiler busy: functions with loops, tables and calls among them."""
    parts = ["#include <stddef.h>\n"]
    for n in range(functions):
        other = f"f{n - 1}(x ^ {n}, a)" if n else "x"
        parts.append(
            f"static const double t{n}[] = {{{', '.join(str(n * k % 97) for k in range(24))}}};\n"
            f"double f{n}(int x, const double *a) {{\n"
            f"  double s = {n}, u[24];\n"
            f"  for (int i = 0; i < 24; i++) u[i] = a[i] * t{n}[(i + x) % 24];\n"
            f"  for (int i = 0; i < 24; i++)\n"
            f"    for (int k = i; k < 24; k++)\n"
            f"      s += u[i] * u[k] > {n % 7} ? u[k] - u[i] : u[i] / (1 + k);\n"
            f"  switch (x % 5) {{ case 0: s += {other}; break; case 1: s *= x; break;\n"
            f"    case 2: s -= t{n}[x % 24]; break; default: s += s * s; }}\n"
            f"  return s;\n}}\n"
        )
    return "".join(parts)


_DICT = """
import random, sys, time
pause, batch = float(sys.argv[1]), int(sys.argv[2])
held = {n: bytes(1000) for n in range(24000)}
print("ready", flush=True)
while True:
    for _ in range(batch):
        held[random.randrange(24000)] = bytes([random.randrange(256)]) * 1000
    time.sleep(pause)
"""
_OBJECTS = """
import random, time
print("ready", flush=True)
while True:
    trees = [{"key": n, "of": [n * k for k in range(20)]} for n in range(12000)]
    random.shuffle(trees)
    trees.sort(key=lambda tree: tree["key"])
    time.sleep(1.5)
"""
_TABLE = """
PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA cache_size = -4000;
CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 24000)
  INSERT INTO t SELECT i, 0, randomblob(1000) FROM n;
"""
_UPDATE = (
    "BEGIN; UPDATE t SET a = a + 1, b = randomblob(1000) WHERE id IN (WITH RECURSIVE n(i) AS "
    "(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) "
    "SELECT abs(random() % 24000) FROM n); COMMIT;"
)
_REDIS = """
redis-server --port 0 --unixsocket /load/redis --save "" --maxmemory 96mb --daemonize yes >/dev/null
until redis-cli -s /load/redis ping >/dev/null 2>&1; do usleep 100000; done
redis-benchmark -s /load/redis -q -t set -d {size} -r {keys} -n {keys} -c 4 -P 32 >/dev/null
echo ready
while :; do
  redis-benchmark -s /load/redis -q -t set -d {size} -r {keys} -n {count} -c 4 >/dev/null
  {pause}
done
"""
_SQLITE = """
sqlite3 /load/db < /programs/table.sql >/dev/null
echo ready
while :; do cat /programs/updates.sql; {pause}; done | sqlite3 /load/db
"""
_GCC = """
echo ready
while :; do gcc -O2 -c /programs/source.c -o /load/object.o; {pause}; done
"""
_SORT = """
head -c 6000000 /dev/urandom | base64 -w 60 > /load/lines
echo ready
while :; do sort -S 8M -T /load /load/lines -o /load/sorted; done
"""
_REDIS_PACKAGES = ("redis-server", "redis-tools")
_REDIS_FILES = (
    "usr/bin/redis-server",
    "usr/bin/redis-check-rdb",
    "usr/bin/redis-cli",
    "usr/bin/redis-benchmark",
)
_GCC_FILES = (
    "usr/bin/gcc",
    "usr/bin/gcc-[0-9]*",
    "usr/bin/x86_64-linux-gnu-gcc",
    "usr/bin/x86_64-linux-gnu-gcc-[0-9]*",
    "usr/bin/as",
    "usr/bin/x86_64-linux-gnu-as",
    "usr/lib*/gcc/x86_64-linux-gnu/*/cc1",
    "usr/lib*/gcc/x86_64-linux-gnu/*/liblto_plugin.so",
    "usr/lib/gcc/x86_64-linux-gnu/*/include/stddef.h",
)
_PYTHON_FILES = ("usr/bin/python3", "usr/bin/python3.[0-9]*", "usr/lib/python3.*/**/*.py")


def _redis(size: int, keys: int, count: int, pause: str) -> Program:
    load = _REDIS.format(size=size, keys=keys, count=count, pause=pause)
    return Program(_REDIS_PACKAGES, _REDIS_FILES, load)


def _sqlite(rows: int, pause: str) -> Program:
    sources = (("table.sql", _TABLE), ("updates.sql", _UPDATE.format(rows=rows) + "\n"))
    return Program(("sqlite3",), ("usr/bin/sqlite3",), _SQLITE.format(pause=pause), sources)


def _gcc(functions: int, pause: str) -> Program:
    load = _GCC.format(pause=pause)
    return Program(("gcc", "binutils"), _GCC_FILES, load, (("source.c", _c_source(functions)),))


def _python(text: str, arguments: str = "") -> Program:
    load = f"exec python3 /programs/load.py {arguments}\n"
    return Program(("python3-minimal",), _PYTHON_FILES, load, (("load.py", text),))


PROGRAMS = {
    "redis": _redis(1024, 24000, 1000000, ":"),
    "redis-bursts": _redis(100, 60000, 4000, "sleep 1"),
    "sqlite": _sqlite(200, ":"),
    "sqlite-paced": _sqlite(20, "usleep 200000"),
    "gcc": _gcc(120, ":"),
    "gcc-pauses": _gcc(20, "sleep 3"),
    "sort": Program(("coreutils",), ("bin/sort", "usr/bin/sort"), _SORT),
    "python": _python(_DICT, "0.01 400"),
    "python-paced": _python(_OBJECTS),
}


def archive(name: str) -> Path:
    """The disk with the program, from the cache or made now. Raises BuildError."""
    program = PROGRAMS[name]
    digest = hashlib.sha256(json.dumps([repr(program), Path(__file__).read_text()]).encode())
    folder = paths.cache_dir() / "bench-programs" / name
    place = folder / f"{digest.hexdigest()[:16]}.cpio"
    if not place.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as work:
            root = unpack(_closure(program.packages, Path(work)), Path(work))
            packed = Path(work) / "archive"
            packed.write_bytes(_pack(program, root))
            packed.rename(place)
    return place


def start(console: Path, name: str) -> None:
    """Unpack and start the load by the shell on the serial console; return when it is under way.

    Raises RuntimeError with what the console said where it does not begin.
    """
    words = (
        "stty -echo; mkdir -p /load && mount -t tmpfs -o size=90% tmpfs /load && cd / && "
        "cpio -idmu < /dev/vda 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches; "
        "PATH=/usr/bin:/bin setsid sh /programs/load < /dev/null 2>/load/errors | "
        f'while read word; do echo "{_BEGUN} $word" > /dev/ttyS0; done &\n'
    )
    until = time.monotonic() + _READY_SECONDS
    wanted = f"{_BEGUN} ready"
    said = ""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(console))
        line.sendall(b"\n" + words.encode())
        while wanted not in said:
            line.settimeout(max(until - time.monotonic(), 0.001))
            try:
                heard = line.recv(4096)
            except TimeoutError:
                heard = b""
            if not heard:
                raise RuntimeError(f"'{name}' did not begin in the guest: {said[-800:]}")
            said += heard.decode(errors="replace")


def _closure(packages: Iterable[str], work: Path) -> list[str]:
    """The packages and of what they depend on those that hold libraries or parts of gcc."""
    told = run(["apt-cache", "depends", *_DEPENDS, "--no-replaces", *packages], work).decode()
    names = [line for line in told.splitlines() if line and not line.startswith((" ", "<"))]
    return sorted({name for name in names if name in packages or _KEPT.match(name)})


def _pack(program: Program, root: Path) -> bytes:
    taken: dict[str, bytes] = {}
    links: dict[str, str] = {}
    executable = set()
    for pattern in program.files:
        for file in sorted(root.glob(pattern)):
            name = str(file.relative_to(root))
            if file.is_symlink():
                links[name] = str(file.readlink())
            elif file.is_file():
                taken[name] = file.read_bytes()
                executable.add(name)
    for name, library in _libraries(root, [root / name for name in taken]).items():
        taken[name] = library.read_bytes()
        executable.add(name)
    taken |= {f"programs/{name}": text.encode() for name, text in program.sources}
    taken["programs/load"] = program.load.encode()
    data = cpio.pack(taken, links, frozenset(executable))
    return data + b"\0" * (-len(data) % _SECTOR)


def _libraries(root: Path, files: Iterable[Path]) -> dict[str, Path]:
    """The shared libraries that these files need, and they in turn, by their place in the guest."""
    held = {file.name: file for file in root.rglob("*.so*") if not file.is_dir()}
    found: dict[str, Path] = {}
    pending = list(files)
    while pending:
        file = pending.pop()
        if file.read_bytes()[:4] != b"\x7fELF":
            continue
        told = run(["readelf", "-d", str(file)], root).decode()
        for need in _NEEDED.findall(told):
            place = _INTERPRETER if need == Path(_INTERPRETER).name else f"{_LIBRARIES}/{need}"
            if place in found:
                continue
            if need not in held:
                raise BuildError(f"no package of the program has {need}, which {file.name} needs")
            found[place] = held[need].resolve()
            pending.append(found[place])
        if _NEEDED.search(told) and _INTERPRETER not in found:
            found[_INTERPRETER] = held[Path(_INTERPRETER).name].resolve()
    return found
