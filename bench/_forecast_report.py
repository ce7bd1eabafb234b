"""The figures of the validation as a page: the bars, every model side by side, every workload."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from bench._forecast_scores import (
    OURS,
    RATE_ONLY,
    REHEARSE,
    Score,
    coverage,
    errors,
    quantile,
    spreads,
    verdicts,
)

QUANTITIES = {"total_ms": "total time", "bytes": "bytes", "downtime_ms": "downtime"}
BAR_VERDICT, BAR_RATE_VERDICT, BAR_RATE_TIME = 0.97, 0.90, 0.15
BAR_MEDIAN, BAR_P90, BAR_SPREAD = 0.05, 0.10, 1.5
BAR_BAND = (0.75, 0.90)
BAD_ERROR = 0.15
BARS_OF_ERRORS = ((0.5, "median", BAR_MEDIAN), (0.9, "90th percentile", BAR_P90))
JUDGED = ("total_ms", "bytes")

Row = Sequence[str]


def page(scores: Sequence[Score], versions: str, whole: int) -> str:
    """All of it, as Markdown. `whole` is the number of cases that there are."""
    held_out = [score for score in scores if score.held_out]
    capped = [score for score in held_out if score.capped]
    judged = [score for score in capped if score.off_edge]
    workloads = len({score.workload for score in scores})
    moves = sum(len(score.repeats) + 2 for score in scores)
    parts = [
        f"{len(scores)} of {whole} cases of {workloads} workloads, {moves} real moves. {versions}.",
        f"Held out: {len(held_out)} cases; of these {len(capped)} with a bandwidth cap, of which"
        f" {len(judged)} are off the edge.",
        "## Bars\n\nOn held-out workloads with a cap, off the edge.\n\n" + bars(judged),
        "## Side by side\n\n"
        + table(("model", "right verdicts", *_error_titles()), side_by_side(judged)),
        "## Verdicts\n\n" + table(("cases", "right", "uncertain", "split repeats"), _told(scores)),
        "## Errors against the repeats\n\n"
        + table(("cases", "quantity", "ours", "two repeats apart"), _against_repeats(scores)),
        "## Calibration\n\nOutcomes within the 10 to 90 % band.\n\n"
        + table(("cases", *QUANTITIES.values(), "passes"), _calibration(scores)),
        "## Workloads\n\n"
        + table(
            ("workload", "", "right", "total time", "bytes", "downtime", "in the band"),
            _by_workload(scores),
        ),
        "## Where it fails\n\n" + (_failures(scores) or "Nowhere."),
    ]
    return "\n\n".join(parts) + "\n"


def table(titles: Row, rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bars(judged: Sequence[Score]) -> str:
    """What the project asked for, what came out, and whether that is enough."""
    right = verdicts(judged, OURS)
    rows = [
        _bar(
            f"right verdicts, lower 95 % bound at least {BAR_VERDICT:.0%}",
            str(right),
            right.number > 0 and right.bound >= BAR_VERDICT,
        )
    ]
    for what in JUDGED:
        found, apart = errors(judged, OURS, what), spreads(judged, what)
        for share, name, least in BARS_OF_ERRORS:
            figure, own = quantile(found, share), quantile(apart, share)
            most = max(least, BAR_SPREAD * own)
            rows.append(
                _bar(
                    f"{QUANTITIES[what]}, {name} of the error at most {percent(most)}",
                    f"{percent(figure)} (two repeats are {percent(own)} apart)",
                    figure <= most,
                )
            )
    held = coverage(judged, "downtime_ms")
    low, high = BAR_BAND
    rows.append(
        _bar(
            f"downtime's 10 to 90 % band holds {low:.0%} to {high:.0%}",
            f"{percent(held.share)} of {held.number}",
            low <= held.share <= high,
        )
    )
    rate, times = verdicts(judged, RATE_ONLY), errors(judged, RATE_ONLY, "total_ms")
    rows += [
        _bar(
            f"calc-dirty-rate alone: right verdicts at least {BAR_RATE_VERDICT:.0%}",
            str(rate),
            rate.share >= BAR_RATE_VERDICT,
        ),
        _bar(
            f"calc-dirty-rate alone: total time within {BAR_RATE_TIME:.0%} in the median",
            percent(quantile(times, 0.5)),
            quantile(times, 0.5) <= BAR_RATE_TIME,
        ),
    ]
    beaten, wins = _beaten(judged)
    rows.append(_bar("each other model loses at the 90th percentile", beaten, wins))
    return table(("bar", "figure", ""), rows)


def side_by_side(judged: Sequence[Score]) -> list[Row]:
    """A row a model: verdicts, and median and 90th percentile of each error."""
    models = list(judged[0].said) if judged else []
    return [
        [
            model,
            str(verdicts(judged, model)),
            *(_median_and_p90(errors(judged, model, what)) for what in QUANTITIES),
        ]
        for model in models
    ]


def _beaten(judged: Sequence[Score]) -> tuple[str, bool]:
    """Whether ours is ahead of every other model in whatever that tells."""
    ours = (OURS, REHEARSE, RATE_ONLY)
    models = [model for model in (judged[0].said if judged else ()) if model not in ours]
    ahead = [
        f"{model} ({QUANTITIES[what]})"
        for what in QUANTITIES
        for model in models
        if errors(judged, model, what)
        and quantile(errors(judged, model, what), 0.9) <= quantile(errors(judged, OURS, what), 0.9)
    ]
    return (f"not so: {', '.join(ahead)}" if ahead else "all"), not ahead and bool(models)


def _groups(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """The cases in the groups that are told apart; those on the edge are in none of the others."""
    found: dict[str, list[Score]] = {}
    for score in scores:
        split = "held out" if score.held_out else "fit"
        cap = "with a cap" if score.capped else "without a cap"
        edge = "" if score.off_edge else ", on the edge"
        found.setdefault(f"{split}, {cap}{edge}", []).append(score)
    return dict(sorted(found.items(), reverse=True))


def _told(scores: Sequence[Score]) -> list[Row]:
    return [
        [
            name,
            str(verdicts(group, OURS)),
            str(sum(score.said[OURS].verdict == "uncertain" for score in group)),
            str(sum(not score.unanimous for score in group)),
        ]
        for name, group in _groups(scores).items()
    ]


def _against_repeats(scores: Sequence[Score]) -> list[Row]:
    return [
        [
            name,
            title,
            _median_and_p90(errors(group, OURS, what)),
            _median_and_p90(spreads(group, what)),
        ]
        for name, group in _groups(scores).items()
        for what, title in QUANTITIES.items()
    ]


def _calibration(scores: Sequence[Score]) -> list[Row]:
    def cell(group: list[Score], what: str) -> str:
        share = coverage(group, what)
        return f"{percent(share.share)} of {share.number}" if share.number else "-"

    return [
        [name, *(cell(group, what) for what in (*QUANTITIES, "passes"))]
        for name, group in _groups(scores).items()
    ]


def _by_workload(scores: Sequence[Score]) -> list[Row]:
    rows: list[Row] = []
    for name in dict.fromkeys(score.workload for score in scores):
        group = [score for score in scores if score.workload == name]
        off_edge = [score for score in group if score.off_edge]
        right = verdicts(off_edge, OURS)
        held = [share for what in QUANTITIES if (share := coverage(group, what)).number]
        rows.append(
            [
                name,
                "held out" if group[0].held_out else "fit",
                f"{right.hits} of {right.number}",
                *(_median(errors(group, OURS, what)) for what in QUANTITIES),
                percent(statistics.fmean(share.share for share in held)) if held else "-",
            ]
        )
    return rows


def _failures(scores: Sequence[Score]) -> str:
    """The held-out cases that were told wrongly, and those whose time or bytes are far off."""
    lines = []
    for score in scores:
        if not score.held_out:
            continue
        where = f"- {score.workload}, {score.setting}"
        where += "" if score.off_edge else " (on the edge)"
        completed = f"{len(score.completed)} of {len(score.repeats)} moves completed"
        if not score.right(OURS):
            lines.append(f"{where}: said {score.said[OURS].verdict}; {completed}")
            continue
        far = {what: score.error(OURS, what) for what in JUDGED}
        bad = [
            f"{QUANTITIES[what]} {percent(error)} off"
            for what, error in far.items()
            if error is not None and error > BAD_ERROR
        ]
        if bad:
            own = quantile(score.spread("total_ms"), 1.0)
            lines.append(f"{where}: {', '.join(bad)}; the repeats' times are {percent(own)} apart")
    return "\n".join(lines)


def _bar(what: str, figure: str, met: bool) -> Row:
    return [what, figure, "met" if met else "missed"]


def _error_titles() -> list[str]:
    return [f"{title}, median and 90th percentile" for title in QUANTITIES.values()]


def _median(values: Sequence[float]) -> str:
    return percent(quantile(values, 0.5))


def _median_and_p90(values: Sequence[float]) -> str:
    return f"{_median(values)}, {percent(quantile(values, 0.9))}" if values else "-"


def percent(share: float) -> str:
    """A share as text; a time for a move that was said never to end has no error in per cent."""
    if math.isnan(share):
        return "-"
    return "said never" if math.isinf(share) else f"{share:.1%}"
