"""Does a VM come to no harm, whatever dies, hangs or is cut during its move?

Each fault is injected into a real move of a busy test guest, at a stage where the move is held, and
then judged: two never ran at once, the VM runs in exactly one place, all its pages (and the blocks
of its disk) verify, its settings are as before, vmferry tells the truth, and nothing is left over.
One line a fault in OUT/faults.jsonl; a second run injects only what is missing there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import time
import traceback
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from bench._faults_case import Case
from bench._faults_cases import cases
from bench._faults_hold import STAGE_3, STAGES
from bench._faults_inject import inject
from bench._faults_lab import Lab

# A fault that came too late for its stage is tried again, with another seed.
_TRIES = 4
_ELSEWHERE = ("start", "before the move")


class Results:
    """The rows on disk. Several processes may append to one file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "faults.jsonl"

    def rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def add(self, row: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def tries(self, case: Case) -> int | None:
        """How often it came too late so far; None where it is done."""
        rows = [row for row in self.rows() if row["case"] == case.id]
        if any(row["reached"] for row in rows) or len(rows) >= _TRIES:
            return None
        return len(rows)


def run(results: Results, chosen: list[Case]) -> None:
    """Inject what is missing; one lab serves all cases that fit it."""
    total = len(chosen)
    numbered = enumerate(chosen, start=1)
    for kind, group in itertools.groupby(
        numbered, key=lambda one: (one[1].disk, one[1].small_state)
    ):
        left = [(n, case) for n, case in group if results.tries(case) is not None]
        if not left:
            continue
        lab = Lab.make(disk=kind[0], small_state=kind[1])
        try:
            for number, case in left:
                _until_it_lands(results, lab, case, f"{number}/{total}")
        finally:
            for stray in lab.close():
                sys.stdout.write(f"left behind at the end: {stray}\n")


def _until_it_lands(results: Results, lab: Lab, case: Case, where: str) -> None:
    while (tries := results.tries(case)) is not None:
        seed = zlib.crc32(f"{case.id}/{tries}".encode())
        try:
            row = inject(lab, case, seed)
        except Exception:  # the harness failed, not vmferry: say so, and leave the case open
            traceback.print_exc()
            lab.stop_vm()
            return
        row["at"] = time.strftime("%Y-%m-%dT%H:%M:%S")
        results.add(row)
        landed = "" if row["reached"] else " (came too late)"
        told = row["status"] or f"exit {row['exit']}"
        sys.stdout.write(f"{where} {case.id}: {told}, {row['seconds']} s{landed}\n")
        for violation in row["violations"]:
            sys.stdout.write(f"    VIOLATION: {violation}\n")
        sys.stdout.flush()


def report(rows: list[dict[str, Any]]) -> str:
    """The matrix of counts, what it adds up to, and every violation."""
    done = [row for row in rows if row["reached"]]
    counts = Counter((row["fault"], row["stage"]) for row in done)
    columns = [*_ELSEWHERE, *STAGES]
    faults = sorted({row["fault"] for row in done})
    width = max([len(fault) for fault in faults], default=5)
    lines = [f"{chr(97 + n)}  {stage}" for n, stage in enumerate(columns)]
    lines.append(f"{'':{width}} " + " ".join(f"{chr(97 + n):>3}" for n in range(len(columns))))
    for fault in faults:
        cells = " ".join(f"{counts[fault, stage] or '.':>3}" for stage in columns)
        lines.append(f"{fault:{width}} {cells}")
    alone = [row["none_ran_ms"] for row in done if row["fault"] == "kill command"]
    lines += [
        f"faults: {len(done)}; inside stage 3: {sum(row['stage'] in STAGE_3 for row in done)}; "
        f"with a disk: {sum(row['disk'] for row in done)}; "
        f"through a proxy: {sum(row['proxy'] for row in done)}; "
        f"came too late and not counted: {len(rows) - len(done)}",
        f"samples of who runs: {sum(row['samples'] for row in rows)}; "
        f"two at once: {max((row['both_ran_ms'] for row in rows), default=0):.0f} ms at most",
        f"none ran after a kill of the command alone: {max(alone, default=0):.0f} ms at most",
        f"VMs lost with the process that had them: {sum(row['lost'] for row in done)}",
        f"verified afterwards: {sum(bool((row['verified'] or {}).get('ok')) for row in done)}",
    ]
    broken = [row for row in rows if row["violations"]]
    lines.append(f"rows with violations: {len(broken)}")
    lines += [f"  {row['case']}: {text}" for row in broken for text in row["violations"]]
    return "\n".join(lines)


def main() -> None:
    """Inject what is missing, and print the matrix."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="FOLDER")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their name")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every Nth case, from the Kth")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    options = parser.parse_args()
    first, step = (int(number) for number in options.part.split("/"))
    chosen = [case for case in cases() if options.only in case.id][first - 1 :: step]
    if options.list:
        sys.stdout.write("".join(f"{case.id}\n" for case in chosen))
        return
    # However it is told to end, it stops its VM first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(130))
    results = Results(options.out)
    run(results, chosen)
    sys.stdout.write(report(results.rows()) + "\n")


if __name__ == "__main__":
    main()
