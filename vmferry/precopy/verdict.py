"""The end of a run in words: what each pass did and what it cost. Why is explain.py's."""

from __future__ import annotations

from collections.abc import Sequence

from vmferry.precopy.outcome import CostRecord, GuestRecord, Outcome, PassRecord
from vmferry.units import format_duration, format_rate, format_size

# More passes than this are told in groups.
_MOST_LINES = 12
_SHOWN_FIRST, _SHOWN_LAST = 4, 4

_REHEARSAL = "rehearse"
_PLACES = {
    "source": "runs at the source",
    "destination": "runs at the destination",
    "nowhere": "runs nowhere",
    "unknown": "is at an unknown place",
}
_HAPPENED = {
    "completed": "moved",
    "abandoned": "did not move: the migration was abandoned",
    "cancelled": "did not move: the migration was cancelled",
    "refused": "did not move: the migration was refused",
    "failed": "did not move: the migration failed",
    "needs-recovery": "was left in the middle of a move",
}


def describe(outcome: Outcome) -> list[str]:
    """The lines of the verdict; why it did not converge is in the outcome's own reasons."""
    lines = [_headline(outcome)]
    if outcome.policy == _REHEARSAL and outcome.status == "cancelled":
        lines += _sentences("Answer", outcome.why.removeprefix("a rehearsal: "))
    else:
        lines += _sentences("Why", outcome.why)
    lines += describe_passes(outcome.passes)
    if outcome.bytes:
        lines.append(_sent(outcome))
    lines += _downtime(outcome.downtime_ms, outcome.guest)
    if outcome.cost is not None:
        lines += _cost(outcome.cost)
    return lines


def _sentences(title: str, text: str) -> list[str]:
    """The reasons of an outcome, each a sentence."""
    sentences = [line if line.endswith((".", ":")) else f"{line}." for line in text.splitlines()]
    return [f"{title}: {sentences[0]}", *sentences[1:]] if sentences else []


def describe_passes(passes: Sequence[PassRecord]) -> list[str]:
    """A line for each pass; the middle ones together where there are many."""
    if len(passes) <= _MOST_LINES:
        return [_pass_line(record) for record in passes]
    first, last = passes[:_SHOWN_FIRST], passes[-_SHOWN_LAST:]
    middle = passes[_SHOWN_FIRST:-_SHOWN_LAST]
    return [
        *(_pass_line(record) for record in first),
        _group_line(middle),
        *(_pass_line(record) for record in last),
    ]


def _headline(outcome: Outcome) -> str:
    happened = f"{outcome.vm} {_happened(outcome)}"
    took = f" after {format_duration(outcome.total_ms / 1000)}" if outcome.total_ms else ""
    if outcome.policy == _REHEARSAL and outcome.status == "cancelled":
        took = f" for {format_duration(outcome.total_ms / 1000)} and did not move"
    elif outcome.status == "completed":
        took = f" in {format_duration(outcome.total_ms / 1000)}"
    return f"{happened}{took}. The VM {_PLACES[outcome.vm_runs_at]}."


def _happened(outcome: Outcome) -> str:
    if outcome.policy != _REHEARSAL:
        return _HAPPENED[outcome.status]
    if outcome.status == "cancelled":
        return "was rehearsed"
    return "was rehearsed in vain" if outcome.status == "failed" else "was left in a rehearsal"


def _pass_line(record: PassRecord) -> str:
    name = "Switchover" if record.switchover else f"Pass {record.n}"
    text = (
        f"{name}: {_size(record, 'dirty_bytes')} dirty, {_size(record, 'sent_bytes')} sent"
        f" in {format_duration(record.duration_ms / 1000)}"
    )
    if record.switchover:
        return f"{text}, while the VM stood still."
    zero = f" with {record.zero_pages:,} zero pages" if record.n == 1 else ""
    return f"{text}{zero}, {_size(record, 'left_bytes')} left."


def _size(record: PassRecord, field: str) -> str:
    """The size, with `about` where it was inferred."""
    about = "about " if field in record.estimated else ""
    return f"{about}{format_size(getattr(record, field))}"


def _group_line(records: Sequence[PassRecord]) -> str:
    dirty = [record.dirty_bytes for record in records]
    seconds = sum(record.duration_ms for record in records) / 1000
    return (
        f"Passes {records[0].n} to {records[-1].n}: {format_size(min(dirty))} to"
        f" {format_size(max(dirty))} dirty,"
        f" {format_size(sum(record.sent_bytes for record in records))} sent"
        f" in {format_duration(seconds)}."
    )


def _sent(outcome: Outcome) -> str:
    text = f"Sent {format_size(outcome.bytes)}"
    if outcome.total_ms > 0:
        text += f" at {format_rate(outcome.bytes / (outcome.total_ms / 1000))} on average"
    return f"{text}; {format_size(outcome.resent_bytes)} of it was memory sent again."


def _downtime(downtime_ms: float | None, guest: GuestRecord | None) -> list[str]:
    lines = []
    if downtime_ms is not None:
        lines.append(f"QEMU reports a downtime of {format_duration(downtime_ms / 1000)}.")
    if guest is None:
        return lines
    gap = format_duration(guest.gap_ms / 1000)
    inside = format_duration(guest.guest_clock_gap_ms / 1000)
    missing = f"{guest.missing_beats:,} missing" if guest.missing_beats else "none missing"
    lines.append(
        f"The longest gap between heartbeats was {gap} by the host's clock and {inside} by the"
        f" guest's, {format_duration(max(guest.gap_at_ms, 0) / 1000)} after the begin"
        f" ({guest.beats:,} beats, {missing})."
    )
    if guest.verified and guest.verified_pages is not None:
        lines.append(f"Memory verified: {guest.verified_pages:,} pages, none lost.")
    elif guest.verified is False:
        lines.append(f"Memory is damaged: {guest.lost_pages or 0:,} pages lost, stale or torn.")
    return lines


def _cost(cost: CostRecord) -> list[str]:
    parts = []
    if cost.work_loss_percent is not None:
        # The guest may also have worked more, where its load changed.
        less = cost.work_loss_percent >= 0
        change = f"{abs(cost.work_loss_percent):.1f} % {'less' if less else 'more'}"
        parts.append(f"the guest did {change} work meanwhile than before")
    if cost.vcpu_run_delay_percent:
        worst = max(cost.vcpu_run_delay_percent.values())
        parts.append(f"its vCPUs waited for a core up to {worst:.1f} % of the time")
    if cost.migration_cpu_seconds is not None:
        where = f" on core {', '.join(map(str, cost.pinned_to))}" if cost.pinned_to else ""
        parts.append(
            f"the migration threads took {cost.migration_cpu_seconds:.1f} s of a core{where}"
        )
    if cost.vmferry_cpu_seconds is not None:
        parts.append(f"vmferry took {cost.vmferry_cpu_seconds:.1f} s of a core")
    if not parts:
        return ["What the move cost the guest cannot be told."]
    return [f"Cost: {'; '.join(parts)}."]
