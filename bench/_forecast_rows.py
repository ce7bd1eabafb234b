"""From the rows of a case to its score: what each model is given, says, and what happened.

The baselines' inputs are measured in the same rehearsal as our own forecast's, pass by pass.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench._baselines import BASELINES, Inputs
from bench._bench_results import Results, Row
from bench._forecast_case import HIGHER, LOWER, REPEATS, key_of, keys_of
from bench._forecast_scores import OURS, RATE_ONLY, REHEARSE, Outcome, Said, Score
from bench._forecast_workloads import Setting, Workload
from vmferry.precopy.case import FIXED_DOWNTIME
from vmferry.precopy.profile import DirtyProfile
from vmferry.precopy.quantiles import Quantiles

PAGE = 4096
# In a shorter pass the rate limit's windows of 100 ms blur the speed.
_LEAST_SECONDS = 0.2


def score_of(workload: Workload, setting: Setting, results: Results) -> Score | None:
    """The score of a case, or None where it is not measured to its end."""
    if any(key not in results for key in keys_of(workload, setting, results)):
        return None

    def row(what: str) -> Row:
        return results[key_of(workload, setting, what)]

    rehearsal = row("rehearsal")
    given = inputs(rehearsal, setting)
    said = {
        # What the passes proved goes before the forecast.
        OURS: replace(said_of(rehearsal["forecast"]), verdict=rehearsal["verdict"]),
        REHEARSE: replace(said_of(rehearsal["own_forecast"]), verdict=rehearsal["verdict"]),
        RATE_ONLY: said_of(row("rate")),
    }
    said |= {name: Said.of(model(given)) for name, model in BASELINES.items()}
    repeats = [key_of(workload, setting, f"1.0/{n}") for n in range(REPEATS)]
    return Score(
        workload=workload.name,
        setting=str(setting),
        held_out=workload.held_out,
        capped=setting.bandwidth > 0,
        repeats=tuple(outcome_of(results[key]) for key in repeats if key in results),
        lower=outcome_of(row(str(LOWER))),
        higher=outcome_of(row(str(HIGHER))),
        said=said,
    )


def outcome_of(row: Row) -> Outcome:
    """What a real move did."""
    if row["status"] != "completed":
        return Outcome(completed=False)
    return Outcome(True, row["total_ms"], row["bytes"], row["downtime_ms"], len(row["passes"]))


def said_of(forecast: Mapping[str, Any]) -> Said:
    """A forecast of ours as its JSON has it."""

    def band(name: str) -> Quantiles | None:
        return Quantiles.from_json(forecast[name]) if forecast[name] else None

    return Said(
        forecast["verdict"],
        band("total_ms"),
        band("bytes"),
        band("downtime_ms"),
        band("passes"),
    )


def inputs(rehearsal: Row, setting: Setting) -> Inputs:
    """The best that each baseline can be given of a case."""
    profile = DirtyProfile.from_json(rehearsal["profile"])
    passes = rehearsal["passes"]
    speed = measured_speed(passes)
    first = passes[0]
    filled = (first["sent_pages"] - first["zero_pages"]) * PAGE
    scanning = max(first["duration_ms"] / 1000 - filled / speed, 0.0)
    return Inputs(
        ram_bytes=profile.ram_bytes,
        non_zero_bytes=profile.non_zero_bytes,
        zero_pages=profile.zero_pages,
        zero_seconds=first["start_ms"] / 1000 + scanning,
        speed=speed,
        downtime_limit=setting.limit_ms / 1000,
        fixed_downtime=FIXED_DOWNTIME.p50,
        curve=profile.curve,
        working_set=profile.working_set or profile.curve.plateau,
        dirty=passes[-1]["dirty_bytes"],
    )


def measured_speed(passes: Sequence[Mapping[str, Any]]) -> float:
    """Bytes of memory a second: the median of the passes that sent hardly anything but pages.

    Pass 1 counts where there is no other: it has the zero pages, which take time.
    """
    later = [each for each in passes[1:] if each["duration_ms"] >= 1000 * _LEAST_SECONDS]
    speed: float = statistics.median(
        (each["sent_pages"] - each["zero_pages"]) * PAGE / (each["duration_ms"] / 1000)
        for each in later or passes[:1]
    )
    return speed
