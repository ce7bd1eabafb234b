"""What several checks do: take a fact that may not have been read, compare a value of two sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from vmferry.preflight.facts import Facts, Host, Qemu, Scalar, UntoldError
from vmferry.preflight.finding import Answer, Evidence, blocker, fine
from vmferry.units import format_size

T = TypeVar("T")

_MANY = 6


def told(value: T | None, qemu: Qemu, fact: str) -> T:
    """`value`, where QEMU told it. Raises UntoldError."""
    if value is None:
        raise UntoldError(qemu.unread.get(fact, "QEMU does not tell it"))
    return value


def this_host(facts: Facts) -> Host:
    """This host, where it is the destination's. Raises UntoldError."""
    if facts.local and facts.host is not None:
        return facts.host
    facts.pair()
    if not facts.same_host or facts.host is None:
        raise UntoldError("the destination's host cannot be seen from here")
    return facts.host


def equal(where: str, what: str, values: tuple[Scalar, Scalar], *, remedy: str) -> Answer:
    """OK where source and destination agree, else a blocker. `what` says what the values are."""
    source, destination = values
    evidence = Evidence(where, shown(source), shown(destination))
    if source == destination:
        return fine(f"{what}: {shown(source)}", evidence)
    return blocker(
        f"{what}: {shown(source)} at the source, {shown(destination)} at the destination",
        evidence,
        remedy=remedy,
    )


def shown(value: Scalar | None) -> str:
    """A value as QEMU's own options write it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if value != "" else "nothing"


def sizes(source: int, destination: int) -> tuple[str, str]:
    """Two sizes for people, exact where they would look alike."""
    texts = format_size(source), format_size(destination)
    if source != destination and texts[0] == texts[1]:
        return f"{source} bytes", f"{destination} bytes"
    return texts


def names(found: list[str]) -> str:
    """The first few of many."""
    left = len(found) - _MANY
    return ", ".join(found[:_MANY]) + (f" and {left} more" if left > 0 else "")


def differing(
    source: Mapping[str, Scalar], destination: Mapping[str, Scalar], ignored: frozenset[str]
) -> list[str]:
    """Names of values that both sides have and that differ."""
    common = source.keys() & destination.keys() - ignored
    return sorted(name for name in common if source[name] != destination[name])
