"""Why a migration does not converge: the causes, each with its evidence, told apart where possible.

Passes settle above the threshold, which is speed x downtime limit, as the guest rewrites too much
in the time that a pass takes. So what holds the speed down, what the limit leaves no room for and
what the guest rewrites are the causes; a cause that the recording cannot tell is said to be so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal

from vmferry.precopy.case import Case
from vmferry.precopy.evidence import Dip, Evidence, Hover
from vmferry.precopy.forecast import Remedy
from vmferry.units import MIB, format_duration, format_rate, format_size

CauseName = Literal[
    "bandwidth-cap",
    "sender-cpu",
    "slow-destination",
    "slow-path",
    "throttle-at-end",
    "fixed-downtime",
    "network-dip",
    "working-set",
]
# A speed this near to the cap is held by it.
AT_THE_CAP = 0.93
# A migration thread that runs for this share of the time has no more to give; below the other
# share it waited for something else.
_BUSY, _WAITING = 0.85, 0.7
# QEMU's max-bandwidth where nobody sets it (migration/options.c), in bytes per second.
_QEMU_CAP = 128 * MIB
# What a full Ethernet link carries of its nominal bits.
_LINE_RATES = (0.1e9, 1e9, 2.5e9, 10e9, 25e9, 40e9, 100e9)
_LINE_LEAST, _LINE_MOST = 0.92, 0.995
_ABOUT = 0.02


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause. `share` is the part of the speed-up that it would take, which this one withholds.

    1 is all of it: without this cause alone the migration would converge. None is "cannot be told".
    Each of `evidence` is a sentence with the numbers.
    """

    name: CauseName
    share: float | None
    evidence: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """`{"name", "share", "evidence"}`."""
        return {"name": self.name, "share": self.share, "evidence": list(self.evidence)}


def causes_of(
    evidence: Evidence,
    case: Case,
    remedies: Sequence[Remedy],
    busy: float | None,
    burst: float | None = None,
) -> list[Cause]:
    """The causes, the one that the others are measured by, what the guest rewrites, last.

    `busy` is the share of the time in which the migration threads ran; None where nobody measured
    it. `remedies` are the smallest changes that converge; `burst` is what the link carried at least
    where no cap held it, None where that was not seen.
    """
    needed = _needed_speed(case, remedies)
    causes = [speed_cause(evidence, case, needed, busy, burst)]
    throttle = _throttle_at_end(evidence, case)
    if throttle is not None:
        causes.append(throttle)
    causes += _dips(evidence, case, needed)
    fixed = fixed_downtime(evidence, case)
    if fixed is not None:
        causes.append(fixed)
    known = [cause.share for cause in causes if cause.share]
    rest = round(max(1 - sum(known), 0.0), 2) if known else None
    causes.append(_working_set(evidence, case, rest))
    return causes


def speed_cause(
    evidence: Evidence,
    case: Case,
    needed: float | None,
    busy: float | None,
    burst: float | None,
) -> Cause:
    """What held the speed where it was; `needed` is the speed that would have converged."""
    speed = evidence.usual_speed or case.speed
    cap = case.setting.bandwidth
    if cap and speed >= AT_THE_CAP * cap:
        share = None
        if burst is not None and needed is not None and needed > speed:
            share = round(min(max(log(burst / speed) / log(needed / speed), 0.0), 1.0), 2)
        return Cause("bandwidth-cap", share, (_cap(evidence, cap), _behind(burst)))
    under = f"below the cap of {format_rate(cap)}" if cap else "with no cap in the way"
    went = f"The passes went at {format_rate(speed)}, {under}"
    if busy is None:
        return Cause("slow-path", None, (f"{went}.", *_cannot_be_told(speed)))
    ran = f"{went}, and the migration threads of the source ran for {100 * busy:.0f} % of the time"
    if busy >= _BUSY:
        hint = "That is all that one thread can do: a faster link would not help, multifd may."
        return Cause("sender-cpu", None, (f"{ran}.", hint))
    if busy < _WAITING:
        hint = (
            "So the sender waited: for the link or for the destination. The source cannot tell"
            " these apart; look at the network card's load and at the CPU of the destination's QEMU"
            " while it runs."
        )
        return Cause("slow-destination", None, (f"{ran}.", hint))
    return Cause("slow-path", None, (f"{ran}.", *_cannot_be_told(speed)))


def fixed_downtime(evidence: Evidence, case: Case) -> Cause | None:
    """Where the part of the downtime that is no memory is longer than the whole limit."""
    last = evidence.last
    limit = case.setting.downtime_limit_ms
    if last.status != "completed":
        return _fixed_by_others(case, limit)
    if last.downtime_ms is None or last.downtime_ms <= limit:
        return None
    # The switchover is never slower than the passes, so this much at the least is no memory.
    fixed = last.downtime_ms - 1000 * last.downtime_bytes / case.speed
    if fixed <= limit:
        return None
    return Cause(
        "fixed-downtime",
        None,
        (
            f"The VM stood still for {last.downtime_ms} ms, of which sending"
            f" {format_size(last.downtime_bytes)} took {last.downtime_ms - fixed:.0f} ms at most:"
            f" the rest, at least {fixed:.0f} ms, is stopping, device state and starting, and alone"
            f" is longer than the limit of {limit} ms.",
        ),
    )


def _fixed_by_others(case: Case, limit_ms: int) -> Cause | None:
    """The same of one that has not switched over: by what switchovers take elsewhere."""
    usual = case.host.fixed_downtime_seconds
    if 1000 * usual.p10 < limit_ms:
        return None
    text = (
        f"The limit of {limit_ms} ms is shorter than what a switchover takes besides memory, for"
        f" stopping, device state and starting: {1000 * usual.p10:.0f} to {1000 * usual.p90:.0f} ms"
        " where it was measured. QEMU does not count that: more must not be left than could be sent"
        " in the limit, and the VM would stand still for longer than it all the same."
    )
    return Cause("fixed-downtime", None, (text,))


