"""`vmferry demo`: the whole story on this machine, with a real guest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vmferry.cli.options import check_writable
from vmferry.units import GIB, MIB, format_duration, format_rate, format_size

if TYPE_CHECKING:
    from vmferry.cli.migrate import Moved
    from vmferry.move.run import Request
    from vmferry.precopy.progress import Estimate

NAME = "vmferry-demo"
GUEST: dict[str, Any] = {
    "name": NAME,
    "cpu": {"count": 1},
    "memory": {"size": "1GiB"},
    "boot": {"kernel": "testguest"},
    "testguest": {
        "working_set": "192MiB",
        "write_rate": "16MiB/s",
        "content": "one-word",
        "hot_writes": 90,
        "hot_pages": 10,
    },
}
FAST, SLOW = 100 * MIB, 40 * MIB
BUSY = {"write_rate": "120MiB/s", "hot_writes": 0, "hot_pages": 0}
DEADLINE_SECONDS = 16.0
# A remedy is the smallest change; what is raised is raised by a little more.
MARGIN = 1.25


def demo(
    output: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the report goes (HTML).")
    ] = Path("vmferry-demo.html"),
) -> int:
    """Boot a guest under load, move it, show a move that cannot work and why, and prove it all."""
    from vmferry.cli.report import write_report
    from vmferry.hypervisor.qemu.lifecycle import start_vm, stop_vm
    from vmferry.vm.spec import VmSpec

    check_writable("--output", output)
    spec = VmSpec.model_validate(GUEST)
    _say(
        f"1. Boot a guest of {format_size(GIB)}: it writes {GUEST['testguest']['write_rate']} to "
        f"{GUEST['testguest']['working_set']}, 90 % of that to a tenth of the pages"
    )
    asyncio.run(start_vm(spec))
    try:
        _say(f"2. Move it to a second QEMU at {format_rate(FAST)}")
        easy = _move(FAST)
        _say("3. Make it busy: 120 MiB/s all over the same memory, at 40 MiB/s for the move")
        _agent().set(**BUSY)
        hard = _move(SLOW, deadline=DEADLINE_SECONDS)
        _say("4. The guest took no harm. Raise what must be raised, and move it")
        remedied = _move(_enough(hard.estimate))
        moves = [easy, hard, remedied]
        _say("5. The proof")
        for moved in moves:
            _say_proof(moved)
        print("   (a gap at the begin is QEMU marking all memory dirty; under TCG the guest waits)")
        path = write_report(str(hard.outcome["run"]), output)
        print(f"   the report of the move that could not work: {path}")
        print(f"   any other: vmferry report {easy.outcome['run']}")
    finally:
        asyncio.run(stop_vm(NAME, force=True))
    return 0 if _as_told(moves) else 1


def _move(bandwidth: int, deadline: float | None = None) -> Moved:
    from vmferry.cli.display import make_display
    from vmferry.cli.migrate import carry_out

    return carry_out(_request(bandwidth, deadline), make_display(as_json=False))


def _request(bandwidth: int, deadline: float | None) -> Request:
    from vmferry.move.run import Request
    from vmferry.policy.base import Limits

    limits = Limits(bandwidth=bandwidth, deadline=deadline)
    return Request(vm=NAME, to="local", limits=limits, verify=True)


def _enough(estimate: Estimate | None) -> int:
    """The bandwidth that would have done; four times the slow one where it could not be told."""
    remedies = estimate.remedies if estimate is not None else ()
    told = [remedy.after for remedy in remedies if remedy.change == "bandwidth"]
    return round(MARGIN * told[0]) if told else 4 * SLOW


def _agent() -> Any:
    from vmferry.hypervisor.qemu.lifecycle import current_instance
    from vmferry.testguest.agent import AgentClient
    from vmferry.vm.registry import lookup

    instance = current_instance(lookup(NAME))
    if instance is None:
        raise AssertionError("the demo's guest has no instance")
    return AgentClient(instance.files.agent_socket)


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


def _say_proof(moved: Moved) -> None:
    outcome, guest = moved.outcome, moved.outcome["guest"] or {}
    pages = guest.get("verified_pages") or 0
    lost = "none lost" if guest.get("verified") else "PAGES WERE LOST"
    print(
        f"   run {outcome['run']}: {outcome['status']} after "
        f"{format_duration(outcome['total_ms'] / 1000)}; longest gap "
        f"{format_duration(guest.get('gap_ms', 0) / 1000)}, "
        f"{format_duration(guest.get('gap_at_ms', 0) / 1000)} after its begin; "
        f"{pages} pages verified, {lost}"
    )


def _as_told(moves: list[Moved]) -> bool:
    """Whether the story went as it should: moved, abandoned, moved, and nothing lost."""
    statuses = [moved.outcome["status"] for moved in moves]
    intact = all((moved.outcome["guest"] or {}).get("verified") for moved in moves)
    return statuses == ["completed", "abandoned", "completed"] and intact
