"""Injects one fault into one move and judges what became of the VM: one row."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench._faults_hold import Holder, NotReached
from bench._faults_lab import VM, Changes, Command, Lab, Place, freeze, read_settings, thaw
from bench._faults_proxy import Proxy
from bench._faults_watch import Eye, Watch
from tests import leftovers
from vmferry.errors import VmferryError
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.instance import load_instance
from vmferry.journal import Journal

END_SECONDS = 90.0
MOST_MS_WITHOUT_VM = 2000.0
AT_A_BYTE = frozenset({"cut", "stall"})
_LASTS = re.compile(r" (\d+) s$")
KILLS_COMMAND = frozenset({"kill command", "kill both", "stop guardian, kill both"})


@dataclass(frozen=True, slots=True)
class Case:
    """One fault to inject: `fault` at `stage`; `number` tells repetitions apart."""

    fault: str
    stage: str
    disk: bool = False
    proxy: bool = False
    small_state: bool = False
    number: int = 0

    @property
    def kind(self) -> str:
        """The fault without how long it lasts."""
        return _LASTS.sub("", self.fault)

    @property
    def seconds(self) -> float:
        """How long it lasts, for those that end."""
        lasts = _LASTS.search(self.fault)
        return float(lasts[1]) if lasts is not None else 0.0

    @property
    def id(self) -> str:
        where = "+".join(
            word
            for word, is_so in (
                ("disk", self.disk),
                ("proxy", self.proxy),
                ("small-state", self.small_state),
            )
            if is_so
        )
        return f"{self.fault} | {self.stage} | {where or 'plain'} | {self.number}"


def inject(lab: Lab, case: Case, seed: int) -> dict[str, Any]:
    """Boot where there is no VM, move it, hurt it, settle it, judge it."""
    place = lab.boot()
    chance = random.Random(seed)
    began = time.monotonic()
    watch = Watch([lab.instances, lab.far])
    watch.start()
    watch.wait(lambda: watch.eye(place.process.pid) is not None, 5.0)
    trial = _Trial(lab, case, place, watch, chance)
    try:
        trial.carry_out()
        row = trial.judge()
    finally:
        watch.stop()
        trial.close()
    trial.after_watching(row)
    row["seed"] = seed
    row["seconds"] = round(time.monotonic() - began, 1)
    return row


class _Trial:
    def __init__(
        self, lab: Lab, case: Case, place: Place, watch: Watch, chance: random.Random
    ) -> None:
        self.lab, self.case, self.place, self.watch, self.chance = lab, case, place, watch, chance
        self.violations: list[str] = []
        self.proxy: Proxy | None = None
        self.command: Command | None = None
        self.holder: Holder | None = None
        self.landed: dict[str, Any] = {}
        self.reached = True
        self.hurt_at = time.time()
        self.exit: int | None = None
        self.outcome: dict[str, Any] = {}
        self.recovered: dict[str, Any] | None = None
        self.survivors: list[Eye] = []

    # -- the fault -------------------------------------------------------------------------

    def carry_out(self) -> None:
        if self.case.small_state and self.case.stage == "before the move":
            self.lab.fill_state()
        self.command = Command(self.lab, *self._arguments())
        self.holder = Holder(self.lab, self.watch, self.command, self.place.process)
        self.holder.arm(self.case.stage)
        if self.case.kind in AT_A_BYTE and self.proxy is not None:
            self._at_a_byte(self.holder, self.proxy)
        elif self.case.stage not in ("start", "before the move"):
            try:
                self.holder.reach(self.case.stage, self.chance)
            except NotReached as reason:
                self.reached = False
                self.landed["not reached"] = str(reason)
            self.landed.update(self.holder.landed())
            self.hurt_at = time.time()
            if self.reached:
                self._hurt(self.holder, self.command)
        self.holder.release()
        if self.case.fault == "kill command" and self.proxy is not None:
            self.proxy.let_go()
        self._settle(self.command)

    def _arguments(self) -> list[str]:
        if not self.case.proxy:
            if self.case.stage == "start":
                self._break_destination()
            return [self.place.address, "--to", "local"]
        far, socket = self.lab.start_far(FAR_MISMATCHES.get(self.case.fault, ()))
        at = self.lab.root / "proxy.sock"
        self.proxy = Proxy(at, socket, deaf=self.case.fault in FAR_MISMATCHES)
        if self.case.stage == "loaded, source not told":
            self.proxy.withhold()
        to_qmp = str(far.files.control_socket)
        return [self.place.address, "--to", f"unix:{at}", "--to-qmp", to_qmp]

    def _break_destination(self) -> None:
        replace, add = BROKEN[self.case.fault]
        self.lab.break_destination(replace, add)

    def _at_a_byte(self, holder: Holder, proxy: Proxy) -> None:
        """Choose the byte; in stage 3 it is counted from where the passes ended."""
        cut = self.case.fault == "cut"
        happened = proxy.was_cut if cut else proxy.was_stalled

        def set_byte(byte: int) -> None:
            if cut:
                proxy.cut_at = byte
            else:
                proxy.stall_at = byte

        if self.case.stage == "stage 3, not held":
            armed, after = self.watch.heard, int(10 ** self.chance.uniform(0.5, 7.0))

            def heard(eye: Eye, name: str, data: dict[str, Any]) -> None:
                if name == "MIGRATION" and data.get("status") == "pre-switchover":
                    set_byte(proxy.forwarded + after)
                armed(eye, name, data)

            self.watch.heard = heard
            self.landed["stage 3 byte"] = after
        else:
            set_byte(
                self.chance.randrange(1, 200_000 if self.case.stage == "setup" else 70_000_000)
            )
        ended = holder.command.process
        self.watch.wait(lambda: happened.is_set() or ended.poll() is not None, END_SECONDS)
        self.reached = happened.is_set()
        self.hurt_at = time.time()
        self.landed.update(holder.landed())
        self.landed["byte"] = proxy.forwarded
        if self.reached and not cut:
            time.sleep(self.case.seconds)
            proxy.go_on()

    def _hurt(self, holder: Holder, command: Command) -> None:
        HURTS[self.case.kind](self, holder, command)
        time.sleep(self.chance.uniform(0.0, 0.25))

    def _guardian(self, command: Command) -> ProcessId | None:
        self.watch.wait(lambda: command.find_guardian() is not None, 5.0)
        return command.guardian

    def kill_command(self, _holder: Holder, command: Command) -> None:
        self._guardian(command)
        command.signal(signal.SIGKILL)

    def kill_guardian(self, _holder: Holder, command: Command) -> None:
        if guardian := self._guardian(command):
            guardian.kill()

    def kill_both(self, holder: Holder, command: Command) -> None:
        first = self.chance.random() < 0.5
        guardian = self._guardian(command)
        if first and guardian:
            guardian.kill()
        command.signal(signal.SIGKILL)
        if guardian:
            guardian.kill()

    def interrupt(self, _holder: Holder, command: Command) -> None:
        self._guardian(command)
        command.signal(signal.SIGINT)

    def kill_destination(self, holder: Holder, _command: Command) -> None:
        self.watch.wait(lambda: holder.destination is not None, 3.0)
        if destination := holder.destination:
            destination.kill()

    def kill_source(self, holder: Holder, _command: Command) -> None:
        holder.source.kill()

    def stop_destination(self, holder: Holder, _command: Command) -> None:
        self.watch.wait(lambda: holder.destination is not None, 3.0)
        if destination := holder.destination:
            self._stop(holder, destination)

    def stop_source(self, holder: Holder, _command: Command) -> None:
        self._stop(holder, holder.source)

    def _stop(self, holder: Holder, process: ProcessId) -> None:
        freeze(process)
        others = [one for one in holder.frozen if one != process]
        holder.journal.leave()
        for other in others:
            thaw(other)
        time.sleep(self.case.seconds)
        thaw(process)

    def stop_guardian(self, holder: Holder, command: Command) -> None:
        guardian = self._guardian(command)
        if guardian is None:
            return
        freeze(guardian)
        holder.release()
        time.sleep(self.chance.uniform(0.1, 1.0))
        if self.case.fault == "stop guardian, kill both":
            command.signal(signal.SIGKILL)
        guardian.kill()

    def fill_journal(self, holder: Holder, _command: Command) -> None:
        self.lab.fill_state()

    def refuse_writes(self, _holder: Holder, command: Command) -> None:
        """As a full disk, for the guardian alone: needs no file system of its own."""
        if guardian := self._guardian(command):
            resource.prlimit(guardian.pid, resource.RLIMIT_FSIZE, (1, 1))

    def cut_now(self, _holder: Holder, _command: Command) -> None:
        if self.proxy is not None:
            self.proxy.cut()

    def withhold(self, _holder: Holder, _command: Command) -> None:
        time.sleep(self.case.seconds)
        if self.proxy is not None:
            self.proxy.let_go()

    # -- the end ---------------------------------------------------------------------------

    def _settle(self, command: Command) -> None:
        """Wait for the end; where the command is dead or gave up, have `recover` settle."""
        self.exit = command.wait(END_SECONDS)
        if self.exit is None:
            self.violations.append("the command does not end")
            command.signal(signal.SIGKILL)
        if command.guardian is not None and not command.guardian.wait_dead(END_SECONDS):
            self.violations.append("the guardian does not end")
            command.guardian.kill()
        self.outcome = next(
            (line for line in reversed(command.said()) if line.get("event") == "outcome"), {}
        )
        self.lab.make_room()
        self.lab.mend_destination()
        if self.proxy is not None and self.case.stage == "loaded, source not told":
            self.proxy.let_go()
        if self.case.fault in KILLS_COMMAND or self.exit == 6:
            self._recover()
        if "Traceback" in command.complained():
            self.violations.append(f"a traceback: {command.complained()[-600:]}")

    def _recover(self) -> None:
        done = self.lab.run("recover", "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        last = lines[-1] if lines else {}
        self.recovered = {
            "exit": done.returncode,
            "status": last.get("status"),
            "vm_runs_at": last.get("vm_runs_at"),
            "why": last.get("why"),
        }
        if done.returncode not in (0, 6) or "Traceback" in done.stderr:
            self.violations.append(f"recover: {done.returncode} {done.stderr[-400:]}")

    def judge(self) -> dict[str, Any]:
        self.watch.wait(self._calm, 2.0)
        self.survivors = [eye for eye in self.watch.eyes.values() if eye.gone_at is None]
        self.violations += self.watch.violations
        overlap = self.watch.overlap_ms()
        gap = self.watch.longest_gap_ms(self.hurt_at)
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
        complained = self.command.complained() if self.command is not None else ""
        if self.case.stage == "start":
            self._judge_refusal(f"{self.outcome.get('why')} {complained}")
        return {
            "format": 1,
            "case": self.case.id,
            **{f.name: getattr(self.case, f.name) for f in dataclasses.fields(self.case)},
            "reached": self.reached,
            "landed": self.landed,
            "exit": self.exit,
            "status": self.outcome.get("status"),
            "vm_runs_at": self.outcome.get("vm_runs_at"),
            "why": self.outcome.get("why"),
            "complained": complained[-500:],
            "recover": self.recovered,
            "lost": lost,
            "none_ran_ms": gap,
            "both_ran_ms": overlap,
            "samples": self.watch.samples,
            "violations": self.violations,
        }

    def _calm(self) -> bool:
        alive = [eye for eye in self.watch.eyes.values() if eye.gone_at is None]
        return sum(eye.runstate == "running" for eye in alive) == len(alive) == 1

    def _told(self) -> dict[str, Any]:
        """The last that vmferry said of the VM: `recover`, where there was something to recover."""
        settled = self.recovered is not None and self.recovered["status"] is not None
        return (self.recovered if settled else self.outcome) or {}

    def _judge_lost(self) -> None:
        """The VM may only be lost where the fault took the one QEMU that had it."""
        fault, step = self.case.fault, self.landed.get("step")
        told = self._told()
        place = told.get("vm_runs_at")
        if fault == "kill source" and step in (None, "begun", "intent"):
            if place not in ("nowhere", None) or (place is None and self.exit == 0):
                self.violations.append(f"the VM is gone, and vmferry says '{place}'")
        elif fault == "kill destination" and step in ("source-dead", "done"):
            if place not in ("nowhere", "unknown"):
                self.violations.append(f"the VM is gone, and vmferry says '{place}'")
        else:
            self.violations.append("the VM runs nowhere")

    def _judge_refusal(self, said: str) -> None:
        """A destination that is none: the command fails, and QEMU's own words are told."""
        if self.exit not in (2, 3, 5):
            self.violations.append(f"exit status {self.exit} with a destination that is none")
        if self.case.fault in BROKEN and "qemu-system" not in said:
            self.violations.append(f"QEMU's own words are missing: {said}")

    def after_watching(self, row: dict[str, Any]) -> None:
        """What takes the watcher's end: pages, settings, names, what is left behind."""
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
        told = self._told().get("vm_runs_at")
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
            self.violations.append(f"cannot be verified: {error.message}")
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
        honest = row["lost"] and self._told().get("vm_runs_at") == "unknown"
        if left and not honest:
            self.violations.append(f"unsettled runs: {[run.id for run in left]}")

    def close(self) -> None:
        if self.holder is not None:
            self.holder.close()
        if self.command is not None:
            self.command.close()
        if self.proxy is not None:
            self.proxy.close()


