"""The heat map of an X-ray as a plotly figure: which memory was sent in which pass."""

from __future__ import annotations

import plotly.graph_objects as go

from vmferry.precopy.xray import XRayResult
from vmferry.report.figures import BLUE, GREY, INK
from vmferry.units import format_size

HEIGHT = 420
_MOST_TICKS = 12
# White is never; the middle is light, so that the pages that are sent every time stand out.
_COLOURS = [[0.0, "#ffffff"], [0.02, "#e3eef6"], [0.5, "#7fb3d5"], [1.0, BLUE]]


def heatmap(result: XRayResult) -> go.Figure | None:
    """Guest memory from top to bottom, passes from left to right; None where no page was sent."""
    heat = result.heat
    if not result.rows:
        return None
    names = [f"{one.block} at {format_size(one.start)}" for one in heat.regions]
    figure = go.Figure()
    figure.add_heatmap(
        z=[[round(share, 4) for share in row] for row in _shares(result)],
        x=_columns(result),
        y=names,
        customdata=heat.sends,
        hovertemplate=(
            f"%{{y}}, {result.by} %{{x}}<br>%{{customdata:,}} pages sent,"
            " %{z:.0%} of the region<extra></extra>"
        ),
        colorscale=_COLOURS,
        zmin=0,
        zmax=1,
        showscale=False,
    )
    figure.update_layout(
        template="none",
        height=HEIGHT,
        margin={"l": 74, "r": 12, "t": 12, "b": 46},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
    )
    step = -(-len(names) // _MOST_TICKS)
    figure.update_yaxes(
        type="category",
        autorange="reversed",
        tickvals=names[::step],
        automargin=True,
        showline=True,
        linecolor=GREY,
    )
    figure.update_xaxes(
        type="category",
        title={"text": result.by, "font": {"size": 13}},
        nticks=20,
        showline=True,
        linecolor=GREY,
        ticks="outside",
        tickcolor=GREY,
    )
    return figure


def _shares(result: XRayResult) -> list[list[float]]:
    """Which part of each region was sent in each column's passes, on the average."""
    rows = result.column_rows
    pages = [max(1, one.size // result.page_size) for one in result.heat.regions]
    return [
        [count / (of * n) for count, n in zip(row, rows, strict=True)]
        for row, of in zip(result.heat.sends, pages, strict=True)
    ]


def _columns(result: XRayResult) -> list[str]:
    names, first = [], 1
    for n in result.column_rows:
        names.append(str(first) if n == 1 else f"{first}-{first + n - 1}")
        first += n
    return names
