"""Does the simulator foretell real QEMU's moves? 30 writer settings x 2 downtime limits.

Each setting is moved by a bare QEMU and by the simulator, which is given the setting and constants
that were measured on an idle guest, and nothing of the run. A run that is not over after 8 passes
and 6 seconds is a "never". A run is on the edge where the simulator's verdicts at 0.9 and 1.1 of
the bandwidth differ; there the verdict may go either way. The simulator's run is the median of its
seeds. What differs between them, such as where a sequential writer is when the move begins, differs
between real moves as well, so the nearest of the seeds is compared too. Results are kept in
FOLDER/simulator.jsonl; what is there is not measured again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench._bench_results import Results, Row, open_results, versions
from bench._sim_guest import Guest
from bench._sim_machine import Memory, measure
from vmferry.hypervisor import simulated
from vmferry.hypervisor.simulated import Machine, Precopy
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

RAM_KIB = 196616  # no multiple of 256 KiB: there QEMU 7.2 loses writes under TCG
LIMITS_MS = (150, 300)
LEAST_PASSES = 8
LEAST_SECONDS = 6.0
SETTLE_SECONDS = 1.0
SEEDS = range(15)  # where a sequential writer is when the move begins, nobody knows


@dataclass(frozen=True, slots=True)
class Case:
    """One load and the bandwidth it is moved at, in MiB/s."""

    name: str
    writer: PageWriterSettings
    bandwidth: int


def _case(bandwidth: int, working_set: int, rate: int | None, **more: Any) -> Case:
    """Sizes in MiB, rates in MiB/s; None is as fast as it can."""
    writer = PageWriterSettings(
        working_set=working_set * MIB,
        write_rate="unlimited" if rate is None else rate * MIB,
        cold=more.pop("cold", 0) * MIB,
        **more,
    )
    speed = "unlimited" if rate is None else f"{rate} MiB/s"
    details = " ".join(f"{key}={value}" for key, value in more.items())
    cold = f" cold={writer.cold // MIB} MiB" if writer.cold else ""
    return Case(f"{working_set} MiB at {speed} {details}{cold}".strip(), writer, bandwidth)


def _skew(writes: int, pages: int) -> dict[str, int]:
    return {"hot_writes": writes, "hot_pages": pages}


# Grouped by what the guest must own: one boot serves a group with the same memory.
CASES = (
    _case(64, 16, 4),
    _case(48, 16, 32),
    _case(40, 16, 96, content="one-word"),
    _case(48, 16, None),
    _case(64, 16, 48, order="sequential"),
    _case(48, 16, None, threads=4),
    _case(64, 32, 0),
    _case(48, 32, 8),
    _case(64, 32, 24),
    _case(48, 32, 64),
    _case(56, 32, 96),
    _case(48, 32, 32, content="text"),
    _case(40, 32, 96, **_skew(90, 10)),
    _case(40, 32, 48, **_skew(80, 20)),
    _case(64, 32, None, **_skew(99, 5)),
    _case(64, 32, 24, order="sequential"),
    _case(48, 32, 64, order="sequential"),
    _case(64, 32, 48, phases="busy:1,idle:1"),
    _case(48, 32, 128, phases="busy:2,idle:0.5"),
    _case(40, 32, 48, threads=3, read_share=50),
    _case(64, 64, 16),
    _case(64, 64, 48),
    _case(64, 64, 96),
    _case(60, 64, 48, **_skew(95, 5)),
    _case(64, 64, 128, **_skew(70, 30)),
    _case(64, 64, None),
    _case(64, 64, 48, order="sequential", threads=2),
    _case(64, 64, 64, phases="idle:0.5,busy:0.5"),
    _case(56, 32, 64, cold=32),
    _case(56, 32, 40, cold=32, order="sequential", **_skew(50, 10)),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One move, real or simulated. Pages and seconds."""

    status: str
    dirty: list[int]
    seconds: float

    @property
    def completed(self) -> bool:
        return self.status == "completed"


def simulate(
    case: Case, limit_ms: int, machine: Machine, memory: Memory, age: float, speed: float, seed: int
) -> Run:
    """The same move by the simulator, given up by the same rule."""
    guest = simulated.Guest(writer=case.writer, writer_age=age, **dataclasses.asdict(memory))
    precopy = Precopy(
        guest,
        machine,
        bandwidth=round(case.bandwidth * MIB * speed),
        downtime_limit_ms=limit_ms,
        pause_before_switchover=False,
        seed=seed,
    )
    precopy.start()
    while not precopy.ended:
        precopy.run(precopy.now + 0.05)
        if len(precopy.syncs) >= LEAST_PASSES and precopy.now > LEAST_SECONDS:
            precopy.cancel()
    return Run(
        precopy.status,
        [sync.dirty for sync in precopy.syncs],
        precopy.total_seconds or precopy.now,
    )


def measure_all(results: Results) -> None:
    """Make the measurements that are missing."""
    results.once("machine", _constants)
    for _, cases in itertools.groupby(CASES, lambda c: (c.writer.working_set, c.writer.cold)):
        missing = [
            (case, limit_ms)
            for case in cases
            for limit_ms in LIMITS_MS
            if _key(case, limit_ms) not in results
        ]
        if not missing:
            continue
        with Guest(RAM_KIB, missing[0][0].writer) as guest:
            time.sleep(SETTLE_SECONDS)
            for case, limit_ms in missing:
                row = results.once(
                    _key(case, limit_ms), functools.partial(_move, guest, case, limit_ms)
                )
                sys.stderr.write(f"{row['key']}: {row['status']}\n")


