"""The picture of the dirty curve: what the guest rewrites in windows of any length.

Beside it what can be sent meanwhile, and what the downtime limit allows to be left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import plotly.graph_objects as go

from vmferry.errors import UsageError
from vmferry.precopy.case import Case
from vmferry.precopy.case_of import case_of
from vmferry.precopy.draws import DRAWS
from vmferry.precopy.forecast_map import LOOK_SECONDS, WINDOW_SECONDS
from vmferry.precopy.profile import DirtyProfile
from vmferry.precopy.shape import Shapes
from vmferry.report.figures import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILION,
    add_band,
    add_line,
    duration_axis,
    framed,
    size_axis,
)
from vmferry.report.recording import Recording
from vmferry.report.told import Told
from vmferry.units import format_duration, format_rate, format_size

_STEPS = 80
_MARGIN = 1.6
# What nobody would tell from nothing in the picture of a guest that writes.
_LEAST_BYTES = 64 * 1024
_TALL = 400


@dataclass(frozen=True, slots=True)
class Curves:
    """What this run found and, where it was forecast by it, what had been measured before.

    `speed` in bytes per second, `limit` (QEMU's downtime limit) and `shortest` (pass) in seconds.
    """

    found: DirtyProfile | None
    earlier: DirtyProfile | None
    speed: float
    limit: float
    shortest: float

    @property
    def profiles(self) -> list[DirtyProfile]:
        return [one for one in (self.found, self.earlier) if one is not None]


def curves(recording: Recording) -> Curves | None:
    """The curves that there are; None where nothing was measured."""
    earlier = _before(recording.forecasts)
    case = _case(recording)
    if case is not None and case.profile.points:
        limited = 0 < case.setting.bandwidth <= case.link.speed.p50
        return Curves(
            case.profile,
            earlier,
            case.speed,
            case.setting.downtime_limit_ms / 1000,
            WINDOW_SECONDS if limited else LOOK_SECONDS,
        )
    if earlier is None:
        return None
    given = recording.forecasts[0].given
    speed, cap = given["speed"]["p50"], given["bandwidth"]
    return Curves(
        None,
        earlier,
        min(cap or speed, speed),
        given["downtime_limit_ms"] / 1000,
        WINDOW_SECONDS if 0 < cap <= speed else LOOK_SECONDS,
    )


def draw(known: Curves) -> go.Figure:
    """Both axes are logarithmic: a constant speed is a straight line, and so is a power of T."""
    windows = _windows(known)
    bands = [_band(profile, windows) for profile in known.profiles]
    sendable = [(t, known.speed * t) for t in windows]
    threshold = known.speed * known.limit
    figure = framed()
    # The legend tells them in this order; what was measured lies on top all the same.
    styles = [(BLUE, "solid", "circle"), (PURPLE, "dash", "diamond")]
    named = [(one, _named(one, one is known.found)) for one in known.profiles]
    if known.found is None:
        styles = styles[1:]
    for (profile, name), (low, middle, high), (colour, dash, symbol) in zip(
        named, bands, styles, strict=False
    ):
        add_band(figure, windows, low, high, colour)
        points = list(zip(windows, middle, strict=True))
        add_line(figure, name, points, colour, format_size, width=2, dash=dash)
        _add_points(figure, profile, colour, symbol)
    name = f"can be sent at {format_rate(known.speed)}"
    add_line(figure, name, sendable, GREEN, format_size, dash="dashdot")
    name = f"threshold: in the limit of {format_duration(known.limit)}"
    ends = [(t, threshold) for t in (windows[0], windows[-1])]
    add_line(figure, name, ends, VERMILION, format_size, dash="dash")
    figure.add_vline(x=known.shortest, line={"color": GREY, "width": 1, "dash": "dot"})
    tops = [point.high for profile in known.profiles for point in profile.points]
    most = max([*tops, *(high[-1] for _, _, high in bands), threshold])
    least = min([threshold, *(low[0] for low, _, _ in bands), known.speed * windows[0]])
    least = max(least, _LEAST_BYTES)
    figure.update_yaxes(**size_axis(least / _MARGIN, most * _MARGIN), title_text="memory")
    figure.update_xaxes(
        **duration_axis(windows[0], windows[-1]),
        title_text=f"length of the window (dotted: {format_duration(known.shortest)})",
    )
    figure.update_layout(height=_TALL, hovermode="closest")
    return figure


def _before(forecasts: Sequence[Told]) -> DirtyProfile | None:
    """What the forecast before the start was made of."""
    if not forecasts or forecasts[0].given.get("standing") is not None:
        return None
    curve = forecasts[0].given.get("curve") or {}
    try:
        return DirtyProfile.from_json(curve) if curve.get("points") else None
    except UsageError:
        return None


def _case(recording: Recording) -> Case | None:
    try:
        case = case_of(recording.trace, "rehearsal" if recording.profile is not None else "run")
        if recording.profile is None:
            return case
        # A rehearsal measured more than its passes tell.
        return replace(case, profile=DirtyProfile.from_json(recording.profile))
    except UsageError:
        return None


def _windows(known: Curves) -> list[float]:
    measured = [point.seconds for profile in known.profiles for point in profile.points]
    first = min([*measured, known.shortest, known.limit]) / _MARGIN
    last = max([*measured, known.shortest, known.limit]) * _MARGIN
    return [float(one) for one in np.geomspace(first, last, _STEPS)]


def _band(
    profile: DirtyProfile, windows: Sequence[float]
) -> tuple[list[float], list[float], list[float]]:
    """The curve as forecasts take it: the 10th, 50th and 90th percentile of its draws."""
    draws = np.tile(np.array(windows)[:, None], DRAWS)
    found = Shapes.of([profile]).new(draws, np.arange(DRAWS))
    low, middle, high = np.quantile(found, [0.1, 0.5, 0.9], axis=1)
    return low.tolist(), middle.tolist(), high.tolist()


def _add_points(figure: go.Figure, profile: DirtyProfile, colour: str, symbol: str) -> None:
    points = [one for one in profile.points if one.bytes > 0]
    figure.add_scatter(
        x=[one.seconds for one in points],
        y=[one.bytes for one in points],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [one.high - one.bytes for one in points],
            "arrayminus": [one.bytes - one.low for one in points],
            "thickness": 1.2,
            "width": 4,
        },
        customdata=[
            f"{format_size(one.bytes)} ({format_size(one.low)} to {format_size(one.high)})"
            f"<br>in {format_duration(one.seconds)}, {one.n} times measured"
            for one in points
        ],
        hovertemplate="%{customdata}<extra></extra>",
        mode="markers",
        marker={
            "color": colour,
            "size": 9,
            "symbol": symbol,
            "line": {"color": "#fff", "width": 1},
        },
        showlegend=False,
    )


def _named(profile: DirtyProfile, own: bool) -> str:
    if own:
        return "rewritten, by this run"
    source = {"run": "an earlier run", "rehearsal": "a rehearsal", "trace": "a trace"}
    return f"rewritten before, by {source.get(profile.source, profile.source)}"
