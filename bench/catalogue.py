"""Does the audit find what is planted, and leave right set-ups alone? 63 and 24, under load.

Each case is made for real in the lab: a nested guest, its load, the fault. Then `vmferry audit
--json` on the lab's host says what it finds, with a look inside by `labguest run`. A planted one
counts as found when the check that it is about raises its alarm at its level and shows the evidence
that was planted; "cannot be told" is not found. Planted ones of different kinds share a guest. A
right set-up has its own and may raise no alarm at all.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench._bench_results import Results, Row, versions
from bench._catalogue_bundle import bundles, together
from bench._catalogue_case import ALARMS, Case, Guest, problems
from bench._catalogue_cases import CASES
from bench._catalogue_loads import LOADS
from lab.errors import LabError
from lab.host import GUESTS, Host
from lab.lab import Lab
from vmferry.units import format_duration

NAME = "plant"
_QMP = f"{GUESTS}/{NAME}/qmp.sock"
_SET_UP = f"G={NAME}; QMP={_QMP}; PID=$(cat {GUESTS}/{NAME}/pid 2>/dev/null); "
_NVME = "lspci -D -n | awk '$2 == \"0108:\" {print $1; exit}'"
# Python on the lab's host takes seconds to start, and once more in the guest.
_AUDIT_SECONDS, _STEP_SECONDS = 300.0, 420.0
_WINDOW = "3s"


def main() -> None:
    """Run the cases that are not there yet; print what came out."""
    options = _options()
    results = Results(options.out / "catalogue.jsonl")
    wanted = [case for case in CASES if re.search(options.only, case.name)]
    pending = [case for case in wanted if case.name not in results]
    until = time.monotonic() + 60 * options.minutes
    for lab, cases in itertools.groupby(
        sorted(pending, key=lambda case: str(case.lab)), key=lambda case: case.lab
    ):
        if time.monotonic() < until:
            try:
                asyncio.run(_in_lab(lab.vtd, lab.cpus, lab.append, list(cases), results, until))
            except LabError as error:
                _say(f"no lab for these cases: {error.message}")
    _report([results[case.name] for case in wanted if case.name in results], len(wanted))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="FOLDER")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose name has it")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no case after these")
    return parser.parse_args()


async def _in_lab(
    vtd: bool, cpus: int, append: str, cases: Sequence[Case], results: Results, until: float
) -> None:
    left = list(bundles(cases))
    while left and time.monotonic() < until:
        async with Lab.up(1, vtd=vtd, cpus=cpus, append=append, say=_say) as lab:
            # The host itself may be lost (docs/lab.md): the other cases get another one.
            well = True
            while left and well and time.monotonic() < until:
                well = await _bundle(lab.hosts[0], left.pop(0), results)


async def _bundle(host: Host, bundle: Sequence[Case], results: Results) -> bool:
    """Whether it came to an audit."""
    began = time.monotonic()
    try:
        findings = await carry_out(host, together(bundle))
    except LabError as error:
        # It is no result of the audit; the cases are tried again by the next run.
        _say(f"{together(bundle).name}: {error.message}")
        return False
    for case in bundle:
        row = _row(case, bundle, findings, time.monotonic() - began)
        results.once(case.name, lambda row=row: row)  # type: ignore[misc]
        _say(f"{case.name}: {'; '.join(row['problems']) or 'ok'}")
    return True


def _row(case: Case, bundle: Sequence[Case], findings: list[dict[str, Any]], seconds: float) -> Row:
    alarms = [one["verdict"] for one in findings]
    return {
        "planted": not case.right,
        "with": [one.name for one in bundle if one is not case],
        "problems": problems(case, findings),
        "expected": [one.check for one in case.expected],
        "found": [one for one in findings if one["verdict"] in [each.value for each in ALARMS]],
        "verdicts": {verdict: alarms.count(verdict) for verdict in sorted(set(alarms))},
        "seconds": round(seconds, 1),
    }


async def carry_out(host: Host, case: Case) -> list[dict[str, Any]]:
    """Make the set-up, audit it, and take it away again. Raises LabError."""
    loads = [LOADS[name] for name in case.load.split("+")]
    try:
        if case.before:
            await host.run(case.before, timeout=_STEP_SECONDS)
        if case.guest is not None:
            nvme = (await host.run(_NVME)).text
            (await host.run(_start(case.guest, nvme), timeout=_STEP_SECONDS)).check()
        await _step(host, case.outside)
        await _inside(host, case.inside)
        for load in loads:
            await _inside(host, load.guest)
            await _step(host, load.host)
        await asyncio.sleep(max(load.settle for load in loads))
        told = await host.run(_audit(case), timeout=_AUDIT_SECONDS)
        if told.status not in (0, 7) or told.late:
            raise LabError(f"the audit ended with {told.status}: {told.complaint[-1500:]}")
        lines = [json.loads(line) for line in told.text.splitlines()]
        return [line for line in lines if line.get("event") == "finding"]
    finally:
        await host.run("kill $(cat /run/catalogue-load); rm -f /run/catalogue-load")
        if case.guest is not None:
            await host.run(["labguest", "stop", NAME])
            await host.run("ip link delete plant")
        if case.after:
            await host.run(case.after, timeout=_STEP_SECONDS)


async def _step(host: Host, script: str) -> None:
    if script:
        (await host.run(_SET_UP + script, timeout=_STEP_SECONDS)).check()


async def _inside(host: Host, script: str) -> None:
    if script:
        command = f"labguest run {NAME} -c {shlex.quote(script)} < /dev/null"
        (await host.run(command, timeout=_STEP_SECONDS)).check()


def _start(guest: Guest, nvme: str) -> list[str]:
    words = ["labguest", "start", NAME, "--smp", str(guest.smp), "--memory", guest.memory]
    words += ["--cpu", guest.cpu, "--accel", guest.accel, "--queues", str(guest.queues)]
    more = [word.replace("@NVME@", nvme) for word in guest.qemu]
    return [*words, f"--append={guest.append}", "--", *more]


def _audit(case: Case) -> str:
    inside = shlex.quote(f"labguest run {NAME} -c 'exec python3 -' --timeout 150")
    words = f"vmferry audit --json --window {_WINDOW}"
    if case.target == "host":
        return f"vmferry audit --json --host{' --deep' if case.deep else ''}"
    if case.target == "guest":
        return f"{words} --guest --guest-via {inside}"
    return f"{words} qmp:{_QMP} --guest-via {inside}{' --deep' if case.deep else ''}"


def _report(rows: Iterable[Row], wanted: int) -> None:
    rows = list(rows)
    planted = [row for row in rows if row["planted"]]
    right = [row for row in rows if not row["planted"]]
    _print(f"catalogue: {len(rows)} of {wanted} cases, {versions()}")
    for name, some, good in (
        ("planted misconfigurations", planted, "found"),
        ("right set-ups", right, "without an alarm"),
    ):
        _print(f"{name}: {sum(not row['problems'] for row in some)} of {len(some)} {good}")
    for row in rows:
        for problem in row["problems"]:
            _print(f"  {row['key']}: {problem}")
    if rows:
        longest = max(row["seconds"] for row in rows)
        _print(f"the longest case took {format_duration(longest)}")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"catalogue: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
