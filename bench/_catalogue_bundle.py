"""Several cases in one guest: it takes longer to boot than to audit.

Only of different families (card, disks, the rest), so that none stands in another's way, and never
planted ones with right ones. Each planted one is looked for by itself; an alarm counts against each
right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench._catalogue_case import Case, Guest

_HOST = "host"


def bundles(cases: Sequence[Case]) -> list[tuple[Case, ...]]:
    """All cases, those that can go together in one tuple; the largest first."""
    found: list[list[Case]] = []
    for case in cases:
        place = next((one for one in found if all(_fit(case, other) for other in one)), None)
        if place is None:
            found.append([case])
        else:
            place.append(case)
    return [tuple(one) for one in sorted(found, key=len, reverse=True)]


def together(cases: Sequence[Case]) -> Case:
    """One set-up with the faults of all of them."""
    first, *others = cases
    made = first
    for other in others:
        assert made.guest is not None and other.guest is not None
        guest = Guest(
            smp=made.guest.smp,
            cpu=made.guest.cpu if made.guest.cpu != _HOST else other.guest.cpu,
            append=f"{made.guest.append} {other.guest.append}".strip(),
            qemu=(*made.guest.qemu, *other.guest.qemu),
        )
        made = replace(
            made,
            name=f"{made.name}; {other.name}",
            guest=guest,
            load=f"{made.load}+{other.load}",
            before=_both(made.before, other.before),
            outside=_both(made.outside, other.outside),
            inside=_both(made.inside, other.inside),
            after=_both(made.after, other.after),
        )
    return made


def _both(one: str, other: str) -> str:
    return "\n".join(filter(None, [one, other]))


def _family(case: Case) -> str:
    """Empty where it has to be alone."""
    if case.guest is None or case.deep or case.target != "vm" or "migration" in case.load:
        return ""
    words = " ".join(case.guest.qemu)
    # One vCPU less is a fault of everything that has queues, and TCG one of everything.
    if "nr_cpus" in case.guest.append or case.guest.accel != "kvm":
        return ""
    return "card" if "-netdev" in words else "disks" if "-blockdev" in words else "rest"


def _fit(one: Case, other: Case) -> bool:
    families = (_family(one), _family(other))
    if "" in families or families[0] == families[1] or one.right != other.right:
        return False
    assert one.guest is not None and other.guest is not None
    models = {one.guest.cpu, other.guest.cpu} - {_HOST}
    alike = (one.guest.smp, one.guest.memory, one.lab) == (
        other.guest.smp,
        other.guest.memory,
        other.lab,
    )
    return alike and len(models) <= 1 and not (one.guest.cpu == other.guest.cpu != _HOST)
