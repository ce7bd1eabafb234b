"""What becomes of a bug of ours: its details are kept in a file, not poured over the user."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from vmferry import __version__
from vmferry.errors import VmferryError


def keep_bug(text: str) -> Path | None:
    """Keep a traceback in the state folder; None where that cannot be written."""
    from vmferry.host.paths import state_dir

    now = datetime.now(UTC)
    try:
        place = state_dir() / f"bug-{now:%Y%m%dT%H%M%SZ}-{os.getpid()}.txt"
        place.write_text(
            f"vmferry {__version__}, {now.isoformat()}\n{sys.argv}\n\n{text}",
            errors="backslashreplace",
        )
    except (OSError, VmferryError):
        return None
    return place
