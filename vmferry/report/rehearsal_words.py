"""What a rehearsal found, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmferry.precopy.profile import DirtyProfile
from vmferry.precopy.xray import XRayResult
from vmferry.report.xray_words import findings, headline
from vmferry.units import format_duration, format_rate, format_size

_MOST_POINTS = 6
_VERDICTS = {
    "converges": "converges",
    "does-not-converge": "does not converge",
    "uncertain": "uncertain",
}
NOT_MEASURED = {
    "tls": "the cost of TLS was not measured: a rehearsal sends in the clear",
    "multifd": "multifd was not measured: a rehearsal sends through one channel",
}


def describe_rehearsal(
    found: Mapping[str, Any], xray: Mapping[str, Any] | None = None
) -> list[str]:
    """The lines after the outcome: memory, dirty curve, forecasts, and what to know of them."""
    lines = []
    if found["profile"] is not None:
        profile = DirtyProfile.from_json(found["profile"])
        lines += [_memory(profile), _curve(profile)]
    if found["slowdown"] > 0:
        lines.append(
            f"The guest was slowed by {found['slowdown']:.0%} meanwhile; the forecasts are of it"
            " as it is else."
        )
    if found["forecast"] is not None:
        lines.append("Forecast:")
        lines += [f"  {_forecast(one)}" for one in (found["forecast"], *found["others"])]
    lines += [f"Note: {NOT_MEASURED[one]}." for one in found["not_measured"]]
    lines += [f"Note: {warning}." for warning in found["warnings"]]
    if xray is not None:
        looked = XRayResult.from_json(xray)
        lines += [headline(looked), *findings(looked)]
    return lines


def _memory(profile: DirtyProfile) -> str:
    return (
        f"Memory: {format_size(profile.ram_bytes)}, of which"
        f" {format_size(profile.zero_pages * profile.page_size)} are zero."
    )


def _curve(profile: DirtyProfile) -> str:
    points = sorted(profile.points, key=lambda point: point.seconds)
    step = max(-(-len(points) // _MOST_POINTS), 1)
    told = [
        f"{format_size(point.bytes)} in {format_duration(point.seconds)}"
        for point in points[::-1][::step][::-1]
    ]
    return f"The guest dirties {', '.join(told)}."


def _forecast(one: Mapping[str, Any]) -> str:
    given = one["given"]
    speed = f"at {format_rate(given['bandwidth'])}" if given["bandwidth"] else "without a cap"
    setting = f"{speed}, {format_duration(given['downtime_limit_ms'] / 1000)}"
    text = f"{setting}: {_VERDICTS[one['verdict']]} ({one['p_converge']:.0%})"
    if one["total_ms"] is None:
        return text
    return (
        f"{text}, in {_seconds(one['total_ms'])}, standing still for"
        f" {_seconds(one['downtime_ms'])}, {format_size(one['bytes']['p50'])} sent"
    )


def _seconds(milliseconds: Mapping[str, float]) -> str:
    low, middle, high = (format_duration(milliseconds[key] / 1000) for key in ("p10", "p50", "p90"))
    return middle if low == high else f"{middle} ({low} to {high})"
