"""Conditions on the QEMU that is to take the VM: that it is there, waits, and can be heard."""

from __future__ import annotations

from vmferry.preflight.facts import Facts, UntoldError
from vmferry.preflight.finding import Answer, Evidence, blocker, check, fine, warning


@check(
    "second-instance",
    "`--to local` needs a second QEMU like the first on this host: all that the first was started "
    "from, and room for both",
    forceable=False,
)
def second_instance(facts: Facts) -> Answer:
    if not facts.local:
        return fine("a QEMU waits for the VM; none has to be started")
    if not facts.start_problem:
        facts.pair()
        return fine("a second instance like it starts on this host")
    return blocker(
        f"no second instance can be started: {facts.start_problem}",
        Evidence("QEMU's standard error", facts.start_problem),
        remedy="mend what it says; for a VM that vmferry did not start: start a QEMU with the same "
        "arguments and -incoming, and name it with --to unix:PATH --to-qmp PATH",
    )


@check(
    "destination-waits",
    "only a QEMU that was started with -incoming takes a VM",
    forceable=False,
)
def destination_waits(facts: Facts) -> Answer:
    _, destination = facts.pair()
    evidence = Evidence("query-status", facts.source.runstate, destination.runstate)
    if destination.runstate == "inmigrate":
        return fine("the destination waits for a VM", evidence)
    return blocker(
        f"the destination does not wait for a VM: it is {destination.runstate}",
        evidence,
        remedy="start it with -incoming",
    )


@check(
    "destination-listens",
    "nobody at the address means that the migration fails at once, and somebody else that the VM "
    "does not come to the QEMU that was compared",
)
def destination_listens(facts: Facts) -> Answer:
    if facts.local:
        return fine("vmferry has the destination listen itself")
    if facts.listens is None:
        raise UntoldError(facts.listens_why)
    evidence = Evidence(facts.listens_why, "a listener" if facts.listens else "no listener")
    if facts.listens and facts.listens_itself is False:
        return warning(
            f"another process than the destination listens at {facts.to}",
            evidence,
            remedy="see that it passes the stream on to the QEMU that --to-qmp names",
        )
    if facts.listens:
        return fine(f"somebody listens at {facts.to}", evidence)
    return blocker(
        f"nobody listens at {facts.to}",
        evidence,
        remedy=f"start the destination with -incoming {facts.to}; one with -incoming defer listens "
        "after QMP migrate-incoming",
    )


CHECKS = (second_instance, destination_waits, destination_listens)
