"""Files of measurements beside the journal: one JSON object a line, the newest last."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def append(path: Path, data: Mapping[str, Any]) -> None:
    """Add a line to the file. Raises OSError."""
    line = json.dumps(data).encode() + b"\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        # One write: lines of two that are added at once do not mix.
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def newest_first(path: Path) -> Iterator[Any]:
    """What the lines hold; those that are not JSON are passed over. Nothing without a file."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in reversed(lines):
        try:
            yield json.loads(line)
        except ValueError:
            continue
