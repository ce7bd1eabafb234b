"""Does a rehearsal harm the guest? Its work against a null sink, its gaps, and random kills.

Work: page writes per second by the guest's heartbeats, a second before against during, in a
rehearsal, in the same migration into nothing (with the same changes of speed), and with neither, in
turn. Gaps: the longest interval between heartbeats by the host's clock in rehearsals that converge
and that do not. Kills: of the sink, the guardian, the command, and several of them, at random
moments, some of them in a switchover that is forced meanwhile; judged by the VM that is left
(_rehearsal_kills.py).
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import numpy as np

from bench._bench_home import Home, call, command, describe
from bench._bench_results import Results, Row, open_results, versions
from bench._rehearsal_kills import hurt
from bench._rehearsal_null import Watched, into_nothing, undisturbed
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB, format_rate

RAM_MIB = 160
SET = 48 * MIB
RATES = (8 * MIB, 16 * MIB, 32 * MIB, 64 * MIB, "unlimited")
BANDWIDTH, LIMIT_MS = 48 * MIB, 100
REPEATS, GAPS, KILLS = 5, 100, 100
BAR_POINTS, BAR_LOSS_PERCENT, BAR_GAP_MS = 5.0, 10.0, 50.0
# What converges, and what does not.
GAP_RATES = (4 * MIB, 16 * MIB, 64 * MIB, 128 * MIB)
OPTIONS = ["--bandwidth", f"{BANDWIDTH}B/s", "--downtime", f"{LIMIT_MS}ms", "--for", "15s"]


def measure_all(results: Results) -> None:
    """Measure what is missing."""
    work = [(rate, n) for rate in RATES for n in range(REPEATS)]
    keys = [f"work/{rate}/{n}" for rate, n in work]
    keys += [f"gap/{n}" for n in range(GAPS)] + [f"kill/{n}" for n in range(KILLS)]
    if all(key in results for key in keys):
        return
    with Home() as home:
        home.run("guest", PageWriterSettings(working_set=SET, write_rate=8 * MIB), RAM_MIB)
        for rate, n in work:
            _once(results, f"work/{rate}/{n}", lambda r=rate: _work(home, r))
        for n in range(GAPS):
            _once(results, f"gap/{n}", lambda r=GAP_RATES[n % len(GAP_RATES)]: _gap(home, r))
        home.agent("guest").set(write_rate=64 * MIB)
        for n in range(KILLS):
            _once(results, f"kill/{n}", lambda s=n: hurt(home, home.current("guest"), OPTIONS, s))


def _once(results: Results, key: str, measure: Any) -> None:
    if key not in results:
        sys.stderr.write(f"{json.dumps(results.once(key, measure))}\n")


def _work(home: Home, rate: int | str) -> Row:
    """The same load in three ways, for as long as the rehearsal takes."""
    home.agent("guest").set(write_rate=rate)
    instance = home.current("guest")
    outcome = _rehearse()
    seconds = outcome["total_ms"] / 1000
    cost = outcome["cost"]
    return {
        "rate": rate,
        "seconds": seconds,
        "rehearsal": _row(
            Watched(cost["work_before"], cost["work_during"], outcome["guest"]["gap_ms"])
        ),
        "nothing": _row(into_nothing(instance, seconds, _actions(outcome["run"]))),
        "undisturbed": _row(undisturbed(instance, seconds)),
    }


def _actions(run: str) -> list[Row]:
    """What the rehearsal changed, and when, as its trace has it."""
    lines = map(json.loads, call(command("show", run, "--trace")).splitlines())
    return [line for line in lines if line.get("result") == "ok"]


def _row(watched: Watched) -> Row:
    return {
        "before": watched.before,
        "during": watched.during,
        "gap_ms": watched.gap_ms,
        "loss_percent": watched.loss_percent,
    }


def _gap(home: Home, rate: int) -> Row:
    home.agent("guest").set(write_rate=rate)
    outcome = _rehearse()
    return {
        "rate": rate,
        "seconds": outcome["total_ms"] / 1000,
        "gap_ms": outcome["guest"]["gap_ms"],
        "gap_at_ms": outcome["guest"]["gap_at_ms"],
        "missing_beats": outcome["guest"]["missing_beats"],
        "reached_switchover": outcome["reached_switchover"],
        "verdict": outcome["verdict"],
    }


def _rehearse() -> Row:
    said = call(command("rehearse", "guest", *OPTIONS, "--json"), 7, 8)
    *_, found, outcome = map(json.loads, said.splitlines())
    keys = ("verdict", "reached_switchover")
    return {**outcome, **{key: found[key] for key in keys}}


def report(results: Results) -> str:
    """The figures against the bars."""
    writer = PageWriterSettings(working_set=SET, write_rate=8 * MIB)
    lines = [
        versions(),
        f"{describe(writer)} and other rates, {RAM_MIB} MiB RAM; rehearsed at "
        f"{format_rate(BANDWIDTH)}, {LIMIT_MS} ms",
        f"{'write rate':>14}{'runs':>6}{'work lost, %:  rehearsal':>28}{'nothing':>10}"
        f"{'undisturbed':>13}",
    ]
    for rate in RATES:
        rows = [row for row in results if row["key"].startswith(f"work/{rate}/")]
        if rows:
            lines.append(_work_line(rate, rows))
    lines += _gap_lines([row for row in results if row["key"].startswith("gap/")])
    lines += _kill_lines([row for row in results if row["key"].startswith("kill/")])
    return "\n".join(lines)


def _work_line(rate: int | str, rows: list[Row]) -> str:
    ours, nothing, none = (
        statistics.median(row[kind]["loss_percent"] for row in rows)
        for kind in ("rehearsal", "nothing", "undisturbed")
    )
    met = ours - nothing <= BAR_POINTS and (rate == "unlimited" or ours - none <= BAR_LOSS_PERCENT)
    shown = rate if isinstance(rate, str) else format_rate(rate)
    return (
        f"{shown:>14}{len(rows):>6}{ours:>28.1f}{nothing:>10.1f}{none:>13.1f}"
        f"   bar: {'met' if met else 'missed'}"
    )


def _gap_lines(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    gaps = [row["gap_ms"] for row in rows]
    high = float(np.percentile(gaps, 95))
    reached = sum(row["reached_switchover"] for row in rows)
    missing = sum(row["missing_beats"] for row in rows)
    return [
        f"{len(rows)} rehearsals: gap by the host's clock {statistics.median(gaps):.1f} ms in the "
        f"median, {high:.1f} ms at the 95th percentile, {max(gaps):.1f} ms at most; "
        f"{missing} beats missing; QEMU began to switch over in {reached}; "
        f"bar: {'met' if high < BAR_GAP_MS else 'missed'}"
    ]


def _kill_lines(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    bad = [row for row in rows if row["violations"]]
    struck = sum(bool(row["struck"]) for row in rows)
    recovered = sum(row["recovered"] != "nothing to recover" for row in rows)
    return [
        f"{len(rows)} rehearsals with kills, {struck} of them in time, "
        f"{sum(row['forced'] for row in rows)} in a switchover that was forced: "
        f"{len(bad)} violations; {recovered} were left to recover; the VM stood still for "
        f"{max(row['stood_ms'] for row in rows):.0f} ms at most; "
        f"bar: {'missed' if bad else 'met'}",
        *(f"  {row['key']}: {'; '.join(row['violations'])}" for row in bad),
    ]


def main() -> None:
    """Measure what is missing and print."""
    results = open_results(__doc__, "rehearsal")
    measure_all(results)
    sys.stdout.write(report(results) + "\n")


if __name__ == "__main__":
    main()
