"""What a forecast was given, for programs, and what decides it, in a sentence with numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

from vmferry.precopy.case import Case
from vmferry.units import format_duration, format_rate, format_size


def given(case: Case, profiles: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Every input of a case. `profiles` keeps those that several cases share."""
    profile = profiles.setdefault(id(case.profile), {})
    if not profile:
        profile.update(case.profile.to_json())
    setting, link, host, standing = case.setting, case.link, case.host, case.standing
    return {
        "bandwidth": setting.bandwidth,
        "downtime_limit_ms": setting.downtime_limit_ms,
        "throttle": setting.throttle,
        "compress": setting.compress,
        "xbzrle": setting.xbzrle,
        "post_copy": setting.post_copy,
        "auto_converge": setting.auto_converge,
        "speed": link.speed.to_json(),
        "burst": link.burst.to_json(),
        "setup_seconds": host.setup_seconds,
        "zero_pages_per_second": host.zero_pages_per_second,
        "sync_seconds": host.sync_seconds,
        "sync_seconds_per_page": host.sync_seconds_per_page,
        "fixed_downtime_seconds": host.fixed_downtime_seconds.to_json(),
        "standing": dataclasses.asdict(standing) if standing is not None else None,
        "curve": profile,
    }


def of_phases(case: Case, never: bool) -> str:
    """What is known of busy and quiet phases, in a sentence; empty where it does not matter."""
    phases, watched = case.profile.phases, case.profile.watched
    if phases is not None:
        busy, quiet = (
            f"{format_duration(one.p50)} ({format_duration(one.p10)} to {format_duration(one.p90)})"
            for one in (phases.busy, phases.quiet)
        )
        return (
            f" The load comes and goes: it is busy for about {busy}, then quiet for about {quiet};"
            " where in that a move begins is not known."
        )
    if never and watched > 0:
        return (
            f" The load was as busy for all of the {format_duration(watched)} that were watched"
            " after pass 1; in a quiet phase, were there any, it could converge."
        )
    return ""


def why(case: Case, seconds: float, dirtied: float, sent: float, speed: float) -> str:
    """What decides: `dirtied` and `sent` are bytes in the shortest pass, which takes `seconds`."""
    setting = case.setting
    if setting.post_copy:
        return "Post-copy ends the passes after the first one, whatever the guest dirties."
    allowed = speed * setting.downtime_limit_ms / 1000
    limit = (
        f"A downtime limit of {format_duration(setting.downtime_limit_ms / 1000)} at"
        f" {format_rate(speed)} allows {format_size(allowed)} to be left."
    )
    pace = (
        f"In the {format_duration(seconds)} that the shortest pass takes, the guest dirties"
        f" {format_size(dirtied)} that it had not left dirty before, and {format_size(sent)} of"
        " memory can be sent."
    )
    if setting.auto_converge and dirtied > sent:
        return f"{limit} {pace} QEMU's auto-converge slows the guest until that is enough."
    return f"{limit} {pace}"
