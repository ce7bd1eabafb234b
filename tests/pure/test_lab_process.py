"""How the lab starts its emulators: each on the core that has the fewest."""

from __future__ import annotations

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import places, process
from lab.machine import Files
from vmferry.host.process import ProcessId
from vmferry.host.threads import cores_of


def _start(folder: Path) -> ProcessId:
    folder.mkdir()
    emulator = [sys.executable, "-c", "import time; time.sleep(600)"]
    words = [*emulator, "-name", "guest=here", f"{places.cache()}/kernel"]
    return process.start(words, Files(folder, folder / "disk"), {}, tied=False)


def test_emulators_that_start_at_once_share_the_cores_evenly(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    folders = [tmp_path / str(number) for number in range(2 * len(cores))]
    with ThreadPoolExecutor(len(folders)) as pool:
        emulators = list(pool.map(_start, folders))
    try:
        assert Counter(cores_of(one.pid) for one in emulators) == {
            frozenset({core}): 2 for core in cores
        }
    finally:
        for one in emulators:
            process.end(one)
    assert sorted(os.sched_getaffinity(0)) == cores


def test_the_core_of_one_that_ended_is_taken_again(tmp_path: Path) -> None:
    first = _start(tmp_path / "first")
    core = cores_of(first.pid)
    process.end(first)
    again = _start(tmp_path / "again")
    try:
        assert cores_of(again.pid) == core
    finally:
        process.end(again)
