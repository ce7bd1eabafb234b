"""A forecast in words, for people who run databases, not hypervisors."""

from __future__ import annotations

from collections.abc import Callable

from vmferry.precopy.forecast import Forecast
from vmferry.precopy.quantiles import Quantiles
from vmferry.units import format_duration, format_size


def describe(forecast: Forecast) -> list[str]:
    """The forecast, a sentence a line."""
    p = odds(forecast.p_converge)
    if forecast.verdict == "does-not-converge":
        lines = [f"The migration does not converge (odds that it does: {p})."]
    elif forecast.verdict == "uncertain":
        lines = [f"It is uncertain whether the migration converges (odds: {p})."]
    else:
        lines = [f"The migration converges (odds: {p})."]
    total, downtime, size, passes = (
        forecast.total_ms,
        forecast.downtime_ms,
        forecast.bytes,
        forecast.passes,
    )
    if total is not None and downtime is not None and size is not None and passes is not None:
        if_so = "If it does, it" if forecast.verdict == "uncertain" else "It"
        lines += [
            f"{if_so} takes {_range(total, _milliseconds)}; the VM stands still for"
            f" {_range(downtime, _milliseconds)} of that.",
            f"{_capital(_range(size, format_size))} cross the link, in"
            f" {_range(passes, lambda count: f'{count:.0f}')} passes.",
        ]
    return [*lines, forecast.why]


def odds(share: float) -> str:
    """`97 %`; a model is never sure."""
    if share >= 0.995:
        return "> 99 %"
    return "< 1 %" if share <= 0.005 else f"{100 * share:.0f} %"


def _range(q: Quantiles, shown: Callable[[float], str]) -> str:
    """The middle, and what eight of ten cases lie between."""
    low, middle, high = shown(q.p10), shown(q.p50), shown(q.p90)
    return f"about {middle}" if low == high else f"about {middle} ({low} to {high})"


def _milliseconds(value: float) -> str:
    return format_duration(value / 1000)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
