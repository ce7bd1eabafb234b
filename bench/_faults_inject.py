"""Injects one fault into one move, waits for its end and has it judged: one row."""

from __future__ import annotations

import json
import random
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

from bench._faults_case import BROKEN, FAR_MISMATCHES, Case
from bench._faults_hold import Holder, NotReached
from bench._faults_judge import Judge, Story
from bench._faults_lab import Command, Lab, Place, freeze, thaw
from bench._faults_proxy import Proxy
from bench._faults_watch import Eye, Watch
from vmferry.host.process import ProcessId
from vmferry.preflight.registry import CHECKS

END_SECONDS = 90.0
AT_A_BYTE = frozenset({"cut", "stall"})
# A destination that does not fit is refused before the move; here QEMU itself is to find out.
FORCED = [word for one in CHECKS if one.forceable for word in ("--force", one.name)]
KILLS_COMMAND = frozenset({"kill command", "kill both", "stop guardian, kill both"})


def inject(lab: Lab, case: Case, seed: int) -> dict[str, Any]:
    """Boot where there is no VM, move it, hurt it, settle it, judge it."""
    place = lab.boot()
    chance = random.Random(seed)
    began = time.monotonic()
    watch = Watch([lab.instances, lab.far])
    watch.start()
    watch.wait(lambda: watch.eye(place.process.pid) is not None, 5.0)
    trial = _Trial(lab, case, place, watch, chance)
    judge = Judge(lab, case, place, watch, trial.story)
    try:
        trial.carry_out()
        row = judge.judge()
    finally:
        watch.stop()
        trial.close()
    judge.after_watching(row)
    row["seed"] = seed
    row["seconds"] = round(time.monotonic() - began, 1)
    return row


class _Trial:
    def __init__(
        self, lab: Lab, case: Case, place: Place, watch: Watch, chance: random.Random
    ) -> None:
        self.lab, self.case, self.place, self.watch, self.chance = lab, case, place, watch, chance
        self.story = Story()
        self.proxy: Proxy | None = None
        self.command: Command | None = None
        self.holder: Holder | None = None

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
                self.story.reached = False
                self.story.landed["not reached"] = str(reason)
            self.story.landed.update(self.holder.landed())
            self.story.hurt_at = time.time()
            if self.story.reached:
                self._hurt(self.holder, self.command)
        self.holder.release()
        if self.case.fault == "kill command" and self.proxy is not None:
            self.proxy.let_go()
        self._settle(self.command)

    def _arguments(self) -> list[str]:
        if not self.case.proxy:
            if self.case.stage == "start":
                self._break_destination()
                return [self.place.address, "--to", "local", *FORCED]
            return [self.place.address, "--to", "local"]
        far, socket = self.lab.start_far(FAR_MISMATCHES.get(self.case.fault, ()))
        at = self.lab.root / "proxy.sock"
        self.proxy = Proxy(at, socket, deaf=self.case.fault in FAR_MISMATCHES)
        if self.case.stage == "loaded, source not told":
            self.proxy.withhold()
        to_qmp = str(far.files.control_socket)
        forced = FORCED if self.case.fault in FAR_MISMATCHES else []
        return [self.place.address, "--to", f"unix:{at}", "--to-qmp", to_qmp, *forced]

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
            self.story.landed["stage 3 byte"] = after
        else:
            set_byte(
                self.chance.randrange(1, 200_000 if self.case.stage == "setup" else 70_000_000)
            )
        ended = holder.command.process
        self.watch.wait(lambda: happened.is_set() or ended.poll() is not None, END_SECONDS)
        self.story.reached = happened.is_set()
        self.story.hurt_at = time.time()
        self.story.landed.update(holder.landed())
        self.story.landed["byte"] = proxy.forwarded
        if self.story.reached and not cut:
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

    def _settle(self, command: Command) -> None:
        """Wait for the end; where the command is dead or gave up, have `recover` settle."""
        self.story.exit = command.wait(END_SECONDS)
        if self.story.exit is None:
            self.story.violations.append("the command does not end")
            command.signal(signal.SIGKILL)
        if command.guardian is not None and not command.guardian.wait_dead(END_SECONDS):
            self.story.violations.append("the guardian does not end")
            command.guardian.kill()
        self.story.outcome = next(
            (line for line in reversed(command.said()) if line.get("event") == "outcome"), {}
        )
        self.lab.make_room()
        self.lab.mend_destination()
        if self.proxy is not None and self.case.stage == "loaded, source not told":
            self.proxy.let_go()
        said = self.story.complained = command.complained()
        if (
            self.case.fault in KILLS_COMMAND
            or self.story.exit == 6
            or "could not be recorded" in said
        ):
            self._recover()
        if "Traceback" in said:
            self.story.violations.append(f"a traceback: {said[-600:]}")

    def _recover(self) -> None:
        done = self.lab.run("recover", "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        last = lines[-1] if lines else {}
        self.story.recovered = {
            "exit": done.returncode,
            "status": last.get("status"),
            "vm_runs_at": last.get("vm_runs_at"),
            "why": last.get("why"),
        }
        if done.returncode not in (0, 6) or "Traceback" in done.stderr:
            self.story.violations.append(f"recover: {done.returncode} {done.stderr[-400:]}")

    def close(self) -> None:
        if self.holder is not None:
            self.holder.close()
        if self.command is not None:
            self.command.close()
        if self.proxy is not None:
            self.proxy.close()


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
