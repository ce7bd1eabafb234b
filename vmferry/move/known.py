"""What is known of a move before it begins, for its forecasts: from the journal, as it is now."""

from __future__ import annotations

from vmferry.errors import UsageError
from vmferry.journal import Journal, JournalError
from vmferry.move.measured import case_of_vm
from vmferry.move.speeds import USUAL, way_to
from vmferry.policy.base import Limits
from vmferry.precopy.case import Setting
from vmferry.precopy.foresight import Known
from vmferry.vm.address import Destination


def setting_of(limits: Limits) -> Setting:
    """How QEMU is set up for these limits."""
    return Setting(bandwidth=limits.bandwidth, downtime_limit_ms=limits.downtime_limit_ms)


def known_of(journal: Journal, vm: str, to: Destination, setting: Setting) -> Known:
    """What earlier runs, rehearsals and probes tell; `vm` is the journal's name of it.

    A journal that cannot be read tells nothing: a move does not hang on it.
    """
    try:
        measured = case_of_vm(journal, vm, to, setting)
        case = measured.case
        return Known(case.link, case.host, case.profile, measured.source)
    except JournalError:
        return Known()
    except UsageError:
        pass  # nothing was measured of this VM
    try:
        way = way_to(journal, vm, to)
    except JournalError:
        return Known()
    return Known(way.link if way.source != USUAL else None, way.host)