def _needed_speed(case: Case, remedies: Sequence[Remedy]) -> float | None:
    for remedy in remedies:
        if remedy.change == "bandwidth" and isinstance(remedy.after, float | int):
            return float(remedy.after) if remedy.after > case.speed else None
    return None


def _cap(evidence: Evidence, cap: float) -> str:
    if evidence.cap_told:
        return (
            f"The passes went at {format_rate(evidence.usual_speed)}: max-bandwidth, which is"
            f" {format_rate(cap)}, held them there."
        )
    text = (
        f"The speed hardly moved from {format_rate(evidence.usual_speed)}, as under a bandwidth"
        " cap; the recording does not say whether there was one."
    )
    if abs(cap - _QEMU_CAP) < _ABOUT * _QEMU_CAP:
        return f"{text} It is what QEMU sets by itself: max-bandwidth is 128 MiB/s unless changed."
    for rate in _LINE_RATES:
        if _LINE_LEAST * rate <= 8 * cap <= _LINE_MOST * rate:
            return f"{text} It is also what a full link of {rate / 1e9:g} Gbit/s carries."
    return text


def _behind(burst: float | None) -> str:
    if burst is None:
        return "What the link would carry without it was not recorded."
    return (
        f"Without it the same link carried at least {format_rate(burst)} in the switchover, which"
        " no cap holds."
    )


def _cannot_be_told(speed: float) -> tuple[str, ...]:
    return (
        "Whether the sender's CPU, the link or the destination held it there cannot be told from"
        " this recording. While such a migration runs, look at the thread live_migration of the"
        " source's QEMU (`top -H`): near 100 % it is the sender. Otherwise look at the QEMU of the"
        " destination: near 100 % of a core it is that, and else the network, which carries"
        f" {speed * 8 / 1e9:.2f} Gbit/s then.",
    )


def _throttle_at_end(evidence: Evidence, case: Case) -> Cause | None:
    throttle = evidence.last.throttle
    if throttle <= 0 or throttle < evidence.max_throttle:
        return None
    return Cause(
        "throttle-at-end",
        None,
        (
            f"The throttle stands at {throttle} % of the guest's time, the most that"
            " max-cpu-throttle allows, and still the passes do not get below the threshold.",
        ),
    )


def _dips(evidence: Evidence, case: Case, needed: float | None) -> list[Cause]:
    dips = evidence.dips()
    if not dips:
        return []
    usual, share = evidence.usual_speed, 0.0
    lasting = next((dip for dip in dips if dip.lasts), None)
    if lasting is not None and lasting.least > 0:
        # The speed that the dip takes away, as part of what is needed on top of what is left.
        goal = max(needed or usual, usual)
        share = log(usual / lasting.least) / log(goal / lasting.least)
    texts = [describe_dip(dip, usual) for dip in dips[:3]]
    if len(dips) > 3:
        texts.append(f"There were {len(dips) - 3} more.")
    if lasting is None:
        texts.append("It was over before the end, so it is not what keeps the passes from ending.")
    return [Cause("network-dip", round(min(share, 1.0), 2), tuple(texts))]


def describe_dip(dip: Dip, usual: float) -> str:
    """When, how deep and what it cost, in a sentence."""
    deep = "to nothing" if dip.least < 0.01 * usual else f"to {format_rate(dip.least)}"
    still = " and had not recovered at the end" if dip.lasts else ""
    return (
        f"From second {dip.start:.1f} to {dip.end:.1f} the speed fell from {format_rate(usual)}"
        f" {deep}{still}; that cost {format_duration(dip.lost)}, and while it lasted the threshold"
        " was as much lower."
    )


def _working_set(evidence: Evidence, case: Case, share: float | None) -> Cause:
    speed, limit = case.speed, case.setting.downtime_limit_ms / 1000
    allowed = speed * limit
    room = (
        f"A downtime limit of {format_duration(limit)} at {format_rate(speed)} allows"
        f" {format_size(allowed)} to be left"
    )
    working_set = case.profile.working_set
    whole = f"of the {format_size(working_set)} or more that it rewrites in the long run"
    hover = evidence.hover
    if hover is not None:
        return Cause(
            "working-set",
            share,
            (
                f"{room}, and the passes settle at {format_size(hover.dirty)},"
                f" {hover.dirty / allowed:.1f} times as much.",
                f"In a pass of {format_duration(hover.pass_seconds)} the guest rewrites"
                f" {format_size(hover.new)}, {whole}.",
            ),
        )
    return Cause("working-set", share, (f"{room}.", _latest_passes(evidence, whole)))


def _latest_passes(evidence: Evidence, whole: str) -> str:
    """What the latest sync found, while the passes still get shorter."""
    *before, latest = evidence.passes
    if not before:
        return f"The latest pass began with {format_size(latest.dirty_bytes)}."
    seconds = before[-1].duration_ms / 1000
    return (
        f"The latest pass began with {format_size(latest.dirty_bytes)}: in the"
        f" {format_duration(seconds)} of the pass before, the guest had rewritten"
        f" {format_size(latest.new_bytes)}, {whole}."
    )


def hovering_words(hover: Hover) -> str:
    """How long it hovered and where, in a clause."""
    return (
        f"from second {hover.start:.0f} to {hover.end:.0f}, in {hover.last - hover.first + 1}"
        f" passes, what was left went up and down between {format_size(hover.least)} and"
        f" {format_size(hover.most)}"
    )
