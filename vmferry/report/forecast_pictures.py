"""How the forecasts of a run went on: its end, and the odds that there is one, pass by pass."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from vmferry.precopy.forecast import CERTAIN
from vmferry.report.figures import BLUE, GREEN, VERMILION, add_line, add_steps, faint, over_time
from vmferry.report.told import Told
from vmferry.units import format_duration, format_share

_LEAST = 2


def narrowing(
    told: Sequence[Told], span: tuple[float, float], ended: float | None
) -> go.Figure | None:
    """When the migration was foretold to end, by when that was told; `ended` in seconds."""
    known = [(one.t, one.total_ms) for one in told if one.total_ms is not None]
    if len(known) < _LEAST:
        return None
    over = span[1] if ended is None else ended
    figure = over_time(span)
    # What was told holds until it is told again.
    known.append((max(over, known[-1][0]), known[-1][1]))
    times = [t for t, _ in known]
    low, middle, high = (
        [share / 1000 for share in shares]
        for shares in zip(*((q.p10, q.p50, q.p90) for _, q in known), strict=True)
    )
    add_steps(figure, times, low, high, BLUE)
    ends = list(zip(times, middle, strict=True))
    add_line(
        figure, "foretold end, with its band", ends, BLUE, format_duration, width=2, shape="hv"
    )
    figure.data[-1].customdata = [
        f"foretold {format_duration(m)} ({format_duration(a)} to {format_duration(b)})"
        for a, m, b in zip(low, middle, high, strict=True)
    ]
    if ended is not None:
        real = [(0.0, ended), (over, ended)]
        add_line(figure, "the real end", real, VERMILION, format_duration, dash="dash")
    figure.update_yaxes(title_text="end, in seconds")
    return figure


def odds(told: Sequence[Told], span: tuple[float, float]) -> go.Figure | None:
    """How likely it was that the migration converges; None where the verdict never changed."""
    if len({one.verdict for one in told}) < _LEAST:
        return None
    figure = over_time(span)
    for colour, ends in ((GREEN, (CERTAIN, 1.0)), (VERMILION, (0.0, 1 - CERTAIN))):
        y0, y1 = (100 * end for end in ends)
        figure.add_hrect(y0=y0, y1=y1, fillcolor=faint(colour), line_width=0, layer="below")
    for y, text in ((100, "converges"), (0, "does not converge")):
        figure.add_annotation(
            text=text,
            x=1,
            xref="paper",
            y=y,
            yanchor="top" if y else "bottom",
            xanchor="right",
            showarrow=False,
        )
    points = [(one.t, 100 * one.p_converge) for one in told]
    points.append((max(span[1], points[-1][0]), points[-1][1]))
    add_line(
        figure, "odds", points, BLUE, lambda value: format_share(value / 100), width=2, shape="hv"
    )
    figure.update_yaxes(title_text="odds that it converges, %", range=[-3, 103])
    figure.update_layout(showlegend=False, height=240)
    return figure
