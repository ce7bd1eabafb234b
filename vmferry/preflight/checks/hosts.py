"""Conditions on the two hosts: what the destination's offers a guest less than the source's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vmferry.fastpath.finding import Feature, Level, worst_of
from vmferry.fastpath.finding import Finding as Audited
from vmferry.fastpath.finding import Verdict as Told
from vmferry.fastpath.verdicts import NAME_A_VM
from vmferry.preflight.facts import Audits, Facts, Qemu, UntoldError
from vmferry.preflight.finding import Answer, Evidence, Verdict, check, fine, warning

# A host that has none of it is no better than one on which it does not work.
_LEAST = 2
_RANKS = {Told.OK: 0, Told.BETTER: 1, Told.MISCONFIGURED: _LEAST, Told.UNUSED: _LEAST}
_NOT_TOLD = "not told"

Key = tuple[Feature, str]


@dataclass(frozen=True, slots=True)
class _Compared:
    """What the audits of both hosts say of one check; None where one says nothing of it. `worse`
    is whether the destination's is, or None where that cannot be told."""

    feature: Feature
    check: str
    here: Audited | None
    there: Audited | None
    worse: bool | None

    def evidence(self) -> list[Evidence]:
        """All that either host's audit has read for it."""
        source, destination = (
            {one.where: one.value for one in side.evidence} if side is not None else {}
            for side in (self.here, self.there)
        )
        return [
            Evidence(where, source.get(where, _NOT_TOLD), destination.get(where, _NOT_TOLD))
            for where in dict.fromkeys((*source, *destination))
        ]

    def unknown(self) -> str:
        """What cannot be told, of which side and why."""
        ours = self.there is not None and self.there.verdict is not Told.UNTOLD
        side, finding = ("this", self.here) if ours else ("the destination's", self.there)
        why = finding.what if finding is not None else f"its audit does not answer {self.check}"
        return f"{self.feature.value} of {side} host ({why})"


@check(
    "host-fast-paths",
    "a guest keeps the fast paths that it found at boot, and runs slower on a host that does not "
    "serve them",
)
def host_fast_paths(facts: Facts) -> Answer:
    if facts.local or facts.same_host:
        return fine("both sides are on one host")
    if facts.audits is None:
        raise UntoldError(_not_audited(facts))
    compared = _compare(facts.audits, _without_use(facts.source))
    worse = [one for one in compared if one.worse]
    unknown = "; ".join(one.unknown() for one in compared if one.worse is None)
    if worse:
        lost = ", ".join(f"{one.feature.value} ({one.there.what})" for one in worse if one.there)
        what = f"the destination's host offers less than this one: {lost}"
        what += f"; cannot be told: {unknown}" if unknown else ""
        return warning(what, *_all(worse), remedy=_remedy(worse))
    if unknown:
        return Answer(Verdict.UNTOLD, unknown, _all(compared))
    features = ", ".join(dict.fromkeys(one.feature.value for one in compared))
    return fine(f"the destination's host offers no less than this one: {features}", *_all(compared))


def _all(compared: Iterable[_Compared]) -> tuple[Evidence, ...]:
    return tuple(evidence for one in compared for evidence in one.evidence())


def _not_audited(facts: Facts) -> str:
    host = "HOST"
    if facts.to.startswith("tcp:") and facts.same_host is False:
        host = facts.to.removeprefix("tcp:").rpartition(":")[0].strip("[]")
    do = f"`ssh {host} vmferry audit --host --json > FILE`, and add --to-audit FILE"
    if facts.same_host is False:
        return f"the destination's host was not audited: {do}"
    return f"whether the destination is on this host is not to be seen; where it is not: {do}"


def _without_use(source: Qemu) -> frozenset[Feature]:
    """Fast paths that this VM cannot use on any host: large pages are those of an IOMMU."""
    if source.devices is None or any(one.type.startswith("vfio-") for one in source.devices):
        return frozenset()
    return frozenset({Feature.LARGE_PAGES})


def _compare(audits: Audits, left_out: frozenset[Feature]) -> list[_Compared]:
    ours, theirs = _offered(audits.source, left_out), _offered(audits.destination, left_out)
    blind = {feature for (feature, _), one in ours.items() if one.verdict is Told.UNTOLD}
    found = []
    for key in dict.fromkeys((*ours, *theirs)):
        here, there = ours.get(key), theirs.get(key)
        found.append(_Compared(*key, here, there, _is_worse(here, there, key[0] in blind)))
    return found


def _offered(findings: Iterable[Audited], left_out: frozenset[Feature]) -> Mapping[Key, Audited]:
    """By check the worst that a host's audit says. Its devices (IOMMUs) are not told apart: their
    names mean nothing on another host."""
    groups: dict[Key, list[Audited]] = {}
    for one in findings:
        of_the_host = one.level is Level.OFFERED and one.change != NAME_A_VM
        if of_the_host and one.feature not in left_out:
            groups.setdefault((one.feature, one.check), []).append(one)
    return {key: worst for key, group in groups.items() if (worst := worst_of(group)) is not None}


def _is_worse(here: Audited | None, there: Audited | None, blind: bool) -> bool | None:
    """`blind`: the source's audit could not tell all of the feature."""
    if here is None:
        # Some checks speak up only where something is wrong.
        wrong = there is not None and there.verdict in (Told.BETTER, Told.MISCONFIGURED)
        return None if wrong and blind else wrong
    ours = _RANKS.get(here.verdict)
    theirs = _RANKS.get(there.verdict) if there is not None else None
    if ours is None:
        return False if theirs == 0 else None
    if theirs is None:
        return None if ours < _LEAST else False
    return theirs > ours


def _remedy(worse: list[_Compared]) -> str:
    steps = []
    for one in worse:
        change = one.there.change if one.there is not None else ""
        steps.append(f"{one.feature.value}: {change or 'choose another host, or do without it'}")
    return "on the destination's host: " + "; ".join(steps)


CHECKS = (host_fast_paths,)
