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
    Measure,
    MeasureFor,
    OptionalVm,
    To,
    TraceOption,
    measured,
)
from vmferry.cli.options import Json, duration
from vmferry.cli.output import Output, table
from vmferry.units import KIB

if TYPE_CHECKING:
    from vmferry.precopy.case import Setting
    from vmferry.precopy.plan import Plan, Row

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
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="The VM may stand still this long; else as --downtime.",
        ),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(parser=duration, metavar="TIME", help="The move may take this long."),
    ] = None,
    max_throttle: Annotated[
        int,
        typer.Option(
            metavar="P", min=0, max=99, help="The VM may be slowed by this many per cent."
        ),
    ] = 0,
    post_copy: Annotated[
        PostCopy, typer.Option(help="Whether the VM may run on with memory that is not there yet.")
    ] = PostCopy.NEVER,
    to: To = "local",
    measure: Measure = False,
    seconds: MeasureFor = None,
    json: Json = False,
) -> int:
    """Show a move under other settings, and which of them to take.

    Give one of VM, --curve and --trace. Exit status: 0 there is one to take, 7 there is none.
    """
    from vmferry.precopy.plan import Wishes, make_plan
    from vmferry.precopy.plan_words import (
        HEADINGS,
        asked_words,
        cells,
        reached_words,
        recommended_words,
    )

    output = Output(as_json=json)
    _check(max_downtime, deadline)
    asked = measured(
        Asked(vm, curve, trace, after_pass, bandwidth, downtime, to, measure, seconds), output
    )
    limit_ms = asked.case.setting.downtime_limit_ms
    wishes = Wishes(
        max_downtime_ms=limit_ms if max_downtime is None else max_downtime * 1000,
        deadline=deadline,
        max_throttle=max_throttle,
        post_copy=post_copy is PostCopy.ALLOWED,
    )
    found = make_plan(asked.case, wishes)
    why = recommended_words(found, wishes)
    _record(found, why, asked.reached, output)
    if not json:
        rows = [cells(row, found, asked.reached) for row in found.rows]
        output.say(asked_words(asked.case.setting, asked.reached))
        output.say(table([HEADINGS, *rows]))
        output.say("")
    output.say("\n".join([*reached_words(found, asked.reached), why]))
    if found.best is not None and vm is not None:
        output.say(_command(vm, to, found.best.setting))
    output.note(f"({asked.source})")
    return 0 if found.best is not None else NOTHING_DOES


def _check(max_downtime: float | None, deadline: float | None) -> None:
    from vmferry.errors import UsageError

    if max_downtime is not None and max_downtime < 0.001:
        raise UsageError("--max-downtime must be at least 1ms")
    if deadline is not None and deadline <= 0:
        raise UsageError("--deadline must be more than nothing")


def _record(plan: Plan, why: str, reached: float, output: Output) -> None:
    from vmferry.precopy.plan_words import cost_words, is_seen

    asked = plan.asked.setting
    for row in plan.rows:
        output.record(
            {
                "event": "setting",
                **_told(row),
                "recommended": row == plan.best,
                "bandwidth_seen": is_seen(row.setting.bandwidth, reached),
                "cost": cost_words(row, asked),
            }
        )
    best = _told(plan.best) if plan.best is not None else {"format": 1, "setting": None}
    output.record({"event": "recommended", **best, "why": why})


def _told(row: Row) -> dict[str, Any]:
    import dataclasses

    return {
        "format": 1,
        "setting": dataclasses.asdict(row.setting),
        "forecast": row.forecast.to_json(),
    }


def _command(vm: str, to: str, setting: Setting) -> str:
    """How to do it, as far as `vmferry migrate` has options for it."""
    beyond = {
        "a throttle": setting.throttle,
        "compression": setting.compress,
        "XBZRLE": setting.xbzrle,
        "post-copy": setting.post_copy,
    }
    missing = [name for name, wanted in beyond.items() if wanted]
    if missing:
        return f"`vmferry migrate` has no option for {' and '.join(missing)} yet."
    cap = f" --bandwidth {_rate(setting.bandwidth)}" if setting.bandwidth else ""
    limit = f" --downtime {setting.downtime_limit_ms}ms"
    return f"  vmferry migrate {vm} --to {to}{cap}{limit}"


def _rate(bandwidth: int) -> str:
    """As an option takes it."""
    return f"{bandwidth / KIB:.0f}KiB/s" if bandwidth % (KIB * KIB) else f"{bandwidth >> 20}MiB/s"