def _constants() -> Row:
    machine, memory = measure(RAM_KIB)
    return {"machine": dataclasses.asdict(machine), "memory": dataclasses.asdict(memory)}


def _move(guest: Guest, case: Case, limit_ms: int) -> Row:
    """The real move, and how long its load had been in force when it began."""
    guest.instance.ask(do="set", **case.writer.wire())
    set_at = time.monotonic()
    move = guest.move(
        case.bandwidth * MIB, limit_ms, least_passes=LEAST_PASSES, least_seconds=LEAST_SECONDS
    )
    return {
        "status": move.status,
        "dirty": [sync.dirty for sync in move.syncs],
        "seconds": move.seconds,
        "age": move.issued_at - set_at,
        "sync_t": [round(sync.t, 4) for sync in move.syncs],
        "sync_seconds": [round(sync.seconds, 4) for sync in move.syncs],
    }


def _key(case: Case, limit_ms: int) -> str:
    return f"{case.name} over {case.bandwidth} MiB/s, {limit_ms} ms"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One case: what was real, what was simulated, and whether it lies on the edge."""

    case: Case
    limit_ms: int
    real: Run
    guesses: list[Run]
    edge: bool

    @property
    def guess(self) -> Run:
        """The median of the seeds."""
        ranked = sorted(self.guesses, key=lambda run: (not run.completed, run.seconds))
        return ranked[len(ranked) // 2]

    @property
    def agrees(self) -> bool:
        return self.real.completed == self.guess.completed

    @property
    def both_completed(self) -> bool:
        return self.real.completed and self.guess.completed

    @property
    def passes_apart(self) -> int:
        return abs(len(self.real.dirty) - len(self.guess.dirty))

    @property
    def time_error(self) -> float:
        return abs(self.guess.seconds - self.real.seconds) / self.real.seconds

    @property
    def nearest_time_error(self) -> float:
        real = self.real.seconds
        return min(abs(guess.seconds - real) / real for guess in self.guesses)

    @property
    def dirty_errors(self) -> list[float]:
        """Of each sync after the first, which finds all of the RAM dirty in both."""
        pairs = list(zip(self.real.dirty, self.guess.dirty, strict=False))[1:]
        return [abs(guess - real) / real for real, guess in pairs if real]


def compare(results: Results) -> list[Comparison]:
    """Simulate every case that was measured."""
    constants = results["machine"]
    machine, memory = Machine(**constants["machine"]), Memory(**constants["memory"])
    comparisons = []
    for case, limit_ms in itertools.product(CASES, LIMITS_MS):
        row = results[_key(case, limit_ms)]
        real = Run(row["status"], row["dirty"], row["seconds"])
        guesses = {
            speed: [
                simulate(case, limit_ms, machine, memory, row["age"], speed, seed) for seed in SEEDS
            ]
            for speed in (0.9, 1.0, 1.1)
        }
        edge = len({guess.completed for speed in (0.9, 1.1) for guess in guesses[speed]}) > 1
        comparisons.append(Comparison(case, limit_ms, real, guesses[1.0], edge))
    return comparisons


def report(comparisons: list[Comparison]) -> str:
    """A table of all runs and the four figures."""
    lines = [
        f"{'load':<62}{'limit':>6}  {'verdict':<16}{'passes':>8}{'seconds':>14}{'error':>7}"
        f"{'dirty':>7}"
    ]
    for each in comparisons:
        real, guess = each.real, each.guess
        verdict = "/".join("moves" if run.completed else "never" for run in (real, guess))
        errors = each.dirty_errors
        dirty = f"{statistics.median(errors):6.1%}" if errors else "-"
        lines.append(
            f"{_key(each.case, each.limit_ms).rpartition(',')[0]:<62}{each.limit_ms:>6}  "
            f"{verdict:<12}{'edge' if each.edge else '':<4}"
            f"{f'{len(real.dirty)}/{len(guess.dirty)}':>8}"
            f"{f'{real.seconds:.2f}/{guess.seconds:.2f}':>14}{each.time_error:>7.1%}{dirty:>7}"
            f"{'' if each.agrees else '  DISAGREE'}"
        )
    off_edge = [each for each in comparisons if not each.edge]
    agreeing = sum(each.agrees for each in off_edge)
    moved = [each for each in comparisons if each.both_completed]
    close = sum(each.passes_apart <= 1 for each in moved)
    times = sorted(each.time_error for each in moved)
    nearest = [each.nearest_time_error for each in moved]
    dirty_errors = [error for each in comparisons for error in each.dirty_errors]
    lines += [
        "(real/simulated; dirty: median error of the dirty count at each sync)",
        f"verdicts off the edge: {agreeing} of {len(off_edge)} agree"
        f" ({len(comparisons) - len(off_edge)} on the edge)",
        f"passes within 1: {close} of {len(moved)} completed moves",
        f"total time: error {statistics.median(times):.1%} in the median, {times[-1]:.1%} at most,"
        f" {sum(error <= 0.05 for error in times)} of {len(times)} within 5 %;"
        f" the nearest of {len(SEEDS)} seeds: {max(nearest):.1%} at most,"
        f" {sum(error <= 0.05 for error in nearest)} of {len(nearest)} within 5 %",
        f"dirty count at each sync: error {statistics.median(dirty_errors):.1%} in the median"
        f" over {len(dirty_errors)} syncs",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, simulate and print."""
    results = open_results(__doc__, "simulator")
    measure_all(results)
    sys.stdout.write(f"{report(compare(results))}\n{versions()}\n")


if __name__ == "__main__":
    main()
