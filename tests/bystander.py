"""A process with a command line of one's choice, for what looks processes up by theirs."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

_PROGRAM = "import time; print(flush=True); time.sleep(600)"


@contextlib.contextmanager
def process_with(*words: object) -> Iterator[int]:
    """The pid of one that runs until the block ends; `words` are at the end of its command line.

    /proc tells nothing of a process that has only just begun: so it speaks first.
    """
    line = [sys.executable, "-c", _PROGRAM, *map(str, words)]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None and child.stdout.readline()
            yield child.pid
        finally:
            child.kill()
