"""A move on a terminal: a few lines that are drawn over again, at most four times a second."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from vmferry.cli.display import LIVE_SECONDS, STAGES, Display, fields, going, stage_number
from vmferry.cli.output import printable
from vmferry.precopy.progress import Snapshot
from vmferry.report.words import story
from vmferry.units import format_duration

# A piece of a line and its style.
Part = tuple[str, str]

BAR_COLUMNS = 60
DONE, NOW, LATER = "green", "bold cyan", "bright_black"


class LiveDisplay(Display):
    """Draws with rich, and only what fits the terminal's width."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = Console(file=stream, highlight=False, emoji=False, markup=False)
        # It refreshes when it is told to: a thread of its own would cost more than the drawing.
        self._live = Live(console=self._console, auto_refresh=False, redirect_stderr=False)
        self._signs = Signs.fitting(self._console.encoding)

    def stop(self) -> None:
        if self._live.is_started and self._last is not None:
            self._draw(self._last)  # what came last must not be what is missing on the screen
        self._live.stop()

    def _due(self, snapshot: Snapshot, since: float) -> bool:
        return since >= LIVE_SECONDS

    def _draw(self, snapshot: Snapshot) -> None:
        if not self._live.is_started:
            self._live.start()
        picture = draw(snapshot, self._console.width, self._signs)
        self._live.update(picture, refresh=True)

    def _say(self, text: str) -> None:
        self._console.print(Text(printable(text)))

    def _tell(self, outcome: Mapping[str, Any]) -> None:
        self._say(story(outcome))


class Signs:
    """The characters of the picture."""

    def __init__(self, done: str, now: str, later: str, full: str, empty: str, dot: str) -> None:
        self.done, self.now, self.later = done, now, later
        self.full, self.empty, self.dot = full, empty, dot

    @classmethod
    def fitting(cls, encoding: str) -> Signs:
        """What a terminal of this encoding can show."""
        if encoding.lower().startswith("utf"):
            return cls("✓", "▶", "○", "━", "─", " · ")
        return cls("x", ">", " ", "#", "-", ", ")


def draw(snapshot: Snapshot, width: int, signs: Signs) -> Text:
    """The picture of one snapshot, no line of it wider than `width`."""
    figures = [(field, "") for field in fields(snapshot)]
    style = "yellow" if snapshot.will_not_converge else ""
    lines = [
        *_packed(_stages(stage_number(snapshot), signs), "   ", width),
        _bar(snapshot.fraction, snapshot.t, width, signs),
        *_packed(figures, signs.dot, width),
        *([(line, style)] for line in textwrap.wrap(going(snapshot), width)),
    ]
    text = Text(no_wrap=True, overflow="crop")
    for number, line in enumerate(lines):
        text.append("\n" if number else "")
        for part, look in line:
            text.append(part, look)
    return text


def _stages(stage: int, signs: Signs) -> list[Part]:
    names = []
    for number, name in enumerate(STAGES, start=1):
        if number < stage:
            names.append((f"{signs.done} {name}", DONE))
        elif number == stage:
            names.append((f"{signs.now} {name}", NOW))
        else:
            names.append((f"{signs.later} {name}", LATER))
    return names


def _bar(fraction: float, elapsed: float, width: int, signs: Signs) -> list[Part]:
    figures = f" {int(fraction * 100):3d} %  {format_duration(elapsed)}"
    columns = max(min(BAR_COLUMNS, width - len(figures)), 0)
    filled = int(columns * fraction)
    return [
        (signs.full * filled, "cyan"),
        (signs.empty * (columns - filled), LATER),
        (figures[:width], ""),
    ]


def _packed(parts: Sequence[Part], between: str, width: int) -> list[list[Part]]:
    """As many parts on a line as fit."""
    lines: list[list[Part]] = []
    room = 0
    for text, style in parts:
        if lines and len(between) + len(text) <= room:
            lines[-1] += [(between, ""), (text, style)]
            room -= len(between) + len(text)
        else:
            lines.append([(text[:width], style)])
            room = width - len(text)
    return lines
