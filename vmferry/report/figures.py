"""What the pictures have in common: colours, frames, axes and lines."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from vmferry.report.thin import Point
from vmferry.units import KIB, format_size

# Okabe and Ito's colours, which colour-blind people tell apart.
BLUE, VERMILION, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
INK, GREY, GRID = "#24292f", "#6e7781", "#e4e7eb"
HEIGHT = 320
_DURATIONS = [part * 10.0**power for power in range(-5, 6) for part in (1, 3)]
# So many names have room below a picture on a phone.
_MOST_NAMED = 4


def framed() -> go.Figure:
    """An empty figure in the style of all of them."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=HEIGHT,
        margin={"l": 74, "r": 12, "t": 34, "b": 46},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        hovermode="x unified",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="#ffffff",
    )
    axis = {"gridcolor": GRID, "linecolor": GREY, "zeroline": False}
    figure.update_xaxes(**axis, showline=True, ticks="outside", tickcolor=GREY)
    figure.update_yaxes(**axis)
    figure.update_xaxes(title_font_size=13)
    figure.update_yaxes(title_font_size=13)
    return figure


def over_time(span: tuple[float, float]) -> go.Figure:
    """An empty figure over the time of a run: its first and last second."""
    first, last = span
    pad = (last - first) * 0.01 or 1.0
    figure = framed()
    figure.update_xaxes(
        range=[first - pad, last + pad], title_text="seconds since the migration began"
    )
    return figure


def add_line(
    figure: go.Figure,
    name: str,
    points: Sequence[Point],
    colour: str,
    text: Any,
    *,
    width: float = 1.5,
    dash: str = "solid",
    shape: str = "linear",
) -> None:
    """A line through `points`; `text` writes a value where somebody points at it."""
    figure.add_scatter(
        name=name,
        x=[round(t, 4) for t, _ in points],
        y=[float(f"{value:.6g}") for _, value in points],
        customdata=[text(value) for _, value in points],
        hovertemplate="%{customdata}",
        mode="lines",
        line={"color": colour, "width": width, "dash": dash, "shape": shape},
    )


def add_band(
    figure: go.Figure, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
) -> None:
    """The area between two lines, without a word in the legend."""
    figure.add_scatter(
        x=[*x, *reversed(x)],
        y=[float(f"{value:.6g}") for value in (*high, *reversed(low))],
        fill="toself",
        fillcolor=faint(colour),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )


def add_steps(
    figure: go.Figure, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
) -> None:
    """The same between two lines that go in steps."""
    for values, fill in ((low, "none"), (high, "tonexty")):
        figure.add_scatter(
            x=x,
            y=[float(f"{value:.6g}") for value in values],
            fill=fill,
            fillcolor=faint(colour),
            line={"width": 0, "shape": "hv"},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
        )


def faint(colour: str) -> str:
    """`colour` (`#rrggbb`) as a wash under lines."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def size_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis of bytes: powers of four, few enough to be read."""
    powers = [KIB * 4**n for n in range(25)]
    inside = [power for power in powers if low <= power <= high]
    ticks = inside[:: max(1, -(-len(inside) // 8))] or [int(high)]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [re.sub(r"\.0+ ", " ", format_size(tick)) for tick in ticks],
    }


def duration_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis of seconds."""
    inside = [one for one in _DURATIONS if low <= one <= high]
    named = [one for one in inside if len(inside) <= _MOST_NAMED or _is_power(one)]
    ticks = inside or [high]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [_short(tick) if tick in (named or ticks) else "" for tick in ticks],
    }


def _is_power(value: float) -> bool:
    return round(math.log10(value), 6).is_integer()


def _short(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{1000 * seconds:g} ms"
