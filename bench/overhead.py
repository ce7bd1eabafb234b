"""Does vmferry slow a move down, and what CPU does it take? 15 pairs against a bare QMP script.

One test guest is moved to and fro between QEMU processes that vmferry starts and that wait with
the same arguments, in turn by `vmferry migrate --policy fixed` with its live display on a terminal
and by the least script that moves a VM (_bench_bare.py). Both have the same bandwidth, downtime
limit and polling interval. A bystander on QMP sockets of its own takes QEMU's time stamps, so both
are measured alike: from the `setup` event of `migrate` to RESUME at the destination. vmferry's CPU
is that of the command and its guardian over this same time, and beside it over the whole command.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import termios
import time
from typing import Any

from bench import _bench_bare as bare
from bench._bench_bystander import Bystander, stamp, status_stamp
from bench._bench_cpu import CpuLog, children
from bench._bench_home import Home, command, describe, end
from bench._bench_results import Results, Row, open_results, versions
from bench._qmp import Qmp
from bench._stats import median_interval, paired_ratio
from vmferry.hypervisor.qemu.instance import Instance
from vmferry.hypervisor.qemu.launch import launch
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB, format_rate

PAIRS = 15
RAM_MIB = 192
WRITER = PageWriterSettings(working_set=24 * MIB, write_rate=8 * MIB)
BANDWIDTH = 24 * MIB
LIMIT_MS = 300
SETTLE_SECONDS = 1.0
SAMPLE_SECONDS = 0.05
ROWS, COLUMNS = 40, 120
BAR_RATIO, BAR_CPU_PERCENT = 1.05, 2.0


def measure_all(results: Results) -> None:
    """Make the moves that are missing; the first of a pair changes from pair to pair."""
    orders = (("bare", _by_script), ("vmferry", _by_vmferry))
    keys = [f"{pair}/{name}" for pair in range(PAIRS) for name, _ in orders]
    if all(key in results for key in keys):
        return
    with Home() as home:
        home.run("guest", WRITER, RAM_MIB)
        for pair in range(PAIRS):
            for name, by in orders if pair % 2 == 0 else orders[::-1]:
                key = f"{pair}/{name}"
                if key in results:
                    continue
                time.sleep(SETTLE_SECONDS)
                row = results.once(key, lambda by=by: _move(home, by))  # type: ignore[misc]
                sys.stderr.write(f"{key}: {row['seconds']:.3f} s\n")


def _move(home: Home, by: Any) -> Row:
    """One move to a destination that waits; the guest has its name there afterwards."""
    source = home.current("guest")
    destination = asyncio.run(launch(source.spec, incoming=True))
    uri = f"unix:{destination.folder}/migration.sock"
    waiting = Qmp(destination.files.control_socket)
    waiting.execute("migrate-incoming", uri=uri)
    waiting.close()
    leaving = Bystander(source.files.observer_socket)
    arriving = Bystander(destination.files.observer_socket)
    row: Row = by(source, destination, uri)
    began = status_stamp(leaving.events(), "setup")
    stopped = stamp(leaving.wait_for("STOP"))
    runs = stamp(arriving.wait_for("RESUME"))
    samples = row.pop("cpu", [])
    for name, log in samples:
        row[f"{name}_cpu_seconds"] = log.between(began, runs)
    leaving.close()
    arriving.close()
    home.pass_name(destination)
    end(source)
    return {"seconds": runs - began, "stopped_ms": 1000 * (runs - stopped), **row}


def _by_script(source: Instance, destination: Instance, uri: str) -> Row:
    total_ms = bare.move(
        source.files.control_socket, destination.files.control_socket, uri, BANDWIDTH, LIMIT_MS
    )
    return {"total_time_ms": total_ms}


def _by_vmferry(source: Instance, destination: Instance, uri: str) -> Row:
    trace = destination.folder / "trace.jsonl"
    words = command("migrate", "guest", "--policy", "fixed", "--to", uri)
    words += ["--to-qmp", str(destination.files.control_socket), "--trace", str(trace)]
    words += ["--bandwidth", f"{BANDWIDTH}B/s", "--downtime", f"{LIMIT_MS}ms"]
    began = time.monotonic()
    logs, usage, said = _on_a_terminal(words)
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    trace.unlink()
    last = [line["query-migrate"] for line in lines if "query-migrate" in line][-1]
    if last["status"] != "completed":
        raise RuntimeError(f"the move was not completed: {said}")
    return {
        "total_time_ms": last["total-time"],
        "cpu": logs,
        "whole_seconds": time.monotonic() - began,
        "whole_cpu_seconds": usage.ru_utime + usage.ru_stime,
    }


def _on_a_terminal(words: list[str]) -> tuple[list[tuple[str, CpuLog]], Any, str]:
    """Run a command on a terminal of its own, sampling its CPU and its guardian's.

    Also what it and all its children used, and what it wrote. Raises RuntimeError.
    """
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    process = subprocess.Popen(
        words, stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    command_log, guardian_log = CpuLog(), CpuLog()
    said = b""
    try:
        while True:
            if select.select([master], [], [], SAMPLE_SECONDS)[0]:
                try:
                    said += os.read(master, 1 << 16)
                except OSError:  # the last one who had the terminal open has ended
                    break
            command_log.sample(process.pid)
            for guardian in children(process.pid):
                guardian_log.sample(guardian)
    except BaseException:
        process.terminate()  # it undoes the move
        process.wait()
        raise
    os.close(master)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    text = said.decode(errors="replace")
    if process.returncode != 0:
        raise RuntimeError(f"the move ended with {process.returncode}: {text[-2000:]}")
    return [("command", command_log), ("guardian", guardian_log)], usage, text


def report(results: Results) -> str:
    """A table of the pairs and the figures."""
    lines = [
        f"{versions()}; {describe(WRITER)} at {format_rate(BANDWIDTH)}, {LIMIT_MS} ms",
        f"{'':>4}{'from migrate to RESUME, s':>34}{'total-time of QEMU, ms':>30}"
        f"{'stopped, ms':>20}{'CPU of vmferry':>24}",
        f"{'pair':>4}{'bare':>12}{'vmferry':>12}{'ratio':>10}{'bare':>12}{'vmferry':>18}"
        f"{'bare':>10}{'vmferry':>10}{'during':>13}{'in all':>11}",
    ]
    pairs = [
        (results[f"{n}/bare"], results[f"{n}/vmferry"])
        for n in range(PAIRS)
        if f"{n}/bare" in results and f"{n}/vmferry" in results
    ]
    for n, (one, other) in enumerate(pairs):
        lines.append(
            f"{n:>4}{one['seconds']:>12.3f}{other['seconds']:>12.3f}"
            f"{other['seconds'] / one['seconds']:>10.4f}"
            f"{one['total_time_ms']:>12}{other['total_time_ms']:>18}"
            f"{one['stopped_ms']:>10.1f}{other['stopped_ms']:>10.1f}"
            f"{_cpu_percent(other):>11.2f} %{other['whole_cpu_seconds']:>9.2f} s"
        )
    if len(pairs) < 2:
        return "\n".join(lines)
    bares, ours = zip(*pairs, strict=True)
    times = paired_ratio([row["seconds"] for row in ours], [row["seconds"] for row in bares])
    own = paired_ratio(
        [row["total_time_ms"] for row in ours], [row["total_time_ms"] for row in bares]
    )
    ratios = [b["seconds"] / a["seconds"] for a, b in pairs]
    cpu = median_interval([_cpu_percent(row) for row in ours])
    verdicts = ["missed", "met"]
    lines += [
        f"ratio of times, vmferry to bare: {times}; median of {len(pairs)}: "
        f"{statistics.median(ratios):.4f}",
        f"ratio of QEMU's own total-time: {own}",
        f"CPU of vmferry during the move, per cent of one core: {cpu}; "
        f"the command {_median_percent(ours, 'command'):.2f}, "
        f"the guardian {_median_percent(ours, 'guardian'):.2f}",
        f"CPU of the whole command, start of both processes included: "
        f"{statistics.median(row['whole_cpu_seconds'] for row in ours):.2f} s of "
        f"{statistics.median(row['whole_seconds'] for row in ours):.1f} s",
        f"bar: ratio at most {BAR_RATIO} at its upper end: {verdicts[times.high <= BAR_RATIO]}; "
        f"CPU under {BAR_CPU_PERCENT:g} %: {verdicts[cpu.value < BAR_CPU_PERCENT]}",
    ]
    return "\n".join(lines)


def _cpu_percent(row: Row) -> float:
    return _percent(row, "command") + _percent(row, "guardian")


def _median_percent(rows: tuple[Row, ...], which: str) -> float:
    return statistics.median(_percent(row, which) for row in rows)


def _percent(row: Row, which: str) -> float:
    return 100 * float(row[f"{which}_cpu_seconds"]) / float(row["seconds"])


def main() -> None:
    """Measure what is missing and print."""
    results = open_results(__doc__, "overhead")
    measure_all(results)
    sys.stdout.write(report(results) + "\n")


if __name__ == "__main__":
    main()
