"""Does vmferry foretell how a move goes? 72 workloads, the forecast first, then real moves.

For each case, a workload with a bandwidth and a downtime limit: a rehearsal with its forecast, then
three moves as planned and one each at 0.9 and 1.1 of the bandwidth. Beside the forecast, on the
same runs: one from calc-dirty-rate alone, and what others' models say, each given the best input
that the rehearsal can give it (_baselines.py). Two thirds of the workloads are held out by the hash
of their names (_forecast_workloads.py); the bars are judged by these.

One row a measurement in FOLDER/forecast.jsonl; it goes on where it stopped, and --time, --part,
--split and --only measure some of what is missing; one case of each workload comes first. Then, and
with --report at once, it prints the figures of all that is there and writes its pictures,
FOLDER/forecast-*.svg.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench._bench_home import Home
from bench._bench_results import Results, versions
from bench._forecast_case import Bench, TimeUp, missing
from bench._forecast_plots import against_outcome, errors_by_model
from bench._forecast_report import page
from bench._forecast_rows import score_of
from bench._forecast_scores import Score
from bench._forecast_workloads import WORKLOADS, Workload, hash_of
from vmferry.units import UnitError, parse_duration

ERRORS = {"total_ms": "total time", "bytes": "bytes"}


def main() -> None:
    """Measure what is missing, or as much as there is time for, and print."""
    options = _options()
    chosen = [w for w in WORKLOADS if options.only in w.name and options.split in ("", _split(w))]
    chosen = chosen[options.part[0] :: options.part[1]]
    results = Results(options.out / "forecast.jsonl")
    if options.list:
        sys.stdout.write("".join(_line(workload, results) for workload in chosen))
        return
    if not options.report:
        measure(chosen, results, options.time)
    scores = scores_of(results)
    commits = ", ".join(sorted({row["commit"] for row in results})) or "none"
    sys.stdout.write(page(scores, f"{versions()}, measured with commit {commits}", _cases()))
    for name, picture in pictures(scores).items():
        (options.out / name).write_text(picture)


def measure(workloads: Sequence[Workload], results: Results, seconds: float | None) -> None:
    """Measure what is missing of these, for so long at the most (and one measurement more)."""
    # In an order by hash: what there was time for holds workloads of all kinds.
    missed = sorted(
        (workload for workload in workloads if missing(workload, results)),
        key=lambda workload: hash_of(f"order of {workload.name}"),
    )
    if not missed:
        return
    until = float("inf") if seconds is None else time.monotonic() + seconds
    with Home() as home:
        bench = Bench(home, results, _commit(), until)
        try:
            bench.learn_the_link()
            for each in range(max(len(workload.settings) for workload in missed)):
                for workload in missed:
                    bench.measure(workload, workload.shuffled[each : each + 1])
        except TimeUp:
            sys.stderr.write("the time is up; the same command goes on from here\n")


def scores_of(results: Results) -> list[Score]:
    """The score of each case that is measured to its end."""
    scores = (score_of(w, setting, results) for w in WORKLOADS for setting in w.settings)
    return [score for score in scores if score is not None]


def pictures(scores: Sequence[Score]) -> dict[str, str]:
    """The pictures by the names of their files."""
    judged = [each for each in scores if each.held_out and each.capped and each.off_edge]
    found = {"forecast-total.svg": against_outcome(scores)}
    for what, title in ERRORS.items():
        name = f"forecast-errors-{title.replace(' ', '-')}.svg"
        found[name] = errors_by_model(
            judged, what, f"Error of the {title} and the share of held-out cases within it"
        )
    return found


def _line(workload: Workload, results: Results) -> str:
    left = len(missing(workload, results))
    state = f"{left} measurements left" if left else "done"
    split = _split(workload)
    return f"{workload.name:<40} {split:<9} {len(workload.settings)} cases, {state}\n"


def _split(workload: Workload) -> str:
    return "held-out" if workload.held_out else "fit"


def _cases() -> int:
    return sum(len(workload.settings) for workload in WORKLOADS)


def _commit() -> str:
    words = ["git", "describe", "--always", "--dirty"]
    told = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    out = parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="FOLDER")
    out.help = "where forecast.jsonl is kept; what is in it is not measured again"
    parser.add_argument("--part", type=_part, default=(0, 1), metavar="K/N", help="every Nth only")
    parser.add_argument(
        "--split", choices=("fit", "held-out"), default="", help="workloads of that kind only"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="workloads with TEXT in the name"
    )
    parser.add_argument("--time", type=_seconds, metavar="LIMIT", help="stop after this long")
    parser.add_argument("--list", action="store_true", help="name the workloads, measure nothing")
    parser.add_argument("--report", action="store_true", help="print only, measure nothing")
    return parser.parse_args()


def _part(text: str) -> tuple[int, int]:
    k, _, n = text.partition("/")
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f"'{text}' is not like 1/3")
    return int(k) - 1, int(n)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except UnitError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    main()
