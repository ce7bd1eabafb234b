"""The pictures of the validation, as small SVG files: forecast against outcome, errors by model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from html import escape

from bench._forecast_scores import OURS, RATE_ONLY, Score, errors

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 420, 60, 46, 30
RIGHT = 20
COLOURS = (
    *("#1f77b4", "#17becf", "#d62728", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"),
    "#bcbd22",
)
LEAST_ERROR, MOST_ERROR = 0.001, 10.0
Scale = Callable[[float], float]


def against_outcome(scores: Iterable[Score]) -> str:
    """The forecast total time with its band over what the moves took, seconds, both logarithmic."""
    points = [
        (statistics.median(each.total_ms for each in score.completed) / 1000, band, score.held_out)
        for score in scores
        if score.converged and (band := score.said[OURS].total_ms) is not None
    ]
    if not points:
        return _frame("No case has converged", [])
    values = [x for x, _, _ in points] + [y / 1000 for _, band, _ in points for y in (band.p50,)]
    low, high = min(values) / 1.3, max(values) * 1.3
    x, y = _log(low, high, LEFT, WIDTH - RIGHT), _log(low, high, HEIGHT - BOTTOM, TOP)
    parts = [_line(x(low), y(low), x(high), y(high), "#999")]
    parts += _ticks(x, y, _ones_and_threes(low, high), "s")
    for took, band, held_out in points:
        colour = COLOURS[0] if held_out else "#aaa"
        ends = (max(band.p10 / 1000, low), min(band.p90 / 1000, high))
        parts.append(_line(x(took), y(ends[0]), x(took), y(ends[1]), colour, width=1))
        parts.append(
            f'<circle cx="{x(took):.1f}" cy="{y(band.p50 / 1000):.1f}" r="2.5" fill="{colour}"/>'
        )
    title = "Total time: forecast with its 10 to 90 % band, over the moves' median (grey: fit)"
    return _frame(title, parts)


def errors_by_model(scores: Sequence[Score], what: str, title: str) -> str:
    """For each model the share of cases with at most so large an error, logarithmic."""
    x = _log(LEAST_ERROR, MOST_ERROR, LEFT, WIDTH - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    parts = []
    for tick in (0.001, 0.01, 0.1, 1.0, 10.0):
        parts += [
            _line(x(tick), y(0), x(tick), y(1), "#ddd"),
            _text(x(tick), HEIGHT - 28, f"{100 * tick:g} %"),
        ]
    for tick in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0):
        parts += [
            _line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "#ddd"),
            _text(30, y(tick) + 4, f"{100 * tick:g} %"),
        ]
    models = [model for model in (scores[0].said if scores else ()) if errors(scores, model, what)]
    for number, model in enumerate(models):
        found = sorted(errors(scores, model, what))
        path, share = [f"M{LEFT},{y(0):.1f}"], 0.0
        for error in found:
            if math.isinf(error):
                break
            at = x(min(max(error, LEAST_ERROR), MOST_ERROR))
            path.append(f"L{at:.1f},{y(share):.1f}")
            share += 1 / len(found)
            path.append(f"L{at:.1f},{y(share):.1f}")
        path.append(f"L{WIDTH - RIGHT},{y(share):.1f}")
        colour = COLOURS[number % len(COLOURS)]
        width = 2.5 if model in (OURS, RATE_ONLY) else 1.2
        parts.append(
            f'<path d="{" ".join(path)}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        )
        parts.append(
            _text(
                WIDTH - RIGHT - 4,
                HEIGHT - BOTTOM - 12 - 14 * (len(models) - number - 1),
                model,
                colour,
                "end",
            )
        )
    return _frame(title, parts)


def _log(low: float, high: float, begin: float, end: float) -> Scale:
    span = math.log(high / low)
    return lambda value: begin + (end - begin) * math.log(max(value, low) / low) / span


def _ones_and_threes(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in (1, 3) if low <= m * 10.0**p <= high]


def _ticks(x: Scale, y: Scale, values: Sequence[float], unit: str) -> list[str]:
    parts = []
    for value in values:
        parts.append(_line(x(value), TOP, x(value), HEIGHT - BOTTOM, "#eee"))
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "#eee"))
        parts.append(_text(x(value), HEIGHT - 28, f"{value:g} {unit}"))
        parts.append(_text(32, y(value) + 4, f"{value:g} {unit}"))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 0.8) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        f' stroke="{colour}" stroke-width="{width}"/>'
    )


def _text(x: float, y: float, text: str, colour: str = "#333", anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="{colour}"'
        f' text-anchor="{anchor}">{escape(text)}</text>'
    )


def _frame(title: str, parts: Sequence[str]) -> str:
    body = "\n".join([*parts, _text(WIDTH / 2, 18, title)])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' font-family="sans-serif">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        f"{body}\n</svg>\n"
    )
