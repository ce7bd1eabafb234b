"""The outcome of a move, put together from what was decided, recorded and measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vmferry.controller import Ending
from vmferry.handover import Settled
from vmferry.move.cost import CostMeter, own_cpu_seconds
from vmferry.move.guest import GuestWatch
from vmferry.move.parties import Parties
from vmferry.move.recorder import Recorder
from vmferry.precopy.explain import explain
from vmferry.precopy.outcome import CostRecord, Outcome, PassRecord, Status
from vmferry.precopy.passes import resent_bytes
from vmferry.precopy.sample import Sample


@dataclass(frozen=True, slots=True)
class Account:
    """What was decided about one run."""

    run: str
    policy: str
    parties: Parties
    ending: Ending
    settled: Settled

    def outcome(
        self,
        recorder: Recorder,
        cost: CostMeter,
        guest: GuestWatch,
        problems: list[str],
        complaint: str,
    ) -> Outcome:
        """The whole story; `complaint` is what the destination's QEMU wrote to standard error."""
        last = recorder.last or Sample(0.0, "none")
        passes = tuple(_rounded(one) for one in recorder.tracker.passes)
        work = guest.work()
        return Outcome(
            run=self.run,
            vm=self.parties.vm,
            status=self._status(),
            vm_runs_at=self.settled.place,
            policy=self.policy,
            total_ms=round(1000 * recorder.ended_at(), 3),
            downtime_ms=last.downtime_ms if last.status == "completed" else None,
            bytes=last.transferred,
            resent_bytes=resent_bytes(passes),
            passes=passes,
            guest=guest.record(),
            cost=CostRecord(
                work_before=work.before,
                work_during=work.during,
                work_after=work.after,
                work_loss_percent=work.loss_percent,
                vcpu_run_delay_percent=cost.run_delay_percent(),
                migration_cpu_seconds=cost.migration_cpu_seconds(),
                vmferry_cpu_seconds=round(own_cpu_seconds(), 3),
                pinned_to=cost.pinned_to,
            ),
            why=self._why(recorder, cost, problems, complaint),
        )

    def _status(self) -> Status:
        if not self.settled.final:
            return "needs-recovery"
        if self.settled.place == "destination":
            return "completed"
        if self.ending.kind in ("abandoned", "cancelled", "refused"):
            return self.ending.kind
        return "failed"

    def _unexplained(self) -> str:
        """For a migration that QEMU gave up without a word: a broken connection, in QEMU 7.2."""
        if self.ending.kind != "ended" or self.ending.status == "completed":
            return ""
        return f"the migration {self.ending.status} at the source; did the connection break?"

    def _why(self, recorder: Recorder, cost: CostMeter, problems: list[str], complaint: str) -> str:
        """What ended it, where the VM is, what the QEMUs said, how it would have gone."""
        reasons = []
        if self.settled.place != "destination":
            reasons.append(self.ending.why or recorder.error or self._unexplained())
        turned_back = self.ending.kind == "ready" and self.settled.place != "destination"
        if turned_back or not self.settled.final or self.settled.place in ("nowhere", "unknown"):
            reasons.append(self.settled.why)
        if complaint and self._status() in ("failed", "needs-recovery"):
            reasons.append(f"the destination's QEMU said: {complaint}")
        told = ["; ".join(reason for reason in reasons + problems if reason)]
        if recorder.verdict is not None and self._status() in ("abandoned", "cancelled"):
            told += _explained(recorder, cost)
        return "\n".join(line for line in told if line)


def _explained(recorder: Recorder, cost: CostMeter) -> tuple[str, ...]:
    """Why it went as it did. Whatever is wrong with that, the move itself has to be settled."""
    try:
        return explain(recorder.trace, cost.migration_cpu_seconds()).reasons
    except Exception as error:
        return (f"why it went so cannot be told, by a bug: {type(error).__name__}: {error}",)


def _rounded(record: PassRecord) -> PassRecord:
    return replace(
        record, start_ms=round(record.start_ms, 3), duration_ms=round(record.duration_ms, 3)
    )
