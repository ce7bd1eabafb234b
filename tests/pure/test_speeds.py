"""R and B from earlier moves: simulated ones, whose machine's speeds are known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace

import pytest

from vmferry.hypervisor.simulated import Guest, Machine, SimulatedMove
from vmferry.journal import Journal
from vmferry.journal.probes import Probe, keep_probe
from vmferry.move.parties import Parties, Party
from vmferry.move.recorder import action_json
from vmferry.move.speeds import USUAL, place_of, way_to
from vmferry.policy.base import SetBandwidth, SetDowntimeLimit, Silence
from vmferry.precopy.quantiles import Quantiles
from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.speeds import SENDER, UNKNOWN, Seen, Switchover, burst_of, look_at, quantiles
from vmferry.precopy.trace import Item, Note, header_line, to_line
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import GIB, MIB
from vmferry.vm.address import Local, Tcp, parse_destination

MACHINE = Machine(uncapped=300 * MIB, zero_pages_per_second=1e6)
BUSY = Guest(512 * MIB, 300 * MIB, PageWriterSettings(working_set=120 * MIB, write_rate=60 * MIB))
EMPTY = Guest(4 * GIB, 100 * MIB)


async def moved(
    guest: Guest = BUSY,
    machine: Machine = MACHINE,
    bandwidth: int = 0,
    limit: int = 300,
    seed: int = 0,
) -> list[Item]:
    """The recording of one simulated move."""
    move = SimulatedMove(guest, machine, seed=seed)
    items: list[Item] = []
    for action in (SetBandwidth(bandwidth), SetDowntimeLimit(limit)):
        await move.migration.perform(action)
        items.append(Note(0.0, "action", action_json(action), "ok"))
    await move.migration.start()
    while True:
        item = await move.migration.receive(600.0)
        assert not isinstance(item, Silence)
        items.append(item)
        if isinstance(item, Event) and item.data.get("status") == "pre-switchover":
            await move.source.proceed()
        if isinstance(item, Sample) and item.status == "completed" and item.downtime_ms:
            return items


def keep(
    journal: Journal, items: Iterable[Item], to: str, vm: str = "web", policy: str = "fixed"
) -> None:
    """Put a recording into the journal as a run to `to`; `local` is to an instance of ours."""
    party = Party(instance="/nowhere") if to == "local" else Party()
    uri = {"local": "unix:/nowhere/migration.sock", "": ""}.get(to, to)
    parties = Parties(vm=vm, uri=uri, source=Party(), destination=party)
    run = journal.begin(vm, policy, {}, parties.to_json())
    lines = [header_line({"vm": vm}), *(to_line(item) for item in items)]
    journal.append(run, [*lines, json.dumps({"t": 9.0, "unheard-of": {}})])


def holds(interval: Quantiles, truth: float, within: float = 1.0) -> bool:
    return interval.p10 / within <= truth <= interval.p90 * within


async def test_without_a_cap_both_speeds_are_seen() -> None:
    seen = Seen()
    for seed, limit in enumerate((40, 120, 300, 600)):
        seen += look_at(await moved(seed=seed, limit=limit))
    assert seen.capped == ()
    link = seen.link
    assert link is not None
    assert holds(link.speed, MACHINE.uncapped) and link.speed.p90 < 1.2 * MACHINE.uncapped
    assert holds(link.burst, MACHINE.uncapped, within=1.1)
    assert link.burst.p90 < 1.5 * MACHINE.uncapped


async def test_a_cap_that_was_reached_says_that_the_link_is_no_slower() -> None:
    seen = look_at(await moved(bandwidth=80 * MIB, limit=1500))
    assert seen.free == () and len(seen.capped) > 3
    link = seen.link
    assert link is not None
    assert link.speed.p10 == pytest.approx(80 * MIB, rel=0.15)
    assert holds(link.speed, MACHINE.uncapped)


async def test_what_else_a_trace_tells_does_not_matter() -> None:
    """Of the guest ten times a second, for one."""
    items = await moved(bandwidth=80 * MIB, limit=1500)
    beats = [Note(item.t, "guest", {"beats": 50}) for item in items]
    mixed = [one for pair in zip(items, beats, strict=True) for one in pair]
    assert look_at(mixed) == look_at(items)


def test_a_few_dips_below_a_cap_do_not_make_it_a_slow_link() -> None:
    """Windows at 80 % of a cap that the others reach: the cap held it; the link is no slower."""
    cap, total, t, transferred = 20 * MIB, GIB, 0.0, 0
    items: list[Item] = [Note(0.0, "parameters", {"max-bandwidth": cap})]
    for share in (1.0, 0.99, 0.8, 1.0, 1.01, 0.8, 0.98, 1.0, 0.8, 1.0):
        for _ in range(10):
            items.append(_sample_at(t, total, transferred))
            t += 0.1
            transferred += round(0.1 * share * cap)
    seen = look_at([*items, _sample_at(t, total, transferred)])
    assert seen.free == () and len(seen.capped) >= 9
    assert min(seen.capped) < 0.85 * cap, "the dips are in what was seen"
    link = seen.link
    assert link is not None
    assert link.speed.p10 >= 0.99 * cap and link.speed.p50 >= 1.5 * cap
    assert seen.reached == pytest.approx(cap, rel=0.05)


async def test_what_was_reached_is_what_the_fastest_of_several_moves_came_to() -> None:
    slow = look_at(await moved(bandwidth=40 * MIB, limit=3000))
    fast = look_at(await moved(bandwidth=80 * MIB, limit=1500))
    assert (slow + slow + slow + fast).reached == pytest.approx(80 * MIB, rel=0.1)
    assert (slow + look_at(await moved())).reached == pytest.approx(MACHINE.uncapped, rel=0.1)
    assert Seen().reached == 0


def test_a_cap_that_is_hardly_ever_reached_is_not_what_holds_the_speed() -> None:
    cap, t, transferred = 20 * MIB, 0.0, 0
    items: list[Item] = [Note(0.0, "parameters", {"max-bandwidth": cap})]
    for share in (0.8, 0.79, 0.9, 0.8, 0.81, 0.8, 0.78, 0.8):
        for _ in range(10):
            items.append(_sample_at(t, GIB, transferred))
            t += 0.1
            transferred += round(0.1 * share * cap)
    seen = look_at([*items, _sample_at(t, GIB, transferred)])
    assert seen.capped == () and seen.link is not None
    assert holds(seen.link.speed, 0.8 * cap) and seen.link.speed.p50 < 0.85 * cap


def _sample_at(t: float, total: int, transferred: int) -> Sample:
    """Of pass 1, ten times a second, without a page of zeros."""
    pages = transferred // 4096
    return Sample(
        t, "active", total=total, transferred=transferred, normal_pages=pages, sync_count=1
    )


async def test_a_cap_that_changes_on_the_way_is_followed() -> None:
    items = await moved(bandwidth=80 * MIB, limit=1500)
    action = {"kind": "bandwidth", "bytes_per_second": 500 * MIB}
    for result, capped in (("ok", False), ("refused", True)):
        seen = look_at([*items[:2], Note(0.0, "action", action, result), *items[2:]])
        assert bool(seen.capped) is capped
    parameters = Note(0.0, "parameters", {"max-bandwidth": 80 * MIB})
    assert look_at([parameters, *items[2:]]).capped


async def test_a_cap_above_the_link_is_no_cap() -> None:
    seen = look_at(await moved(bandwidth=900 * MIB, limit=40))
    assert seen.capped == () and seen.free
    assert seen.link is not None and holds(seen.link.speed, MACHINE.uncapped)


async def test_the_zero_pages_of_an_empty_guest_tell_nothing_but_their_own_speed() -> None:
    seen = look_at(await moved(EMPTY))
    assert all(speed > 0.8 * MACHINE.uncapped for speed in seen.free)
    host = seen.host
    assert host.zero_pages_per_second == pytest.approx(MACHINE.zero_pages_per_second, rel=0.1)


async def test_the_fixed_part_of_the_downtime_is_what_sending_does_not_explain() -> None:
    slow = replace(MACHINE, device_seconds=0.08)
    seen = Seen()
    for seed, limit in enumerate((40, 120, 300, 600)):
        seen += look_at(await moved(machine=slow, seed=seed, limit=limit))
    link = seen.link
    assert link is not None and holds(link.burst, slow.uncapped, within=1.15)
    fixed = seen.host.fixed_downtime_seconds
    assert 0.07 < fixed.p50 < 0.12
    assert fixed.p10 <= fixed.p50 <= fixed.p90


async def test_a_lone_switchover_leaves_open_how_much_of_it_was_sending() -> None:
    seen = look_at(await moved(limit=600))
    link = seen.link
    assert link is not None
    assert holds(link.burst, MACHINE.uncapped, within=1.1)


def test_a_switchover_that_was_starved_does_not_count_as_fixed_time() -> None:
    """Real ones on a machine of two cores; something else took them during the last."""
    seen = Seen(
        switchovers=(
            Switchover(37.34 * MIB, 0.053, 0.076),
            Switchover(4.97 * MIB, 0.035, 0.065),
            Switchover(2.81 * MIB, 0.008, 0.028),
            Switchover(44.57 * MIB, 0.081, 0.095),
            Switchover(102.36 * MIB, 1.707, 1.734),
        )
    )
    fixed = seen.host.fixed_downtime_seconds
    assert 0.01 < fixed.p10 < fixed.p50 < fixed.p90 < 0.06
    link = seen.link
    assert link is not None
    # The vCPUs stood: the passes may be much slower, and are no faster.
    assert link.speed.p10 < link.burst.p10 / 5 and link.speed.p90 <= link.burst.p90


def test_what_pass_1_left_over_tells_little_of_later_switchovers() -> None:
    """Real ones: the destination meets such pages for the first time, and the kernel clears them
    for it."""
    again = tuple(
        Switchover(size * MIB, seconds, seconds + 0.01)
        for size, seconds in ((8.4, 0.0067), (9.82, 0.0095), (13.5, 0.011), (4.4, 0.0063))
    )
    first = tuple(
        Switchover(size * MIB, seconds, seconds + 0.01, first_time=True)
        for size, seconds in ((55.2, 0.296), (29.1, 0.126), (8.2, 0.034))
    )
    mixed, alone = Seen(switchovers=first + again).link, Seen(switchovers=again).link
    assert mixed is not None and alone is not None and mixed.burst == alone.burst
    # They are better than nothing.
    slow = Seen(switchovers=first).link
    assert slow is not None and slow.burst.p50 < alone.burst.p10


def test_zero_pages_among_others_do_not_make_a_link_slow() -> None:
    def sample(t: float, sent: int, zero: int) -> Sample:
        return Sample(
            t,
            "active",
            total=GIB,
            transferred=sent,
            normal_pages=sent // 4096,
            zero_pages=zero,
            sync_count=1,
        )

    seen = look_at([sample(1.0, 0, 0), sample(1.5, 100 * MIB, 150_000)])
    # They took 0.1 s of the 0.5.
    assert list(seen.free) == pytest.approx([250 * MIB])
    seen = look_at([sample(1.0, 0, 0), sample(1.5, MIB, 600_000)])
    assert seen.free == ()


def test_nothing_seen_is_nothing_known() -> None:
    assert look_at([]).link is None
    assert look_at([Sample(0.1, "setup"), Event(0.2, "STOP")]).link is None


def test_few_samples_make_a_wider_interval() -> None:
    few, many = quantiles([100.0] * 2), quantiles([100.0] * 50)
    assert few.p10 < many.p10 < 100 < many.p90 < few.p90


@pytest.mark.parametrize(
    ("to", "place"),
    [
        ("local", "local"),
        ("tcp:b.example:4444", "tcp:b.example"),
        ("tcp:[fe80::1]:4444", "tcp:fe80::1"),
        ("unix:/run/b.sock", "unix:/run/b.sock"),
    ],
)
def test_a_place_is_the_same_whichever_port_is_used(to: str, place: str) -> None:
    assert place_of(parse_destination(to)) == place


async def test_moves_between_the_same_two_places_are_found() -> None:
    items = await moved()
    expected = look_at(items).link
    assert expected is not None
    with Journal.open() as journal:
        keep(journal, items, "tcp:b:4444")
        found = way_to(journal, "web", Tcp("b", 5555)).link
        assert found.speed.p50 == pytest.approx(expected.speed.p50)
        assert way_to(journal, "web", Tcp("c", 4444)).source == USUAL
        assert way_to(journal, "web", Local()).source == USUAL
        keep(journal, items, "local")
        found = way_to(journal, "web", Local()).link
        assert found.speed.p50 == pytest.approx(expected.speed.p50)


async def test_its_own_moves_come_before_those_of_others() -> None:
    slow = replace(MACHINE, uncapped=100 * MIB)
    with Journal.open() as journal:
        keep(journal, await moved(), "tcp:b:1", vm="other")
        way = way_to(journal, "web", Tcp("b", 1))
        assert holds(way.link.speed, MACHINE.uncapped) and "other VMs'" in way.source
        keep(journal, await moved(machine=slow, limit=1500), "tcp:b:1", vm="web")
        way = way_to(journal, "web", Tcp("b", 1))
        assert holds(way.link.speed, slow.uncapped) and way.source.startswith("its ")


async def test_a_rehearsal_is_the_sender_and_a_probe_the_network() -> None:
    to = Tcp("b", 1)
    with Journal.open() as journal:
        way = way_to(journal, "web", to)
        assert way.link.speed == UNKNOWN and way.source == USUAL
        network = Quantiles(110.0 * MIB, 112.0 * MIB, 113.0 * MIB)
        keep(journal, await moved(), "", policy="rehearse")
        way = way_to(journal, "web", to)
        assert way.source == "its rehearsals"
        assert way.link.speed.p90 == pytest.approx(MACHINE.uncapped, rel=0.15)
        assert way_to(journal, "other", to).source == USUAL
        keep_probe(Probe("tcp:b", 5.0, network, False, 3.0, 336 * MIB))
        way = way_to(journal, "web", to)
        assert way.link.speed == network and way.link.burst == burst_of(network)
        assert "probe" in way.source and "rehearsals" in way.source
        # Where the network is the faster one, QEMU's own sender is what counts.
        keep_probe(Probe("tcp:b", 6.0, network.scaled(20), False, 3.0, GIB))
        sender = way_to(journal, "web", to).link.speed
        assert sender.p50 == pytest.approx(MACHINE.uncapped, rel=0.05) and sender.p10 > network.p90


def test_a_probe_that_its_limit_held_leaves_open_what_is_behind() -> None:
    speed = Quantiles(19.0 * MIB, 20.0 * MIB, 21.0 * MIB)
    keep_probe(Probe("tcp:b", 5.0, speed, True, 3.0, 60 * MIB))
    with Journal.open() as journal:
        found = way_to(journal, "web", Tcp("b", 1)).link
    assert found.speed.p10 == 20 * MIB and found.speed.p90 > 100 * MIB


async def test_on_one_machine_a_rehearsal_is_the_whole_way() -> None:
    fast = replace(MACHINE, uncapped=1800 * MIB)
    with Journal.open() as journal:
        keep(
            journal,
            await moved(replace(BUSY, ram_bytes=4 * GIB, static_bytes=3 * GIB), fast),
            "",
            policy="rehearse",
        )
        assert way_to(journal, "other", Local()).link.speed == SENDER
        way = way_to(journal, "web", Local())
    assert way.link.speed.p50 == pytest.approx(fast.uncapped, rel=0.1)


def test_runs_of_unknown_parties_are_passed_over() -> None:
    with Journal.open() as journal:
        journal.begin("web", "fixed", {}, {"source": "a"})
        journal.begin("web", "fixed", {}, asdict(Parties("web", "fd:x", Party(), Party())))
        assert way_to(journal, "web", Local()).source == USUAL
