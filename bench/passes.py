"""Is vmferry's history of the passes right? 16 moves against QEMU's events and trace events.

QEMU keeps no such history; vmferry makes it from MIGRATION_PASS events and polled replies. Here it
is compared, pass by pass, with what QEMU itself told of the same move: the events as a bystander
hears them on a QMP socket of its own, and the trace events of QEMU's log (_bench_syncs.py).

- the numbers of the passes and the times between them: with the bystander's events;
- the sums over the passes of bytes, pages and zero pages: with QEMU's totals;
- the pages that each sync found newly dirty, and those dirty after it: with the trace events.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench._bench_bystander import Bystander, stamp
from bench._bench_home import Home, call, command, describe
from bench._bench_results import Results, Row, open_results, versions
from bench._bench_syncs import PAGE, TRACED, TracedSync, read_syncs
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

RAM_MIB = 160
SETTLE_SECONDS = 1.0
DEADLINE_SECONDS = 10.0
ABANDONED = 4
BAR_ERROR = 0.01
EXACT_SECONDS = 1e-5
# QEMU's log has times only with -msg.
TRACE_WORDS = tuple(word for name in TRACED for word in ("-trace", name))
EXTRA = ("-msg", "timestamp=on", "-D", "{instance}/trace.log", *TRACE_WORDS)


@dataclass(frozen=True, slots=True)
class Move:
    """One load and the limits it is moved with: MiB/s and milliseconds."""

    writer: PageWriterSettings
    bandwidth: int
    limit_ms: int = 300


def _move(
    bandwidth: int, working_set: int, rate: int | None, limit_ms: int = 300, **more: Any
) -> Move:
    """Sizes in MiB, rates in MiB/s; None is as fast as it can."""
    writer = PageWriterSettings(
        working_set=working_set * MIB,
        write_rate="unlimited" if rate is None else rate * MIB,
        **more,
    )
    return Move(writer, bandwidth, limit_ms)


# The smaller working sets first: what a larger one has written to stays non-zero.
MOVES = (
    _move(48, 16, 0),
    _move(48, 16, 4),
    _move(32, 16, 16),
    _move(64, 16, 48, order="sequential"),
    _move(40, 16, None),
    _move(64, 16, None, threads=2),
    _move(48, 16, 32, 100),
    _move(64, 32, 8, 30),
    _move(48, 32, 24),
    _move(32, 32, 40),
    _move(48, 32, 40, hot_writes=90, hot_pages=10),
    _move(32, 32, 24, order="sequential"),
    _move(40, 32, 32, phases="busy:1,idle:0.5"),
    _move(64, 32, 64, 150),
    _move(96, 32, 48, 50, content="same"),
    _move(24, 32, 12, content="text"),
)


def measure_all(results: Results) -> None:
    """Make the moves that are missing, all with one guest."""
    if all(_key(move) in results for move in MOVES):
        return
    with Home() as home:
        home.run("guest", MOVES[0].writer, RAM_MIB, *EXTRA)
        for move in MOVES:
            key = _key(move)
            if key in results:
                continue
            home.agent("guest").set(**move.writer.wire())
            time.sleep(SETTLE_SECONDS)
            row = results.once(key, lambda move=move: _measure(home, move))  # type: ignore[misc]
            sys.stderr.write(f"{key}: {row['status']}, {len(row['passes'])} passes\n")


def _key(move: Move) -> str:
    content = "" if move.writer.content == "random" else f" {move.writer.content}"
    return f"{describe(move.writer)}{content}, {move.bandwidth} MiB/s, {move.limit_ms} ms"


def _measure(home: Home, move: Move) -> Row:
    """One move, and what QEMU told of it beside vmferry."""
    source = home.current("guest")
    bystander = Bystander(source.files.observer_socket)
    # Held open: the folder of the source goes when the VM has moved.
    with (source.folder / "trace.log").open() as log:
        log.seek(0, 2)
        words = command("migrate", "guest", "--to", "local", "--json")
        words += ["--bandwidth", f"{move.bandwidth}MiB/s", "--downtime", f"{move.limit_ms}ms"]
        trace = home.folder / "trace.jsonl"
        words += ["--deadline", f"{DEADLINE_SECONDS:g}s", "--trace", str(trace)]
        outcome = json.loads(call(words, ABANDONED).splitlines()[-1])
        syncs = read_syncs(log)
    heard = [each for each in bystander.events() if each["event"] == "MIGRATION_PASS"]
    bystander.close()
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    replies = [line["query-migrate"] for line in lines if "query-migrate" in line]
    return {
        "status": outcome["status"],
        "passes": outcome["passes"],
        "bytes": outcome["bytes"],
        "ram": [reply["ram"] for reply in replies if reply.get("ram", {}).get("total")][-1],
        "events": [[each["data"]["pass"], stamp(each)] for each in heard],
        "syncs": [[sync.t, sync.new, sync.dirty] for sync in syncs],
    }


@dataclass(frozen=True, slots=True)
class Comparison:
    """vmferry's passes of one move against QEMU's. Errors are relative, of pages."""

    numbers_agree: bool
    time_error: float
    sums_off: dict[str, int]
    new_errors: tuple[float, ...]
    dirty_errors: tuple[float, ...]
    stated_exact: tuple[float, ...]


def compare(row: Row) -> Comparison:
    """A move as vmferry has it against what QEMU told."""
    passes, events, ram = row["passes"], row["events"], row["ram"]
    syncs = [TracedSync(*each) for each in row["syncs"]]
    numbers = [each["n"] for each in passes]
    starts = [each["start_ms"] / 1000 for each in passes]
    agree = numbers == [n for n, _ in events] == list(range(1, len(syncs) + 1))
    apart = [
        abs((starts[i] - starts[0]) - (events[i][1] - events[0][1]))
        for i in range(min(len(starts), len(events)))
    ]
    sums = ("sent_bytes", "sent_pages", "zero_pages")
    sent = {name: sum(each[name] for each in passes) for name in sums}
    new_errors: list[float] = []
    dirty_errors: list[float] = []
    stated = []
    # Pass 1 is all of the guest's memory, whatever is dirty.
    for each, sync in list(zip(passes, syncs, strict=False))[1:]:
        for name, truth, errors in (
            ("new_bytes", sync.new, new_errors),
            ("dirty_bytes", sync.dirty, dirty_errors),
        ):
            if truth:
                error = abs(each[name] / PAGE - truth) / truth
                errors.append(error)
                if name not in each["estimated"]:
                    stated.append(error)
    return Comparison(
        agree,
        max(apart, default=0.0),
        {
            "bytes": sent["sent_bytes"] - ram["transferred"],
            "pages": sent["sent_pages"] - ram["normal"] - ram["duplicate"],
            "zero pages": sent["zero_pages"] - ram["duplicate"],
        },
        tuple(new_errors),
        tuple(dirty_errors),
        tuple(stated),
    )


def report(rows: list[tuple[Move, Row]]) -> str:
    """A table of the moves and the figures."""
    lines = [
        versions(),
        f"{'move':<64}{'':<10}{'passes':>7}{'times off':>11}{'sums off':>10}"
        f"{'new pages':>18}{'dirty pages':>18}",
    ]
    compared = [compare(row) for _, row in rows]
    for (move, row), one in zip(rows, compared, strict=True):
        off = sum(abs(value) for value in one.sums_off.values())
        lines.append(
            f"{_key(move):<64}{row['status']:<10}{len(row['passes']):>7}"
            f"{one.time_error * 1e6:>8.0f} us{off:>10}"
            f"{_spread(one.new_errors):>18}{_spread(one.dirty_errors):>18}"
            + ("" if one.numbers_agree else "  PASS NUMBERS DIFFER")
        )
    new = [error for one in compared for error in one.new_errors]
    dirty = [error for one in compared for error in one.dirty_errors]
    stated = [error for one in compared for error in one.stated_exact]
    exact = sum(one.numbers_agree and one.time_error < EXACT_SECONDS for one in compared)
    equal = sum(not any(one.sums_off.values()) for one in compared)
    lines += [
        "(errors: median and largest; sums off: bytes, pages and zero pages together)",
        f"pass numbers and times between passes exact: {exact} of {len(compared)} moves",
        f"sums of bytes, pages and zero pages equal QEMU's totals: {equal} of {len(compared)}",
        f"newly dirty pages of a pass: error {_spread(new)} over {len(new)} syncs",
        f"dirty pages when a pass begins: error {_spread(dirty)} over {len(dirty)} syncs",
        f"of these not marked as estimated: error {_spread(stated)} over {len(stated)};"
        f" {sum(error > BAR_ERROR for error in stated)} of them above {BAR_ERROR:.0%}",
    ]
    return "\n".join(lines)


def _spread(errors: list[float] | tuple[float, ...]) -> str:
    return f"{statistics.median(errors):.2%}, {max(errors):.1%}" if errors else "-"


def main() -> None:
    """Measure what is missing and print."""
    results = open_results(__doc__, "passes")
    measure_all(results)
    sys.stdout.write(report([(move, results[_key(move)]) for move in MOVES]) + "\n")


if __name__ == "__main__":
    main()
