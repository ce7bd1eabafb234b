"""Where the time of a migration that completed went, and how near it was to not converging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from vmferry.precopy.case import Case, Link
from vmferry.precopy.evidence import Evidence
from vmferry.precopy.forecast import p_converge
from vmferry.precopy.outcome import PassRecord
from vmferry.precopy.passes import resent_bytes
from vmferry.precopy.quantiles import Quantiles
from vmferry.units import format_duration, format_rate, format_share, format_size

# How far down the edge is looked for, and how many steps there are.
_LEAST, _STEPS = 0.1, 64
# Even odds: the edge itself.
_EDGE = 0.5
_NEAR = 0.8
_HARDLY = 0.1


def describe_completed(evidence: Evidence) -> tuple[tuple[str, ...], list[str]]:
    """What happened in a sentence, and where the time went."""
    last, passes = evidence.last, [one for one in evidence.passes if not one.switchover]
    standing = f", and the VM stood still for {last.downtime_ms} ms" if last.downtime_ms else ""
    opening = (
        f"The migration completed in {format_duration(evidence.seconds)}:"
        f" {format_size(last.transferred)} sent in {len(passes)}"
        f" {'pass' if len(passes) == 1 else 'passes'}{standing}.",
    )
    if not passes:
        return opening, []
    lines = [_first_pass(evidence, passes[0])]
    if len(passes) > 1:
        lines.append(_later_passes(evidence, passes[1:]))
    lines += post_copy_words(evidence)
    lines += _switchover(evidence)
    if evidence.most_throttle > 0:
        lines.append(_throttle(evidence))
    if evidence.post_copy_at is not None:
        lines += _without_post_copy(evidence)
    elif evidence.case is not None and not evidence.hovers:
        lines += _edge(evidence, evidence.case)
    return opening, lines


def post_copy_words(evidence: Evidence) -> list[str]:
    """That the passes were ended by decree, and when."""
    at = evidence.post_copy_at
    if at is None:
        return []
    return [
        f"Post-copy ended the passes at about second {at:.1f}: from then on the VM ran at the"
        " destination, which fetched what had not come yet."
    ]


def _without_post_copy(evidence: Evidence) -> list[str]:
    """Whether the passes would have ended by themselves."""
    if evidence.case is None or evidence.hovers:
        return []
    odds = p_converge([evidence.case])[0]
    if odds <= 1 - _NEAR:
        return ["Without post-copy it would not have converged: that is what made it end."]
    if odds >= _NEAR:
        return ["By its passes it would have converged without post-copy, later."]
    return ["Whether it would have converged without post-copy is uncertain."]


def _share(seconds: float, evidence: Evidence) -> str:
    return format_share(seconds / evidence.seconds if evidence.seconds > 0 else 1.0)


def _first_pass(evidence: Evidence, first: PassRecord) -> str:
    seconds = first.duration_ms / 1000
    text = (
        f"Pass 1 took {format_duration(seconds)} ({_share(seconds, evidence)} of the time): all"
        f" memory once, {format_size(first.sent_bytes)}"
    )
    speed = evidence.usual_speed
    if speed > 0:
        text += f" at about {format_rate(speed)}"
    if not first.zero_pages:
        return f"{text}, no zero pages."
    zero = f"{first.zero_pages:,} zero pages ({format_share(_zero_share(first))} of it)"
    if speed <= 0:
        return f"{text}, and {zero}."
    held_up = max(seconds - first.sent_bytes / speed, 0.0)
    if held_up < 0.02 * seconds:
        return f"{text}; {zero} took next to no time."
    return f"{text}; {zero} took about {format_duration(held_up)} of that."


def _zero_share(first: PassRecord) -> float:
    return first.zero_pages / max(first.sent_pages, 1)


def _later_passes(evidence: Evidence, passes: list[PassRecord]) -> str:
    seconds = sum(one.duration_ms for one in passes) / 1000
    sent = sum(one.sent_bytes for one in passes)
    again = min(resent_bytes(evidence.passes), sent)
    total = max(evidence.last.transferred, 1)
    name = f"Passes 2 to {passes[-1].n}" if len(passes) > 1 else "Pass 2"
    took = f"{name} took {format_duration(seconds)} ({_share(seconds, evidence)})"
    if not sent:
        return f"{took}: next to nothing was left."
    if again < _HARDLY * sent:
        return f"{took}: {format_size(sent)}, most of it what pass 1 had left over."
    return (
        f"{took}: {format_size(sent)}, of which {format_size(again)} was memory sent again, as the"
        f" guest had written to it meanwhile ({format_share(again / total)} of all that was sent)."
    )


def _switchover(evidence: Evidence) -> list[str]:
    last = evidence.last
    if last.downtime_ms is None:
        return []
    seconds = last.downtime_ms / 1000
    text = f"The switchover took {format_duration(seconds)} ({_share(seconds, evidence)})"
    if last.downtime_bytes:
        text += f": {format_size(last.downtime_bytes)} went while the VM stood still"
        if seconds > 0:
            text += f", at {format_rate(last.downtime_bytes / seconds)} or more"
        text += ", as no bandwidth cap holds there"
    case = evidence.case
    if case is None:
        return [f"{text}."]
    limit = case.setting.downtime_limit_ms
    than = "within" if last.downtime_ms <= limit else "beyond"
    return [f"{text}. That is {than} the limit of {limit} ms."]


def _throttle(evidence: Evidence) -> str:
    begun = next(one for one in evidence.samples if one.throttle > 0)
    most, case = evidence.most_throttle, evidence.case
    text = (
        f"The guest was throttled from second {begun.t:.0f} on, by {begun.throttle} % at first and"
        f" {most} % at the most"
    )
    if case is None:
        return f"{text}."
    free = replace(case.setting, throttle=0.0, auto_converge=False)
    odds = p_converge([replace(case, standing=None, setting=free)])[0]
    if odds <= 1 - _NEAR:
        return f"{text}. Without that it would not have converged: that is what made it end."
    if odds >= _NEAR:
        return f"{text}. By its passes it would have converged without that, later."
    return f"{text}. Whether it would have converged without that is uncertain."


def _edge(evidence: Evidence, case: Case) -> list[str]:
    """How much less speed, or limit, would still have been enough."""
    decisive = next((one for one in reversed(evidence.passes) if not one.switchover), None)
    threshold = case.threshold
    lines = []
    if decisive is not None and 0 < decisive.dirty_bytes <= threshold:
        lines.append(
            f"It ended when {format_size(decisive.dirty_bytes)} were left, of the"
            f" {format_size(threshold)} that the limit allows at that speed."
        )
    # The throttle that it ended with stays.
    case = replace(case, setting=replace(case.setting, auto_converge=False))
    speed, limit = case.speed, case.setting.downtime_limit_ms
    factors = np.geomspace(_LEAST, 1.0, _STEPS)
    by_speed = _lowest(factors, [_slower(case, speed * one) for one in factors.tolist()])
    by_limit = _lowest(factors, [_shorter(case, limit * one) for one in factors.tolist()])
    if by_speed is None or by_limit is None:
        lines.append(
            "It was at the very edge: by its passes it might as well not have converged, and did so"
            " as what is left wanders from pass to pass."
        )
        return lines
    near = "It was near the edge" if max(by_speed, by_limit) > _NEAR else "It was not near the edge"
    lines.append(
        f"{near}: by its passes it would have converged down to about"
        f" {_at_most(speed * by_speed, by_speed, format_rate)}, or with a downtime limit down to"
        f" about {_at_most(limit * by_limit / 1000, by_limit, format_duration)}."
    )
    return lines


def _at_most(value: float, factor: float, words: Callable[[float], str]) -> str:
    less = " or less" if factor <= _LEAST * 1.01 else f" ({format_share(1 - factor)} less)"
    return f"{words(value)}{less}"


def _lowest(factors: np.ndarray[Any, Any], cases: list[Case]) -> float | None:
    """The lowest factor from which all up to 1 converge."""
    enough = p_converge(cases) >= _EDGE
    if not enough[-1]:
        return None
    failing = np.flatnonzero(~enough)
    return float(factors[failing[-1] + 1]) if len(failing) else float(factors[0])


def _slower(case: Case, speed: float) -> Case:
    fast = Link(Quantiles.exact(2 * speed), case.link.burst)
    setting = replace(case.setting, bandwidth=max(round(speed), 1))
    return replace(case, standing=None, setting=setting, link=fast)


def _shorter(case: Case, limit_ms: float) -> Case:
    setting = replace(case.setting, downtime_limit_ms=max(round(limit_ms), 1))
    return replace(case, standing=None, setting=setting)
