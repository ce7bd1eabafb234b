"""`vmferry plan`: the what-if table over the settings of a move, and the one to take."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmferry.cli.case_options import (
    AfterPass,
    Asked,
    Bandwidth,
    CurveOption,
    Downtime,
    OptionalVm,
    To,
    TraceOption,
    measured,
)
from vmferry.cli.options import Json, duration
from vmferry.cli.output import Output, table
from vmferry.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from vmferry.precopy.case import Setting
    from vmferry.precopy.forecast import Forecast
    from vmferry.precopy.plan import Row, Wishes
    from vmferry.precopy.quantiles import Quantiles

HEADINGS = ("SETTING", "VERDICT", "ODDS", "TOTAL", "DOWNTIME", "SENT", "PASSES")
UNKNOWN = "-"
NOTHING_DOES = 7


class PostCopy(enum.StrEnum):
    NEVER = "never"
    ALLOWED = "allowed"


def plan(
    vm: OptionalVm = None,
    curve: CurveOption = None,
    trace: TraceOption = None,
    after_pass: AfterPass = None,
    bandwidth: Bandwidth = None,
    downtime: Downtime = None,
    max_downtime: Annotated[
        float | None,
        typer.Option(parser=duration, metavar="TIME", help="The VM may stand still this long."),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(parser=duration, metavar="TIME", help="The move may take this long."),
    ] = None,
    max_throttle: Annotated[
        int, typer.Option(metavar="P", min=0, max=99, help="The VM may be slowed by this per cent.")
    ] = 0,
    post_copy: Annotated[
        PostCopy, typer.Option(help="Whether the VM may run on with memory that is not there yet.")
    ] = PostCopy.NEVER,
    to: To = "local",
    json: Json = False,
) -> int:
    """Show how a move would go under other settings, and which of them to take."""
    from vmferry.precopy import plan as planning

    asked = measured(Asked(vm, curve, trace, after_pass, bandwidth, downtime, to))
    limit_ms = asked.case.setting.downtime_limit_ms
    wishes = planning.Wishes(
        max_downtime_ms=limit_ms if max_downtime is None else max_downtime * 1000,
        deadline=deadline,
        max_throttle=max_throttle,
        post_copy=post_copy is PostCopy.ALLOWED,
    )
    rows = planning.table(asked.case)
    best = planning.recommend(asked.case, wishes)
    output = Output(as_json=json)
    for row in rows:
        output.record({"event": "setting", **_record(row)})
    output.record({"event": "recommended", **(_record(best) if best else {"setting": None})})
    if not json:
        output.say(table([HEADINGS, *(_cells(row) for row in rows)]))
    output.say(_recommended(best, wishes))
    output.note(f"({asked.source})")
    return 0 if best is not None else NOTHING_DOES


def _record(row: Row) -> dict[str, Any]:
    import dataclasses

    return {
        "format": 1,
        "setting": dataclasses.asdict(row.setting),
        "forecast": row.forecast.to_json(),
    }


def _cells(row: Row) -> tuple[str, ...]:
    forecast = row.forecast
    return (
        _named(row.setting),
        forecast.verdict,
        f"{forecast.p_converge:.0%}",
        _time(forecast.total_ms),
        _time(forecast.downtime_ms),
        UNKNOWN if forecast.bytes is None else format_size(forecast.bytes.p50),
        UNKNOWN if forecast.passes is None else f"{forecast.passes.p50:.0f}",
    )


def _named(setting: Setting) -> str:
    """The setting in a few words: bandwidth and limit, and what else is on."""
    cap = format_rate(setting.bandwidth) if setting.bandwidth else "no cap"
    extras = [
        f"throttle {setting.throttle:.0f} %" if setting.throttle else "",
        setting.compress,
        "xbzrle" if setting.xbzrle else "",
        "auto-converge" if setting.auto_converge else "",
        "post-copy" if setting.post_copy else "",
    ]
    limit = format_duration(setting.downtime_limit_ms / 1000)
    return ", ".join([cap, limit, *(extra for extra in extras if extra)])


def _time(value: Quantiles | None) -> str:
    """The middle and the worse end."""
    if value is None:
        return UNKNOWN
    return f"{format_duration(value.p50 / 1000)} (< {format_duration(value.p90 / 1000)})"


def _recommended(row: Row | None, wishes: Wishes) -> str:
    limits = f"a downtime of at most {format_duration(wishes.max_downtime_ms / 1000)}"
    if wishes.deadline is not None:
        limits += f" and at most {format_duration(wishes.deadline)} in all"
    if row is None:
        return (
            f"None of these settings, nor any of them together, is sure to converge with {limits}."
            " --max-downtime, --max-throttle or --post-copy allowed leave more room."
        )
    return f"Recommended for {limits}: {_named(row.setting)}; {_told(row.forecast)}."


def _told(forecast: Forecast) -> str:
    assert forecast.total_ms is not None and forecast.downtime_ms is not None
    return (
        f"about {format_duration(forecast.total_ms.p50 / 1000)} in all,"
        f" {format_duration(forecast.downtime_ms.p50 / 1000)} of them without the VM"
    )
