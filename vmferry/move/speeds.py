"""What is known of the way to a destination, from earlier moves there, rehearsals and probes.

Earlier moves tell most, since the network and QEMU at both ends were in them. A rehearsal is QEMU's
own sender without the network, a probe the network without QEMU: together they bound the speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmferry.errors import UsageError
from vmferry.journal import Journal, Run
from vmferry.journal.probes import newest_probe
from vmferry.move.derived import REHEARSAL, derived_of
from vmferry.move.parties import Parties
from vmferry.precopy.case import Host, Link
from vmferry.precopy.speeds import SENDER, UNKNOWN, Seen, behind_limit, burst_of, slower
from vmferry.vm.address import Destination, Local, Tcp, parse_destination

_NEWEST_RUNS = 16
# The source of a way of which nothing is known.
USUAL = "what is usual"


@dataclass(frozen=True, slots=True)
class Way:
    """The way to a destination; `source` says in words where its figures are from.

    `reached` is the speed that something was seen to go there at, in bytes per second; 0 for none.
    """

    link: Link
    host: Host
    source: str
    reached: float = 0.0


def way_to(journal: Journal, vm: str, destination: Destination) -> Way:
    """All that is known of the way from here to `destination`, else what is usual.

    `vm` is the journal's name of a VM. Raises JournalError.
    """
    place = place_of(destination)
    runs = journal.runs()
    moves = [run for run in runs if _place_of_run(run) == place]
    # Another VM's moves tell of the same network, and of a QEMU that may be busier.
    for chosen, whose in (([run for run in moves if run.vm == vm], "its"), (moves, "other VMs'")):
        seen = _seen(journal, chosen)
        if (link := seen.link) is not None:
            return Way(link, seen.host, f"{whose} earlier moves to {place}", seen.reached)
    rehearsed = _seen(journal, [run for run in runs if run.policy == REHEARSAL and run.vm == vm])
    return _without_moves(place, rehearsed)


def place_of(destination: Destination) -> str:
    """What a destination is called here, whichever port is used there."""
    match destination:
        case Local():
            return "local"
        case Tcp(host):
            return f"tcp:{host}"
    return destination.uri


def _without_moves(place: str, rehearsed: Seen) -> Way:
    """From a probe and rehearsals, as far as there are any: the slower of network and sender."""
    probe = newest_probe(place)
    sender = rehearsed.link
    sources = []
    speed = SENDER if sender is None else sender.speed
    if probe is not None:
        speed = slower(speed, behind_limit(probe.speed) if probe.limited else probe.speed)
        sources.append(f"a probe of the way to {place}")
    elif place != "local":
        speed = slower(speed, UNKNOWN)
    if sender is not None:
        sources.append("its rehearsals")
    link = Link(speed, burst_of(speed))
    # A rehearsal stays on this machine: it tells nothing of what a network carries.
    seen = [rehearsed.reached] if rehearsed.reached else []
    if probe is not None:
        seen.append(probe.speed.p50)
    told = probe is not None or place == "local"
    reached = min(seen, default=0.0) if told else 0.0
    return Way(link, rehearsed.host, " and ".join(sources) or USUAL, reached)


def _place_of_run(run: Run) -> str | None:
    """Where a run went, in the words of `place_of`; None for one that went nowhere."""
    try:
        parties = Parties.from_json(run.parties)
        if parties.destination.instance is not None:
            return "local"
        return place_of(parse_destination(parties.uri))
    except (UsageError, LookupError, TypeError):
        return None


def _seen(journal: Journal, runs: Sequence[Run]) -> Seen:
    found = Seen()
    for run in runs[-_NEWEST_RUNS:]:
        found += derived_of(journal, run).seen
    return found
