"""Do the changes that vmferry proposes make a migration converge, and would less not? 20 of them.

Each of 10 loads is moved at a setting at which it does not converge, until the deadline abandons
it. `vmferry explain` then proposes a bandwidth and a downtime limit. Each is tried alone: the move
has to complete. Then a fifth less of it, but no less than the old setting, given three times as
long as the move with the whole change took: that must not complete. All are `vmferry migrate
--json` of one test guest, whose load is changed while it runs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import replace

from bench._bench_home import Home, call, command, describe
from bench._bench_results import Results, Row, open_results, versions
from bench._loads import Load
from vmferry.units import MIB, format_duration, format_rate

RAM_MIB = 160
SETTLE_SECONDS = 1.0
BASE_SECONDS, MOST_SECONDS = 20.0, 60.0
# A run that completes after all is tried again at so much of its bandwidth.
SLOWER, MOST_TRIES = 0.85, 4
LESS = 0.8
DEADLINE_TIMES = 3.0
CHANGES = ("bandwidth", "downtime")
ABANDONED = 4
# Bandwidths at about three quarters of where the simulator has the edge of each.
LOADS = (
    Load.of("uniform", 25, 32, 40),
    Load.of("uniform fast", 34, 32, 64),
    Load.of("uniform large", 33, 48, 48),
    Load.of("short limit", 28, 32, 40, 150),
    Load.of("hot/cold", 21, 32, 64, hot_writes=90, hot_pages=25),
    Load.of("hot/cold mild", 19, 32, 48, hot_writes=80, hot_pages=20),
    Load.of("threads", 25, 32, 48, threads=4, read_share=20),
    Load.of("sequential", 26, 32, 32, order="sequential"),
    Load.of("phased", 22, 32, 48, phases="busy:0.6,idle:0.2"),
    Load.of("unlimited", 26, 32, None, 1000, content="one-word"),
)


class Remedies:
    """The guest, and the moves of it that are not there yet."""

    def __init__(self, home: Home, results: Results) -> None:
        self._home = home
        self._results = results
        self._load: Load | None = None

    def all_of(self, load: Load) -> None:
        """The move that does not converge, what is proposed for it, and the trials."""
        load, base = self._base(load)
        for change in CHANGES:
            value = base["remedies"].get(change)
            if value is None:
                continue
            whole = self._move(load, f"{load.name}/{change}/whole", change, value, MOST_SECONDS)
            before = {"bandwidth": load.bandwidth * MIB, "downtime": load.limit_ms}[change]
            less = max(LESS * value, before)
            deadline = DEADLINE_TIMES * whole["total_ms"] / 1000
            self._move(load, f"{load.name}/{change}/less", change, less, deadline)

    def _base(self, load: Load) -> tuple[Load, Row]:
        for _ in range(MOST_TRIES):
            key = f"{load.name}/base/{load.bandwidth:.1f}"
            row = self._move(load, key, "bandwidth", load.bandwidth * MIB, BASE_SECONDS)
            if row["status"] == "abandoned":
                return load, row
            load = replace(load, bandwidth=load.bandwidth * SLOWER)
        raise RuntimeError(f"'{load.name}' converges down to {load.bandwidth} MiB/s")

    def _move(self, load: Load, key: str, change: str, value: float, deadline: float) -> Row:
        def measure() -> Row:
            if self._load is None or self._load.writer != load.writer:
                self._home.agent("guest").set(**load.writer.wire())
                self._load = load
            time.sleep(SETTLE_SECONDS)
            bandwidth, limit_ms = load.bandwidth * MIB, float(load.limit_ms)
            if change == "bandwidth":
                bandwidth = value
            else:
                limit_ms = value
            row = _migrate(round(bandwidth), round(limit_ms), deadline)
            sys.stderr.write(
                f"{key}: {format_rate(bandwidth)}, {limit_ms:.0f} ms: {row['status']} after"
                f" {row['total_ms'] / 1000:.1f} s; proposed: {row['remedies']}\n"
            )
            return row

        return self._results.once(key, measure)


def _migrate(bandwidth: int, limit_ms: int, deadline: float) -> Row:
    """One move by the command as a program calls it, and what explain proposes after it."""
    words = command("migrate", "guest", "--to", "local", "--json")
    words += ["--bandwidth", f"{bandwidth}B/s", "--downtime", f"{limit_ms}ms"]
    words += ["--deadline", f"{deadline:.3f}s"]
    outcome = json.loads(call(words, ABANDONED).splitlines()[-1])
    explained = json.loads(call(command("explain", str(outcome["run"]), "--json")))
    return {
        "bandwidth": bandwidth,
        "limit_ms": limit_ms,
        "deadline": deadline,
        "status": outcome["status"],
        "vm_runs_at": outcome["vm_runs_at"],
        "total_ms": outcome["total_ms"],
        "passes": len(outcome["passes"]),
        "verdict": explained["verdict"],
        "remedies": {
            one["change"]: one["to"] for one in explained["remedies"] if one["change"] in CHANGES
        },
        "trace": call(command("show", str(outcome["run"]), "--trace")),
    }


def report(results: Results) -> str:
    """A table of the loads, and the two figures of the bar."""
    lines = [
        versions(),
        f"{'load':<15}{'':<48}{'does not at':>22}{'change':>11}{'proposed':>14}{'whole':>19}"
        f"{'a fifth less':>19}",
    ]
    proposed, converged, needed = 0, 0, 0
    times = []
    for load in LOADS:
        bases = [row for row in results if row["key"].startswith(f"{load.name}/base/")]
        base = bases[-1]
        for change in CHANGES:
            first = change == CHANGES[0]
            name = f"{load.name:<15}{describe(load.writer):<48}" if first else " " * 63
            at = f"{format_rate(base['bandwidth'])}, {load.limit_ms} ms" if first else ""
            if change not in base["remedies"]:
                lines.append(f"{name}{at:>22}{change:>11}{'none':>14}")
                continue
            whole = results[f"{load.name}/{change}/whole"]
            less = results[f"{load.name}/{change}/less"]
            value = base["remedies"][change]
            shown = format_rate(value) if change == "bandwidth" else format_duration(value / 1000)
            proposed += 1
            converged += whole["status"] == "completed"
            needed += less["status"] == "abandoned"
            times.append(whole["total_ms"] / 1000)
            lines.append(f"{name}{at:>22}{change:>11}{shown:>14}{_end(whole):>19}{_end(less):>19}")
    lines.append(
        f"{converged} of {proposed} changes make it converge (bar: 19 of 20), in"
        f" {statistics.median(times):.1f} s in the median; a fifth less does not in {needed} of"
        f" {proposed} (bar: 16 of 20)"
    )
    return "\n".join(lines)


def _end(row: Row) -> str:
    return f"{row['status']} {row['total_ms'] / 1000:.1f} s"


def main() -> None:
    """Measure what is missing and print."""
    results = open_results(__doc__, "remedies")
    with Home() as home:
        home.run("guest", LOADS[0].writer, RAM_MIB)
        remedies = Remedies(home, results)
        for load in LOADS:
            remedies.all_of(load)
    sys.stdout.write(report(results) + "\n")


if __name__ == "__main__":
    main()
