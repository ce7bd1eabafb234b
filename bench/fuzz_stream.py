"""Is the stream reader ever wrong? Coverage-guided fuzzing against the plain reader of tests/.

An input is a byte that says how the stream comes in pieces, and the stream (pages of 1 KiB, so
that inputs are small) or orders to make one (_stream_program.py). Reader and plain reader must tell
the same of it, to the last offset, and nothing but a StreamError may be raised. Needs atheris,
which is no dependency of vmferry: put it and numpy into a virtual environment of its own and run
there `python -m bench.fuzz_stream`. What was found to be worth trying is kept, so a further run
goes on where the last one ended.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from bench._stream_program import PAGE, stream_of
from tests.stream_encoder import Encoder, Row, capabilities, subsection, target_page_bits

MAX_INPUT = 16384
HANG_SECONDS = 60
RSS_LIMIT_MIB = 2048
# The sizes of the pieces, by an input's first byte; the last is the whole.
PIECES = (1, 2, 3, 7, 8, 9, 64, 1000, 1031, 1032, 1033, 5000, MAX_INPUT)
# From this first byte on the rest of an input are orders, of which so many are carried out.
MADE = 128
MAX_ORDERS = 64
SMALL_UNTIL = 4096
_OUTCOMES = "outcomes.json"
_TOLD_EVERY = 200


def seeds() -> list[bytes]:
    """Streams with everything that the reader knows."""
    ram: tuple[Row, ...] = ((b"pc.ram", 64 * PAGE), (b"vga", 8 * PAGE))
    found = []
    plain = _begun(Encoder(PAGE), *ram)
    _pages(plain)
    found.append(plain)
    configured = Encoder(PAGE)
    configured.configuration(target_page_bits(10), subsection(b"configuration/uuid", bytes(16)))
    configured.command(1)
    configured.command(2, bytes(4))
    _pages(_begun(configured, *ram))
    configured.command(11)
    found.append(configured)
    advised = Encoder(PAGE)
    advised.advise(PAGE | 1 << 21)
    _pages(_begun(advised, (b"vga", 8 * PAGE), (b"pc.ram", 1 << 21, 1 << 21)))
    found.append(advised)
    shared = Encoder(PAGE)
    shared.configuration(capabilities(b"x-ignore-shared"))
    _pages(_begun(shared, (b"vga", 8 * PAGE, 1 << 32), (b"pc.ram", 64 * PAGE, 0)))
    found.append(shared)
    for e in found:
        e.end()
        e.ordinary(b"pc.ram", PAGE, bytes(PAGE))
        e.close_section()
        e.devices()
    return [bytes(e.out) for e in found]


def _begun(e: Encoder, *blocks: Row) -> Encoder:
    e.start()
    e.blocks(*blocks)
    e.close_section()
    e.part()
    return e


def _pages(e: Encoder) -> None:
    for page in range(40):
        e.zero(b"pc.ram", page * PAGE)
    for page in range(3):
        e.ordinary(b"pc.ram", page * PAGE, bytes([page]) * PAGE)
    for page in range(3):
        e.xbzrle(b"vga", page * PAGE, bytes(range(1, 9)))
    e.zero(b"pc.ram", 0)
    e.ordinary(b"vga", 0, bytes(PAGE))
    e.close_section()


def pieces_of(stream: bytes, size: int) -> list[bytes]:
    """Pieces of one size; larger ones after a while, for a byte at a time is slow."""
    edges = [*range(0, min(len(stream), SMALL_UNTIL), size)]
    edges += range(edges[-1] + size, len(stream), size + SMALL_UNTIL) if edges else ()
    return [stream[a:b] for a, b in itertools.pairwise([*edges, len(stream)])]


def fuzz(corpus: Path, seconds: int) -> None:
    """Fuzz in this process, which atheris ends."""
    atheris = importlib.import_module("atheris")  # no dependency, so mypy shall not look for it
    with atheris.instrument_imports(include=["vmferry.stream"]):
        from tests.stream_fast import fast_events
    from tests.plain_stream import plain_events

    outcomes: Counter[str] = Counter()

    def one(data: bytes) -> None:
        how, rest = (data[0] if data else 0), data[1:]
        stream = stream_of(rest[:MAX_ORDERS]) if how >= MADE else rest
        pieces = pieces_of(stream, PIECES[how % len(PIECES)])
        expected = plain_events(stream, PAGE)
        told = fast_events(pieces, PAGE)
        if told != expected:
            raise AssertionError(f"reader: {told[-1]}, plain reader: {expected[-1]}")
        outcomes[expected[-1][0]] += 1
        outcomes["pages"] += sum(event[0] == "page" for event in expected)
        outcomes["inputs"] += 1
        if outcomes["inputs"] % _TOLD_EVERY == 0:  # atheris ends the process without a last word
            (corpus.parent / _OUTCOMES).write_text(json.dumps(outcomes))

    options = {
        "max_total_time": seconds,
        "max_len": MAX_INPUT,
        "timeout": HANG_SECONDS,
        "rss_limit_mb": RSS_LIMIT_MIB,
        "artifact_prefix": f"{corpus.parent}/failed-",
    }
    words = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *words, str(corpus)], one)
    atheris.Fuzz()


def main() -> None:
    """Fuzz in a process of its own and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--out", type=Path, default=Path("bench-results/fuzz_stream"))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    corpus: Path = arguments.out / "corpus"
    if arguments.inside:
        fuzz(corpus, arguments.seconds)
        return
    if importlib.util.find_spec("atheris") is None:
        sys.exit("this needs atheris: pip install atheris numpy, in an environment of its own")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, stream in enumerate(seeds()):
        for how in range(len(PIECES)):
            (corpus / f"seed-{number}-{how}").write_bytes(bytes([how]) + stream)
    for how in range(MADE, MADE + len(PIECES)):
        (corpus / f"seed-made-{how}").write_bytes(bytes((how, *range(0, 250, 7))))
    words = [sys.executable, "-m", "bench.fuzz_stream", "--inside"]
    words += ["--seconds", str(arguments.seconds), "--out", str(arguments.out)]
    ended = subprocess.run(words, stderr=subprocess.PIPE, text=True)
    sys.stdout.write(report(arguments.out, ended))
    sys.exit(ended.returncode)


def report(folder: Path, ended: subprocess.CompletedProcess[str]) -> str:
    """Runs, coverage, outcomes; and the end of what atheris said where it found something."""
    done = re.findall(r"Done (\d+) runs in (\d+) second", ended.stderr)
    if ended.returncode or not done:
        return f"FAILED ({ended.returncode}); the input is in {folder}\n{ended.stderr[-4000:]}\n"
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", ended.stderr)
    runs, seconds = done[-1]
    outcomes = json.loads((folder / _OUTCOMES).read_text())
    return (
        f"{int(runs):,} inputs in {int(seconds)} s, none told otherwise by the plain reader, "
        f"no other exception, no hang\n"
        f"outcomes: {outcomes}\n"
        f"(branches, features, inputs kept) reached: {covered[-1] if covered else 'unknown'}\n"
    )


if __name__ == "__main__":
    main()
