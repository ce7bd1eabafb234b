"""How fast is the stream reader? From memory on one core, and under QEMU against a null sink.

From memory: a process sends a made-up stream through a socket pair; sender and reader share one
core, so the figures hold the cost of the kernel's copies too. They are per second of CPU that the
two took together, which is the time that passes where nothing else runs; beside each the clock's,
and the same without the reader. With QEMU: a guest under load is migrated without a bandwidth cap
into the reader and into a process that throws everything away, in turn; it goes on at the source
each time. The reader's page counts must be those of QEMU.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from pathlib import Path

from bench._bench_home import Home, describe
from bench._bench_results import Results, Row, open_results, versions
from bench._qmp import Qmp
from bench._stats import Interval, median_interval, paired_ratio
from bench._stream_memory import MIXES, measure
from bench._stream_sink import Sink
from vmferry.hypervisor.qemu.instance import Instance
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import GIB, MIB

REPEATS = 15
CORE = 0
PAIRS = 15
RAM_MIB = 512
DOWNTIME_LIMIT_MS = 1000
SETTLE_SECONDS = 0.5
PATIENCE_SECONDS = 120.0
GUESTS = {
    "mostly ordinary pages": PageWriterSettings(
        working_set=32 * MIB, write_rate=16 * MIB, cold=320 * MIB
    ),
    "mostly zero pages": PageWriterSettings(working_set=32 * MIB, write_rate=16 * MIB),
}
BAR_ORDINARY = GIB
BAR_ZERO = 2e6
BAR_RATIO = 1.1
_SINKS = ("null", "reader")


def measure_memory(results: Results) -> None:
    """With and without the reader in turn."""
    for repeat in range(REPEATS):
        for mix in MIXES:
            for sink in _SINKS:
                key = f"memory/{mix}/{repeat}/{sink}"
                results.once(key, partial(measure, mix, sink == "reader", CORE))
        sys.stderr.write(f"memory: {repeat + 1} of {REPEATS}\n")


def measure_qemu(results: Results) -> None:
    """Migrate each guest into both sinks in turn; the first of a pair changes."""
    for name, writer in GUESTS.items():
        keys = [f"qemu/{name}/{pair}/{sink}" for pair in range(PAIRS) for sink in _SINKS]
        if all(key in results for key in keys):
            continue
        with Home() as home:
            home.run("guest", writer, RAM_MIB)
            instance = home.current("guest")
            for pair in range(PAIRS):
                for sink in _SINKS if pair % 2 == 0 else _SINKS[::-1]:
                    key = f"qemu/{name}/{pair}/{sink}"
                    row = results.once(key, partial(_migrate, home.folder, instance, sink))
                    sys.stderr.write(f"{key}: {row['total_ms']} ms\n")


def _migrate(folder: Path, instance: Instance, kind: str) -> Row:
    """One whole migration; then the guest runs on where it was."""
    time.sleep(SETTLE_SECONDS)
    path = folder / "sink.sock"
    qmp = Qmp(instance.files.observer_socket)
    try:
        with Sink(path, kind) as sink:
            limits = {"max-bandwidth": 0, "downtime-limit": DOWNTIME_LIMIT_MS}
            qmp.execute("migrate-set-parameters", **limits)
            qmp.execute("migrate", uri=f"unix:{path}")
            reply = _until_completed(qmp)
            row = sink.row()
        qmp.execute("cont")
    finally:
        qmp.close()
    ram = reply["ram"]
    if kind == "reader" and (row["ordinary"], row["zero"]) != (ram["normal"], ram["duplicate"]):
        raise RuntimeError(f"the reader counted {row}, QEMU {ram}")
    return row | {
        "total_ms": reply["total-time"],
        "normal": ram["normal"],
        "duplicate": ram["duplicate"],
        "transferred": ram["transferred"],
    }


def _until_completed(qmp: Qmp) -> Row:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up:
        reply: Row = qmp.execute("query-migrate")
        if reply["status"] == "failed":
            raise RuntimeError(f"the migration failed: {reply}")
        # The figures may come after the status.
        if reply["status"] == "completed" and reply.get("total-time"):
            return reply
        time.sleep(0.05)
    raise RuntimeError("the migration does not end")


def report(results: Results) -> str:
    """Both tables and the bars."""
    lines = [
        versions(),
        f"from memory through a socket pair, sender and reader on one core, {REPEATS} repeats:",
        f"{'':24}{'GiB/s, median (95 %)':>30}{'pages/s':>14}{'by the clock':>14}"
        f"{'no reader, GiB/s':>20}",
    ]
    speeds: dict[str, tuple[Interval, float]] = {}
    for mix in MIXES:
        rows = [results[f"memory/{mix}/{n}/reader"] for n in range(REPEATS)]
        nulls = [results[f"memory/{mix}/{n}/null"] for n in range(REPEATS)]
        speed = median_interval([row["bytes"] / _core_seconds(row) for row in rows])
        pages = statistics.median(_pages(row) / _core_seconds(row) for row in rows)
        clock = statistics.median(row["bytes"] / row["seconds"] for row in rows)
        speeds[mix] = speed, pages
        bare = statistics.median(row["bytes"] / _core_seconds(row) for row in nulls)
        shown = f"{speed.value / GIB:.2f} ({speed.low / GIB:.2f} to {speed.high / GIB:.2f})"
        lines.append(f"{mix:24}{shown:>30}{pages:>14,.0f}{clock / GIB:>14.2f}{bare / GIB:>20.2f}")
    fast = speeds["ordinary"][0].low >= BAR_ORDINARY and speeds["zero"][1] >= BAR_ZERO
    lines.append(f"bar: 1 GiB/s of ordinary pages, 2 million zero pages/s: {_verdict(fast)}")
    for name, writer in GUESTS.items():
        lines += _report_guest(results, name, writer)
    return "\n".join(lines)


def _report_guest(results: Results, name: str, writer: PageWriterSettings) -> list[str]:
    nulls, readers = ([results[f"qemu/{name}/{n}/{s}"] for n in range(PAIRS)] for s in _SINKS)
    ratio = paired_ratio([r["total_ms"] for r in readers], [r["total_ms"] for r in nulls])
    return [
        f"QEMU, {RAM_MIB} MiB, {describe(writer)}: {name}, no bandwidth cap, {PAIRS} pairs:",
        "  "
        + "; ".join(
            f"{sink} {statistics.median(r['total_ms'] for r in rows):.0f} ms "
            f"({min(r['total_ms'] for r in rows)} to {max(r['total_ms'] for r in rows)}), "
            f"{statistics.median(r['bytes'] for r in rows) / MIB:.0f} MiB, "
            f"CPU {statistics.median(r['cpu_seconds'] for r in rows):.2f} s"
            for sink, rows in zip(_SINKS, (nulls, readers), strict=True)
        ),
        f"  total time, reader to null sink: {ratio}",
        f"  page counts equal to QEMU's in all {len(readers)}",
        f"  bar: at most {BAR_RATIO}: {_verdict(ratio.value <= BAR_RATIO)}",
    ]


def _pages(row: Row) -> int:
    return int(row["ordinary"]) + int(row["zero"]) + int(row["xbzrle"])


def _core_seconds(row: Row) -> float:
    return float(row["cpu_seconds"]) + float(row["sender_cpu_seconds"])


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def main() -> None:
    """Measure what is missing and print."""
    results = open_results(__doc__, "stream")
    measure_memory(results)
    measure_qemu(results)
    sys.stdout.write(report(results) + "\n")


if __name__ == "__main__":
    main()
