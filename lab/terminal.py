"""A shell on a host, in the terminal that this command was started from."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import termios
import tty
from typing import Any

from lab.agent import Agent
from lab.inside.client import Conversation
from vmferry.errors import UsageError

_PIECE = 16 * 1024


def read_input() -> bytes:
    """The next piece of standard input, none at its end and where it is a terminal.

    Not through sys.stdin: a thread that waits in it would hold it when Python ends.
    """
    return b"" if os.isatty(0) else os.read(0, _PIECE)


def no_input() -> bytes:
    return b""


def shell(agent: Agent) -> int:
    """A login shell as root until it ends; returns its status. Raises LabError or UsageError."""
    if not (os.isatty(0) and os.isatty(1)):
        raise UsageError("a shell needs a terminal", hint="`./dev lab run HOST -` takes a script")
    before = termios.tcgetattr(0)
    size = shutil.get_terminal_size()
    request: dict[str, Any] = {
        "words": ["/bin/bash", "-l"],
        "terminal": [size.lines, size.columns],
    }

    def started(conversation: Conversation) -> None:
        def resized(*_: object) -> None:
            now = shutil.get_terminal_size()
            conversation.resize(now.lines, now.columns)

        signal.signal(signal.SIGWINCH, resized)

    try:
        tty.setraw(0)
        ended = agent.converse(request, lambda: os.read(0, _PIECE), _show, started)
    finally:
        signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        termios.tcsetattr(0, termios.TCSADRAIN, before)
    return ended.status if ended.status >= 0 else 128 - ended.status


def _show(data: bytes, _: bool) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
