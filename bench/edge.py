"""Does vmferry tell a move that converges from one that never will? 5 loads, 40 runs at the edge.

For each load the edge, the bandwidth below which a migration does not converge, is searched with
real migrations; a search run counts as converged where it completes within four times what pass 1
takes. Then 4 runs each are made at 1.2 and at 0.8 times that bandwidth. All are `vmferry migrate
--json` of one test guest, whose load is changed while it runs.

Told apart rightly is
- at 1.2 x: the move completes;
- at 0.8 x, given three times as long: no falling trend over the last 8 passes (a new low, and the
  later half of them lower than the earlier), vmferry's last word before the deadline is that it
  will not converge as it goes, it abandons the move at the deadline and the VM runs on at the
  source;
and in both the guest then verifies all its pages.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Sequence

from bench._bench_home import Home, call, command, describe
from bench._bench_results import Results, Row, open_results, versions
from bench._loads import Load
from vmferry.precopy.trend import TREND_PASSES, falls
from vmferry.units import MIB

RAM_MIB = 160
RUNS = 4
ABOVE, BELOW = 1.2, 0.8
SETTLE_SECONDS = 1.0
# The guest's own non-zero memory; with the working set this is what pass 1 sends.
GUEST_MIB = 80
WORKING_SET_MIB = 32
SEARCH_PASS_1_TIMES, DEADLINE_TIMES = 4.0, 3.0
SEARCH_STEP, SEARCH_UNTIL = 1.35, 1.1
MOST_SECONDS = 60.0
FALL = 0.1
ABANDONED = 4
# The bandwidths are guesses at which the search begins.
LOADS = (
    Load.of("uniform", 29, WORKING_SET_MIB, 40),
    Load.of("hot/cold", 30, WORKING_SET_MIB, 64, hot_writes=90, hot_pages=25),
    Load.of("sequential", 25, WORKING_SET_MIB, 32, order="sequential"),
    Load.of("phased", 28, WORKING_SET_MIB, 48, phases="busy:0.6,idle:0.2"),
    # With 300 ms its passes would take 75 ms, in which a busy host may not let it write at all.
    Load.of("unlimited", 33, WORKING_SET_MIB, None, 1000, content="one-word"),
)


class Edge:
    """The guest, and the moves of it that are not there yet."""

    def __init__(self, home: Home, results: Results) -> None:
        self._home = home
        self._results = results
        self._load: Load | None = None

    def search(self, load: Load) -> float:
        """The edge in MiB/s: from the guess outwards until it is enclosed, then halved."""
        low, high = None, None
        bandwidth = load.bandwidth
        while low is None or high is None or high / low > SEARCH_UNTIL:
            if self._converges(load, bandwidth):
                high = bandwidth
            else:
                low = bandwidth
            if low is None or high is None:
                bandwidth = high / SEARCH_STEP if high is not None else bandwidth * SEARCH_STEP
            else:
                bandwidth = math.sqrt(low * high)
        return math.sqrt(low * high)

    def compare(self, load: Load, edge: float) -> None:
        """The runs above the edge and, with three times their time as deadline, below it."""
        above = [
            self._move(load, f"{load.name}/above/{n}", edge * ABOVE, MOST_SECONDS)
            for n in range(RUNS)
        ]
        deadline = DEADLINE_TIMES * statistics.median(row["total_ms"] for row in above) / 1000
        for n in range(RUNS):
            self._move(load, f"{load.name}/below/{n}", edge * BELOW, deadline)

    def _converges(self, load: Load, bandwidth: float) -> bool:
        key = f"{load.name}/search/{bandwidth:.2f}"
        pass_1_mib = GUEST_MIB + WORKING_SET_MIB
        row = self._move(load, key, bandwidth, SEARCH_PASS_1_TIMES * pass_1_mib / bandwidth)
        return bool(row["status"] == "completed")

    def _move(self, load: Load, key: str, bandwidth: float, deadline: float) -> Row:
        def measure() -> Row:
            if self._load is not load:
                self._home.agent("guest").set(**load.writer.wire())
                self._load = load
            time.sleep(SETTLE_SECONDS)
            row = _migrate(bandwidth, load.limit_ms, deadline)
            sys.stderr.write(
                f"{key}: {bandwidth:.1f} MiB/s: {row['status']} after {row['total_ms'] / 1000:.1f}"
                f" s, {len(row['dirty'])} passes; said: {row['last_word']}\n"
            )
            return row

        return self._results.once(key, measure)


def _migrate(bandwidth: float, limit_ms: int, deadline: float) -> Row:
    """One move by the command as a program calls it."""
    words = command("migrate", "guest", "--to", "local", "--verify", "--json")
    words += ["--bandwidth", f"{round(bandwidth * MIB)}B/s", "--downtime", f"{limit_ms}ms"]
    words += ["--deadline", f"{deadline:.3f}s"]
    records = [json.loads(line) for line in call(words, ABANDONED).splitlines()]
    outcome = records[-1]
    passing = [each for each in records if each.get("stage") == "passes"]
    verdicts = [(each["t"], each["estimate"]["verdict"]) for each in passing if each["estimate"]]
    never = [t for t, verdict in verdicts if verdict == "does-not-converge"]
    dirty = [each["dirty_bytes"] for each in outcome["passes"][1:] if not each["switchover"]]
    return {
        "bandwidth": bandwidth * MIB,
        "deadline": deadline,
        "status": outcome["status"],
        "vm_runs_at": outcome["vm_runs_at"],
        "total_ms": outcome["total_ms"],
        "verified": (outcome["guest"] or {}).get("verified"),
        "dirty": dirty,
        "last_word": verdicts[-1][1] if verdicts else "",
        "said_never": len(never) / len(verdicts) if verdicts else 0.0,
        "said_never_from": never[0] if never else None,
        "why": outcome["why"],
    }


def trend_falls(dirty: Sequence[float]) -> bool:
    """Whether the last 8 passes show a falling trend, or there are too few to tell.

    A new low alone is none: what a sequential writer leaves dirty swings to and fro.
    """
    last, half = dirty[-TREND_PASSES:], TREND_PASSES // 2
    return falls(dirty) and (
        len(dirty) <= TREND_PASSES
        or statistics.fmean(last[half:]) < (1 - FALL) * statistics.fmean(last[:half])
    )


def faults(row: Row, *, above: bool) -> list[str]:
    """What is wrong with a run above or below the edge, in words; none where it was told rightly.

    The last pass of an abandoned run was cut short, and is not looked at.
    """
    expected = ("completed", "destination") if above else ("abandoned", "source")
    found = []
    if (row["status"], row["vm_runs_at"]) != expected:
        found.append(f"{row['status']}, runs at {row['vm_runs_at']}")
    if not above and row["last_word"] != "does-not-converge":
        found.append(f"vmferry's last word: {row['last_word']}")
    if not above and trend_falls(row["dirty"][:-1]):
        found.append("a falling trend, or fewer than 9 passes")
    if row["verified"] is not True:
        found.append("pages not verified")
    return found


def report(results: Results, edges: dict[str, float]) -> str:
    """A table of the loads, what was told wrongly, and the figure."""
    lines = [
        versions(),
        f"{'load':<11}{'':<48}{'edge':>11}{'':>6}{'right':>7}{'seconds':>17}{'passes':>8}"
        f"{'said never':>12}{'from second':>12}",
    ]
    wrong, right, runs = [], 0, 0
    for load in LOADS:
        for side, factor in (("above", ABOVE), ("below", BELOW)):
            keys = [f"{load.name}/{side}/{n}" for n in range(RUNS)]
            rows = [results[key] for key in keys]
            found = {key: faults(results[key], above=side == "above") for key in keys}
            good = sum(not each for each in found.values())
            wrong += [f"{key}: {'; '.join(each)}" for key, each in found.items() if each]
            right, runs = right + good, runs + len(rows)
            seconds = sorted(row["total_ms"] / 1000 for row in rows)
            first = [row["said_never_from"] for row in rows if row["said_never_from"] is not None]
            lines.append(
                (f"{load.name:<11}{_describe(load):<48}" if side == "above" else " " * 59)
                + (f"{edges[load.name]:>5.1f} MiB/s" if side == "above" else " " * 11)
                + f"{factor:>4.1f} x{good:>5}/{len(rows)}"
                + f"{f'{seconds[0]:.1f} to {seconds[-1]:.1f}':>17}"
                + f"{statistics.median(len(row['dirty']) + 1 for row in rows):>8.0f}"
                + f"{statistics.fmean(row['said_never'] for row in rows):>12.0%}"
                + (f"{statistics.median(first):>12.1f}" if first else f"{'-':>12}")
            )
    searches = sum("/search/" in row["key"] for row in results)
    lines += wrong
    lines += [
        "(said never: the share of vmferry's estimates in these runs that were 'will not converge "
        "as it goes'; from second: when it first said so)",
        f"edges found by {searches} migrations; {right} of {runs} told apart rightly (bar: all 40)",
    ]
    return "\n".join(lines)


def _describe(load: Load) -> str:
    return f"{describe(load.writer)}, {load.limit_ms} ms"


def main() -> None:
    """Measure what is missing and print."""
    results = open_results(__doc__, "edge")
    edges = {}
    with Home() as home:
        home.run("guest", LOADS[0].writer, RAM_MIB)
        edge = Edge(home, results)
        for load in LOADS:
            edges[load.name] = edge.search(load)
            edge.compare(load, edges[load.name])
    sys.stdout.write(report(results, edges) + "\n")


if __name__ == "__main__":
    main()
