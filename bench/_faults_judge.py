"""Judges what became of a VM after a fault: who ran when, what is told, what is left."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from typing import Any

from bench._faults_case import BROKEN, Case
from bench._faults_lab import VM, Lab, Place, read_settings
from bench._faults_mute import signs_of_life
from bench._faults_watch import Eye, Watch
from tests import leftovers
from vmferry.errors import VmferryError
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.instance import load_instance
from vmferry.journal import Journal

MOST_MS_WITHOUT_VM = 2000.0


@dataclass
class Story:
    """What was done to one move and what vmferry said: the trial writes it, the judge reads it.

    `recovered` is what `recover` said, where it was called.
    """

    reached: bool = True
    landed: dict[str, Any] = field(default_factory=dict)
    hurt_at: float = field(default_factory=time.time)
    exit: int | None = None
    outcome: dict[str, Any] = field(default_factory=dict)
    complained: str = ""
    recovered: dict[str, Any] | None = None
    violations: list[str] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """The last that vmferry said of the VM: `recover`, where there was something to recover."""
        settled = self.recovered is not None and self.recovered["status"] is not None
        return (self.recovered if settled else self.outcome) or {}


class Judge:
    """Of one fault. `place` is where the VM was before."""

    def __init__(self, lab: Lab, case: Case, place: Place, watch: Watch, story: Story) -> None:
        self.lab, self.case, self.place, self.watch, self.story = lab, case, place, watch, story
        self.violations = story.violations
        self.survivors: list[Eye] = []

    def judge(self) -> dict[str, Any]:
        """The row, as far as it can be told while the watcher still looks."""
        self.watch.wait(self._calm, 2.0)
        self.survivors = [eye for eye in self.watch.eyes.values() if eye.gone_at is None]
        self.violations += self.watch.violations
        overlap = self.watch.overlap_ms()
        gap = self.watch.longest_gap_ms(self.story.hurt_at)
        lost = not any(eye.runstate == "running" for eye in self.survivors)
        if overlap > 0:
            self.violations.append(f"two ran at once for {overlap} ms")
        if self.case.fault == "kill command" and not lost and gap > MOST_MS_WITHOUT_VM:
            self.violations.append(f"none ran for {gap} ms after the command's death")
        if lost:
            self._judge_lost()
        elif len(self.survivors) != 1:
            said = [f"{eye.runstate}/{eye.migration}" for eye in self.survivors]
            self.violations.append(f"{len(self.survivors)} QEMUs are left: {said}")
        if self.case.stage == "start":
            self._judge_refusal(f"{self.story.outcome.get('why')} {self.story.complained}")
        return {
            "format": 1,
            "case": self.case.id,
            **{f.name: getattr(self.case, f.name) for f in dataclasses.fields(self.case)},
            "reached": self.story.reached,
            "landed": self.story.landed,
            "exit": self.story.exit,
            "status": self.story.outcome.get("status"),
            "vm_runs_at": self.story.outcome.get("vm_runs_at"),
            "why": self.story.outcome.get("why"),
            "complained": self.story.complained[-500:],
            "recover": self.story.recovered,
            "lost": lost,
            "none_ran_ms": gap,
            "both_ran_ms": overlap,
            "samples": self.watch.samples,
            "violations": self.violations,
        }

    def _calm(self) -> bool:
        alive = [eye for eye in self.watch.eyes.values() if eye.gone_at is None]
        return sum(eye.runstate == "running" for eye in alive) == len(alive) == 1

    def _judge_lost(self) -> None:
        """The VM may only be lost where the fault took the one QEMU that had it."""
        fault, step = self.case.fault, self.story.landed.get("step")
        told = self.story.told()
        place = told.get("vm_runs_at")
        if fault == "kill source" and step in (None, "begun", "intent"):
            if place not in ("nowhere", None) or (place is None and self.story.exit == 0):
                self.violations.append(f"the VM is gone, and vmferry says '{place}'")
        elif fault == "kill destination" and step in ("source-dead", "done"):
            if place not in ("nowhere", "unknown"):
                self.violations.append(f"the VM is gone, and vmferry says '{place}'")
        else:
            self.violations.append("the VM runs nowhere")

    def _judge_refusal(self, said: str) -> None:
        """A destination that is none: the command fails, and QEMU's own words are told."""
        if self.story.exit not in (2, 3, 5):
            self.violations.append(f"exit status {self.story.exit} with a destination that is none")
        if self.case.fault in BROKEN and "qemu-system" not in said:
            self.violations.append(f"QEMU's own words are missing: {said}")

    def after_watching(self, row: dict[str, Any]) -> None:
        """Adds what needs the watcher's end: pages, settings, names, what is left behind."""
        row["verified"] = None
        if row["lost"]:
            self.lab.stop_vm()
        else:
            self._check_survivor(row)
        self._check_leftovers()
        self._check_journal(row)
        if self.lab.place is not None and self.lab.place.address != VM:
            self.lab.stop_vm()
        if self.violations:
            self.lab.stop_vm()

    def _check_survivor(self, row: dict[str, Any]) -> None:
        running = next(eye for eye in self.survivors if eye.runstate == "running")
        instance = load_instance(running.folder)
        at_source = running.pid == self.place.process.pid
        told = self.story.told().get("vm_runs_at")
        if told is not None and told != ("source" if at_source else "destination"):
            self.violations.append(f"vmferry says '{told}', which is wrong")
        if at_source:
            place = self.place
        elif instance is not None:
            place = Place(VM, instance.process, instance.files)
        else:
            files = dataclasses.replace(self.place.files, folder=running.folder)
            place = Place(f"qmp:{files.control_socket}", ProcessId.of(running.pid), files)
        self.lab.place = place
        try:
            checked = self.lab.verify()
            row["verified"] = {
                "ok": checked.ok,
                "pages": checked.pages,
                "disk_blocks": checked.disk_blocks,
            }
            if not checked.ok:
                bad = ", ".join(str(one) for one in checked.bad[:3])
                self.violations.append(f"{checked.faults} pages or blocks are wrong: {bad}")
            if self.case.disk and not checked.disk_blocks:
                self.violations.append("no disk block was written")
        except VmferryError as error:
            signs = signs_of_life(place)
            self.violations.append(f"cannot be verified: {error.message}; {signs}")
        try:
            now = read_settings(place.files.control_socket)
            if now != self.lab.settings:
                self.violations.append(f"migration settings: {_difference(self.lab.settings, now)}")
        except (RuntimeError, OSError) as error:
            self.violations.append(f"settings cannot be read: {error}")
        listed = self.lab.run("ls", "--json")
        rows = [json.loads(line) for line in listed.stdout.splitlines()]
        named = place.address == VM
        seen = [(one["name"], one["state"], one["pid"], one["busy"]) for one in rows]
        expected = [(VM, "running", place.process.pid, None)] if named else []
        if seen != expected:
            self.violations.append(f"ls says {seen} {listed.stderr}, not {expected}")

    def _check_leftovers(self) -> None:
        place = self.lab.place
        keep = place.process.pid if place is not None else None
        self.lab.reap()
        left = [one for one in leftovers.processes(self.lab.runtime) if one.process.pid != keep]
        self.violations += [f"left behind: {one}" for one in left]
        for one in left:
            one.process.kill()
        own = str(place.files.folder.name) if place is not None else " "
        files = leftovers.files(self.lab.runtime)
        stray = [name for name in files if f"instances/{own}/" not in f"{name}/"]
        if place is not None:
            stray += [name for name in files if name.endswith("migration.sock")]
        locks = self.lab.state / "vmferry" / "locks"
        stray += [path.name for path in locks.glob("*") if path.name != "guard"]
        stray += [path.name for path in (self.lab.state / "vmferry").glob("bug-*")]
        stray += [str(path) for path in (self.lab.state / "vmferry").rglob(".*") if path.exists()]
        self.violations += [f"left behind: {name}" for name in stray]

    def _check_journal(self, row: dict[str, Any]) -> None:
        with Journal.open() as journal:
            left = journal.unsettled()
        honest = row["lost"] and self.story.told().get("vm_runs_at") == "unknown"
        if left and not honest:
            self.violations.append(f"unsettled runs: {[run.id for run in left]}")


def _difference(before: Any, now: Any) -> dict[str, Any]:
    return {
        key: (before[part].get(key), now[part].get(key))
        for part in before
        for key in before[part] | now[part]
        if before[part].get(key) != now[part].get(key)
    }
