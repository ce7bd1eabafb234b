"""What a rehearsal found, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vmferry.precopy.forecast_words import odds
from vmferry.precopy.plan_words import VERDICTS, interval
from vmferry.precopy.profile import DirtyProfile
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.xray import XRayResult
from vmferry.report.xray_words import findings, headline
from vmferry.units import format_duration, format_rate, format_share, format_size

_MOST_POINTS = 6
# Less than half a per cent is none.
_LEAST_SLOWDOWN = 0.005
NOT_MEASURED = {
    "tls": "the cost of TLS was not measured: a rehearsal sends in the clear",
    "multifd": "multifd was not measured: a rehearsal sends through one channel",
}
_HEADINGS = ("BANDWIDTH", "LIMIT", "CONVERGES", "TOTAL", "DOWNTIME", "SENT")


def describe_rehearsal(
    found: Mapping[str, Any], xray: Mapping[str, Any] | None = None
) -> list[str]:
    """The lines after the outcome: what was sent, memory, dirty curve, and what to know of them."""
    lines = []
    if xray is not None:
        looked = XRayResult.from_json(xray)
        lines += [f"X-ray: {headline(looked)}", *findings(looked)]
    if found["profile"] is not None:
        profile = DirtyProfile.from_json(found["profile"])
        lines += [_memory(profile), _curve(profile)]
    lines += [f"Note: {NOT_MEASURED[one]}." for one in found["not_measured"]]
    lines += [f"Note: {warning}." for warning in found["warnings"]]
    if found["forecast"] is not None:
        if found["slowdown"] >= _LEAST_SLOWDOWN:
            slowed = format_share(found["slowdown"])
            lines.append(
                f"The rehearsal slowed the guest by {slowed}, as a move does, and the forecasts"
                f" have it so; undisturbed it dirties as much in {slowed} less time."
            )
        lines.append("Forecast of the move as planned, and of others:")
    return lines


def forecast_rows(found: Mapping[str, Any]) -> list[Sequence[str]]:
    """The forecasts as a table, the planned move first; nothing where there are none."""
    if found["forecast"] is None:
        return []
    return [_HEADINGS, *(_forecast(one) for one in (found["forecast"], *found["others"]))]


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


def _forecast(one: Mapping[str, Any]) -> tuple[str, ...]:
    given = one["given"]
    return (
        format_rate(given["bandwidth"]) if given["bandwidth"] else "no cap",
        _milliseconds(given["downtime_limit_ms"]),
        f"{VERDICTS[one['verdict']]}, {odds(one['p_converge'])}",
        interval(_quantiles(one["total_ms"]), _milliseconds),
        interval(_quantiles(one["downtime_ms"]), _milliseconds),
        interval(_quantiles(one["bytes"]), format_size),
    )


def _quantiles(value: Mapping[str, float] | None) -> Quantiles | None:
    return None if value is None else Quantiles(value["p10"], value["p50"], value["p90"])


def _milliseconds(value: float) -> str:
    return format_duration(value / 1000)
