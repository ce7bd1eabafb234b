"""Measures the cases of the validation on real guests: the forecast first, then the moves.

Each workload has a guest of its own. A case is one rehearsal and then real moves: three repeats at
the planned setting, with one at 0.9 and one at 1.1 of the bandwidth between them (of the downtime
limit, where there is no cap). Where two repeats did not complete a third could change nothing, and
is left out. A row is one measurement, so that a run goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench._bench_home import Home, call, command
from bench._bench_results import Results, Row
from bench._forecast_workloads import WORKLOADS, Setting, Workload
from bench._guest_programs import archive, start
from vmferry.errors import UsageError, VmferryError
from vmferry.hypervisor.qemu.dirty_rate import measure_dirty_curve
from vmferry.hypervisor.qemu.instance import Instance
from vmferry.hypervisor.qemu.lifecycle import start_vm, stop_vm
from vmferry.hypervisor.qemu.qmp import QmpError
from vmferry.hypervisor.qemu.resolve import resolve
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.journal import Journal
from vmferry.move.speeds import way_to
from vmferry.precopy import case as precopy
from vmferry.precopy.forecast import forecast
from vmferry.precopy.profile import DirtyProfile
from vmferry.units import MIB
from vmferry.vm.address import Local
from vmferry.vm.spec import VmSpec

REPEATS = 3
LOWER, HIGHER = 0.9, 1.1
SETTLE_SECONDS = 1.0
# A move has three times what pass 1 takes and some more, and longer where the forecast says so.
PASS_1_TIMES, MORE_SECONDS, FORECAST_TIMES, MOST_SECONDS = 3.0, 3.0, 1.3, 60.0
ABANDONED = 4
ANSWERED = (7, 8)
ATTEMPTS = 2


class TimeUp(Exception):
    """The time that the run was given is over."""


def key_of(workload: Workload, setting: Setting, what: str) -> str:
    return f"{workload.name} | {setting} | {what}"


def curve_key(workload: Workload) -> str:
    """The row of a workload's dirty curve by calc-dirty-rate, which all its cases share."""
    return f"{workload.name} | curve"


def vm_name(workload: Workload) -> str:
    """A name of its own: what the journal knows of a VM must not be of another workload."""
    return f"w{WORKLOADS.index(workload)}"


def keys_of(workload: Workload, setting: Setting, results: Results) -> Iterator[str]:
    """The rows of a case in the order of measurement, by what is known so far."""
    yield curve_key(workload)
    moves = [f"1.0/{n}" for n in range(REPEATS)]
    order = ["rate", "rehearsal", moves[0], str(LOWER), moves[1], str(HIGHER)]
    for what in order:
        yield key_of(workload, setting, what)
    both = [key_of(workload, setting, move) for move in moves[:2]]
    if any(key not in results or results[key]["status"] == "completed" for key in both):
        yield key_of(workload, setting, moves[2])


def missing(
    workload: Workload, results: Results, settings: Sequence[Setting] | None = None
) -> list[str]:
    """The rows of a workload that are still to be measured; of these settings, or of all."""
    chosen = workload.settings if settings is None else settings
    keys = (key for setting in chosen for key in keys_of(workload, setting, results))
    return [key for key in dict.fromkeys(keys) if key not in results]


class Bench:
    """Measures what is missing, until `until` by the monotonic clock."""

    def __init__(self, home: Home, results: Results, commit: str, until: float) -> None:
        self._home = home
        self._results = results
        self._commit = commit
        self._until = until

    def learn_the_link(self) -> None:
        """Move an idle guest without a cap: forecasts take the speeds from earlier moves."""
        idle = WORKLOADS[0]
        self._boot(idle)
        try:
            for _ in range(2):
                call(command("migrate", vm_name(idle), "--to", "local", "--json"))
        finally:
            self._stop(idle)

    def measure(self, workload: Workload, settings: Sequence[Setting]) -> None:
        """All that is missing of a workload with these settings. Raises TimeUp.

        What goes wrong twice is told and left out; the next run tries it again.
        """
        for _ in range(ATTEMPTS):
            if not missing(workload, self._results, settings):
                return
            self._check_time()
            try:
                self._boot(workload)
                for setting in settings:
                    self._case(workload, setting)
            except (RuntimeError, VmferryError, QmpError) as error:
                sys.stderr.write(f"{workload.name}: {error}\n")
            finally:
                self._stop(workload)

    def _check_time(self) -> None:
        if time.monotonic() > self._until:
            raise TimeUp

    def _boot(self, workload: Workload) -> None:
        spec: dict[str, Any] = {
            "name": vm_name(workload),
            "memory": {"size": f"{workload.ram_mib}MiB"},
            "boot": {"kernel": "testguest"},
            "testguest": workload.writer.model_dump(),
            "qemu": {"accelerator": "tcg"},
        }
        if workload.program:
            spec["disk"] = [{"path": str(archive(workload.program)), "readonly": True}]
        asyncio.run(start_vm(resolve(VmSpec.model_validate(spec)).spec))
        if workload.program:
            start(self._home.current(vm_name(workload)).files.console_socket, workload.program)
        time.sleep(SETTLE_SECONDS)

    def _stop(self, workload: Workload) -> None:
        with contextlib.suppress(UsageError):  # it did not start
            asyncio.run(stop_vm(vm_name(workload), force=True))

    def _case(self, workload: Workload, setting: Setting) -> None:
        for key in keys_of(workload, setting, self._results):
            if key in self._results:
                continue
            self._check_time()
            began = time.monotonic()
            row = self._results.once(key, lambda key=key: self._row(workload, setting, key))  # type: ignore[misc]
            seconds = time.monotonic() - began
            told = row.get("status") or row.get("verdict") or ""
            sys.stderr.write(f"{key}: {told} ({seconds:.0f} s)\n")

    def _row(self, workload: Workload, setting: Setting, key: str) -> Row:
        time.sleep(SETTLE_SECONDS)
        vm, what = vm_name(workload), key.rpartition(" | ")[2]
        if what == "curve":
            row = _as_read({"profile": _curve(self._home.current(vm)).to_json()})
        elif what == "rate":
            row = _forecast(vm, setting, self._results[curve_key(workload)]["profile"])
        elif what == "rehearsal":
            row = _rehearse(vm, setting)
        else:
            rehearsal = self._results[key_of(workload, setting, "rehearsal")]
            factor = float(what.partition("/")[0])
            row = _migrate(vm, setting, factor, deadline_of(rehearsal))
        return {"commit": self._commit, **row}


