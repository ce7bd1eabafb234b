"""Files that others read while we write them.

The draft's name is always the same, so that what a killed process left of one goes with the next
write. The caller sees to it that nobody else writes the same file.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_in_one_step(path: Path, text: str) -> None:
    """Replace `path` so that a reader, or a crash, meets the old text or the new, never a part."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def link_in_one_step(path: Path, target: Path) -> None:
    """Make the symbolic link `path` lead to `target`, whatever it led to before."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(path)