def _difference(before: Any, now: Any) -> dict[str, Any]:
    return {
        key: (before[part].get(key), now[part].get(key))
        for part in before
        for key in before[part] | now[part]
        if before[part].get(key) != now[part].get(key)
    }


HURTS: dict[str, Callable[[_Trial, Holder, Command], None]] = {
    "Ctrl-C": _Trial.interrupt,
    "kill command": _Trial.kill_command,
    "kill guardian": _Trial.kill_guardian,
    "kill both": _Trial.kill_both,
    "kill destination": _Trial.kill_destination,
    "kill source": _Trial.kill_source,
    "stop destination": _Trial.stop_destination,
    "stop source": _Trial.stop_source,
    "stop guardian, kill it": _Trial.stop_guardian,
    "stop guardian, kill both": _Trial.stop_guardian,
    "journal full": _Trial.fill_journal,
    "journal refuses": _Trial.refuse_writes,
    "cut now": _Trial.cut_now,
    "withhold": _Trial.withhold,
}

_OTHER_SIZE: Changes = (("131080k", "147464k"), (str(131080 << 10), str(147464 << 10)))

# A destination that vmferry starts: what to replace in its command line, and words to add.
BROKEN: dict[str, tuple[Changes, tuple[str, ...]]] = {
    "no such device": ((), ("-device", "no-such-device")),
    "no huge pages": (
        (),
        ("-object", "memory-backend-file,id=huge,size=64M,mem-path=/nowhere/huge,share=on"),
    ),
    "socket in use": ((), ("-chardev", "socket,id=x,path=/proc/none,server=on,wait=off")),
    "other RAM size": (_OTHER_SIZE, ()),
    "other machine": ((("pc-q35-7.2", "pc-q35-6.2"),), ()),
    "other port number": ((("bus=channels.0,nr=1,", "bus=channels.0,nr=5,"),), ()),
}
FAR_MISMATCHES: dict[str, Changes] = {
    "far: other RAM size": _OTHER_SIZE,
    "far: other port number": (("bus=channels.0,nr=1,", "bus=channels.0,nr=5,"),),
}