def deadline_of(rehearsal: Row) -> float:
    """How long a move may take, in seconds, by what the rehearsal measured."""
    first: float = rehearsal["passes"][0]["duration_ms"] / 1000
    said = rehearsal["forecast"]["total_ms"]
    expected: float = said["p90"] / 1000 if said else 0.0
    return min(max(PASS_1_TIMES * first + MORE_SECONDS, FORECAST_TIMES * expected), MOST_SECONDS)


def options(setting: Setting, factor: float = 1.0) -> list[str]:
    """The options of a command for a setting; `factor` scales the bandwidth, or else the limit."""
    if not setting.bandwidth:
        return ["--downtime", f"{setting.limit_ms * factor:g}ms"]
    bandwidth = round(setting.bandwidth * MIB * factor)
    return ["--bandwidth", f"{bandwidth}B/s", "--downtime", f"{setting.limit_ms}ms"]


def _as_read(row: Row) -> Row:
    """A row as it will be read from its file."""
    found: Row = json.loads(json.dumps(row))
    return found


def _records(words: list[str], *allowed: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in call(words, *allowed).splitlines()]


def _curve(instance: Instance) -> DirtyProfile:
    """The dirty curve by calc-dirty-rate alone."""

    async def measure() -> DirtyProfile:
        side = QemuSide(instance.files.observer_socket, instance.process, ours=True)
        try:
            return await measure_dirty_curve(side)
        finally:
            await side.close()

    return asyncio.run(measure())


def _forecast(vm: str, setting: Setting, profile: Mapping[str, Any]) -> Row:
    """The forecast from this profile alone, and the speeds that earlier moves had."""
    with Journal.open() as journal:
        way = way_to(journal, vm, Local())
    wanted = precopy.Setting(setting.bandwidth * MIB, setting.limit_ms)
    return forecast(DirtyProfile.from_json(profile), wanted, way.link, way.host).to_json()


def _rehearse(vm: str, setting: Setting) -> Row:
    """The rehearsal's own answer and forecast, and the forecast with the speeds of earlier moves.

    A rehearsal knows no destination, so by itself it has to guess how fast the switchover is.
    """
    words = command("rehearse", vm, "--json", *options(setting))
    records = _records(words, *ANSWERED)
    [found] = [record for record in records if record.get("event") == "rehearsal"]
    outcome = records[-1]
    if found["forecast"] is None or not outcome["passes"]:
        raise RuntimeError(f"a rehearsal of '{vm}' told nothing: {found['why']}")
    return {
        **{key: found[key] for key in ("verdict", "why", "profile")},
        "own_forecast": found["forecast"],
        "forecast": _forecast(vm, setting, found["profile"]),
        "passes": outcome["passes"],
        "total_ms": outcome["total_ms"],
    }


def _migrate(vm: str, setting: Setting, factor: float, deadline: float) -> Row:
    words = command("migrate", vm, "--to", "local", "--json", *options(setting, factor))
    words += ["--deadline", f"{deadline:.3f}s"]
    outcome = _records(words, ABANDONED)[-1]
    guest = outcome["guest"] or {}
    return {
        "deadline": deadline,
        **{key: outcome[key] for key in ("status", "total_ms", "downtime_ms", "bytes", "why")},
        "gap_ms": guest.get("gap_ms"),
        "passes": outcome["passes"],
    }
