"""The pictures of a run, each a plotly figure over the same axis of time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from vmferry.report import series
from vmferry.report.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    add_line,
    over_time,
    size_axis,
)
from vmferry.report.recording import Recording
from vmferry.report.thin import Point
from vmferry.units import MIB, format_duration, format_rate, format_size

MOST_MARKS = 200


def dirty(recording: Recording) -> go.Figure | None:
    """Dirty memory left over time, with pass marks and the threshold."""
    left = series.dirty_left(recording)
    if not left:
        return None
    limit = series.threshold(recording)
    values = [value for _, value in left + limit]
    low, high = min(values) / 1.5, max(values) * 1.5
    figure = over_time(recording.span)
    _mark_passes(figure, recording)
    add_line(figure, "dirty memory left", left, BLUE, format_size, width=1.8)
    if limit:
        name = "threshold: speed × downtime limit"
        add_line(figure, name, limit, VERMILION, format_size, dash="dash")
    figure.update_yaxes(**size_axis(low, high), title_text="dirty memory left (log scale)")
    return figure


def speed(recording: Recording) -> go.Figure | None:
    """Speed over time, with the cap and the rate at which the guest dirties memory."""
    points = series.speed(recording)
    if not any(value for _, value in points):
        return None
    figure = over_time(recording.span)
    add_line(figure, "speed", _mib(points), BLUE, _rate, width=1.8)
    add_line(figure, "dirty rate", _mib(series.dirty_rate(recording)), ORANGE, _rate, shape="hv")
    top = max(value for _, value in points + series.dirty_rate(recording))
    cap = series.cap(recording)
    # A cap far above what was reached would only flatten the curves.
    if cap and min(value for _, value in cap) < 3 * top:
        add_line(figure, "bandwidth cap", _mib(cap), VERMILION, _rate, dash="dash", shape="hv")
    figure.update_yaxes(title_text="MiB/s", rangemode="tozero")
    return figure


def beat_gaps(recording: Recording) -> go.Figure | None:
    """The longest interval between the guest's heartbeats around each moment."""
    if not recording.beats:
        return None
    figure = _timed(recording)
    for side, colour in (("source", BLUE), ("destination", GREEN)):
        points = [(t, gap * 1000) for t, gap in series.beat_gaps(recording, side)]
        if points:
            add_line(figure, f"seen at the {side}", points, colour, _milliseconds)
    promised = recording.promised_downtime_ms
    if promised is not None:
        ends = [(t, promised) for t in recording.span]
        add_line(figure, "promised downtime", ends, VERMILION, _milliseconds, dash="dash")
    figure.update_yaxes(title_text="ms", rangemode="tozero")
    return figure


def work(recording: Recording) -> go.Figure | None:
    """Page writes per second in the guest."""
    points = series.work_rate(recording)
    if not points:
        return None
    figure = _timed(recording)
    add_line(
        figure, "page writes per second", points, GREEN, lambda rate: f"{rate:,.0f} per second"
    )
    figure.update_yaxes(title_text="page writes per second", rangemode="tozero")
    return figure


def throttle(recording: Recording) -> go.Figure | None:
    """How much of the guest's CPU time QEMU took away, where it did."""
    points = series.throttle(recording)
    if not points:
        return None
    figure = over_time(recording.span)
    add_line(figure, "throttle", points, VERMILION, lambda value: f"{value:.0f} %", shape="hv")
    figure.update_yaxes(title_text="% of the guest's CPU time", range=[0, 100])
    return figure


def handover(recording: Recording) -> go.Figure | None:
    """Which side's vCPUs ran, around the moment when the VM changed hands."""
    intervals = series.running(recording)
    edges = sorted(t for i in intervals for t in (i.start, i.end) if t not in recording.span)
    if not edges:
        return None
    first, last = edges[0], edges[-1]
    margin = max(0.05, (last - first) / 2)
    figure = over_time(recording.span)
    for side, colour in (("source", BLUE), ("destination", GREEN)):
        mine = [i for i in intervals if i.side == side]
        figure.add_bar(
            name=f"{side} runs",
            orientation="h",
            y=[side] * len(mine),
            base=[(i.start - first) * 1000 for i in mine],
            x=[(i.end - i.start) * 1000 for i in mine],
            marker_color=colour,
            width=0.5,
            hoverinfo="name",
        )
    figure.update_layout(height=190, hovermode="closest", showlegend=False)
    figure.update_xaxes(
        range=[-margin * 1000, (last - first + margin) * 1000],
        title_text="ms since the vCPUs first stopped",
    )
    figure.update_yaxes(
        categoryorder="array", categoryarray=["destination", "source"], showgrid=False
    )
    figure.update_yaxes(automargin=True)
    return figure


def _timed(recording: Recording) -> go.Figure:
    """A figure over the time of the whole run, with the begin and the switchover marked."""
    figure = over_time(recording.span)
    stops = [e.t for e in recording.events if e.name == "STOP" and e.side == "source"]
    for t in [0.0, *stops[-1:]]:
        figure.add_vline(x=t, line={"color": GREY, "width": 1, "dash": "dot"})
    return figure


def _mark_passes(figure: go.Figure, recording: Recording) -> None:
    """Thin upright lines where passes began; marks too close to be told apart are left out."""
    first, last = recording.span
    marked = -math.inf
    for t in recording.pass_starts:
        if t - marked < (last - first) / MOST_MARKS:
            continue
        marked = t
        figure.add_shape(
            type="line",
            x0=t,
            x1=t,
            y0=0,
            y1=1,
            yref="paper",
            layer="below",
            line={"color": "#c9d1d9", "width": 1},
        )


def _mib(points: Sequence[Point]) -> list[Point]:
    return [(t, value / MIB) for t, value in points]


def _rate(mib: float) -> str:
    return format_rate(mib * MIB)


def _milliseconds(value: float) -> str:
    return format_duration(value / 1000)
