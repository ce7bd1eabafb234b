"""The simulated move: the protocols, the order of states, and the faults to order."""

from __future__ import annotations

import pytest

from vmferry.hypervisor.base import Migration, Process, Side, SideError
from vmferry.hypervisor.simulated import Guest, SimulatedMove
from vmferry.policy.base import Abandon, SetBandwidth, SetDowntimeLimit, Silence
from vmferry.precopy.sample import Event, Sample
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import MIB

IDLE = Guest(64 * MIB, 40 * MIB)
HOPELESS = Guest(
    128 * MIB, 20 * MIB, PageWriterSettings(working_set=64 * MIB, write_rate=400 * MIB)
)


async def started(guest: Guest = IDLE) -> SimulatedMove:
    move = SimulatedMove(guest)
    await move.migration.perform(SetBandwidth(32 * MIB))
    await move.migration.perform(SetDowntimeLimit(300))
    await move.migration.start()
    return move


async def until_status(move: SimulatedMove, status: str) -> list[Sample | Event]:
    """All that was told up to the source's event of this status."""
    told: list[Sample | Event] = []
    while True:
        item = await move.migration.receive(60.0)
        assert not isinstance(item, Silence), f"{status} did not come: {move.precopy.status}"
        told.append(item)
        if isinstance(item, Event) and item.side == "source" and item.data.get("status") == status:
            return told


def is_running(move: SimulatedMove) -> tuple[str, ...]:
    return move.running


async def test_it_keeps_the_protocols() -> None:
    move = await started()
    migration: Migration = move.migration
    sides: tuple[Side, Side] = (move.source, move.destination)
    assert migration.now() == 0
    assert [(await side.look()).runstate for side in sides] == ["running", "inmigrate"]


async def test_a_move_goes_through_all_states_in_order() -> None:
    move = await started()
    told = await until_status(move, "pre-switchover")
    assert is_running(move) == ()
    await move.source.proceed()
    told += await until_status(move, "completed")
    events = [item for item in told if isinstance(item, Event)]
    assert [
        (event.side, event.data.get("status", event.name))
        for event in events
        if event.name != "MIGRATION_PASS"
    ] == [
        ("source", "setup"),
        ("source", "active"),
        ("destination", "active"),
        ("source", "STOP"),
        ("source", "pre-switchover"),
        ("source", "device"),
        ("destination", "completed"),
        ("source", "completed"),
    ]
    passes = [event.data["pass"] for event in events if event.name == "MIGRATION_PASS"]
    assert passes == list(range(1, len(passes) + 1))
    assert [item.t for item in told] == sorted(item.t for item in told)
    view = await move.destination.look()
    assert view.loaded and not view.running
    await move.destination.resume()
    assert is_running(move) == ("destination",)


async def test_the_last_sample_tells_the_figures() -> None:
    move = await started()
    await until_status(move, "pre-switchover")
    await move.source.proceed()
    await until_status(move, "completed")
    sample = await move.migration.receive(60.0)
    while not isinstance(sample, Sample):
        sample = await move.migration.receive(60.0)
    assert sample.status == "completed"
    assert sample.total_time_ms > 0 and sample.downtime_ms is not None
    assert sample.remaining == 0 and sample.sent_pages >= 64 * MIB // 4096


async def test_samples_come_at_the_polling_interval_and_silence_between() -> None:
    move = await started(HOPELESS)
    samples: list[float] = []
    while len(samples) < 5:
        item = await move.migration.receive(None)
        if isinstance(item, Sample):
            samples.append(item.t)
    assert samples == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert await move.migration.receive(0.45) == Silence(0.45)


async def test_more_bandwidth_in_the_middle_makes_it_converge() -> None:
    move = await started(HOPELESS)
    while move.migration.now() < 10:
        await move.migration.receive(10.0)
    assert move.precopy.status == "active"
    result = await move.migration.perform(SetBandwidth(0))
    assert result.error is None
    await until_status(move, "pre-switchover")


async def test_abandoned_it_runs_on_at_the_source() -> None:
    move = await started(HOPELESS)
    await move.migration.receive(1.0)
    assert (await move.migration.perform(Abandon("enough"))).error is None
    told = await until_status(move, "cancelled")
    assert any(isinstance(item, Event) and item.data.get("status") == "cancelling" for item in told)
    assert is_running(move) == ("source",)
    assert (await move.destination.look()).dead


async def test_cancelled_before_switchover_it_resumes() -> None:
    move = await started()
    await until_status(move, "pre-switchover")
    await move.source.cancel()
    await until_status(move, "cancelled")
    assert is_running(move) == ("source",)


@pytest.mark.parametrize("status", ["active", "pre-switchover", "device", "completed"])
async def test_a_destination_that_dies_fails_the_move_and_the_source_runs(status: str) -> None:
    move = await started()
    if status == "active":
        move.destination.die_at(time=0.5)
    elif status == "completed":
        move.destination.die_at(status="completed")  # loaded, and the source not yet told
    if status != "active":
        await until_status(move, "pre-switchover")
        if status == "pre-switchover":
            move.destination.die()
            assert is_running(move) == ()
        elif status == "device":
            move.destination.die_at(time=move.migration.now() + 0.004)
        await move.source.proceed()
    await until_status(move, "failed")
    assert is_running(move) == ("source",)
    assert (await move.destination.look()).dead


async def test_a_source_that_dies_leaves_a_half_loaded_destination_dead() -> None:
    move = await started()
    move.source.die_at(status="device")
    await until_status(move, "pre-switchover")
    await move.source.proceed()
    assert (await move.source.look()).process is Process.DEAD
    assert (await move.destination.look()).dead
    assert is_running(move) == ()
    assert isinstance(await move.migration.receive(None), Event)  # device, its last word
    with pytest.raises(SideError, match="the source is dead"):
        await move.migration.receive(60.0)


async def test_a_source_that_dies_once_told_leaves_a_loaded_destination() -> None:
    move = await started()
    move.source.die_at(status="completed")
    await until_status(move, "pre-switchover")
    await move.source.proceed()
    while move.source.alive:
        await move.migration.receive(60.0)
    assert (await move.destination.look()).loaded


async def test_a_wrong_handover_starts_two() -> None:
    move = await started()
    await move.destination.resume()  # cont too early: it starts by itself once loaded
    await until_status(move, "pre-switchover")
    await move.source.proceed()
    await until_status(move, "completed")
    await move.source.resume()
    assert is_running(move) == ("source", "destination")


async def test_a_mute_source_goes_on_and_says_nothing() -> None:
    move = await started(HOPELESS)
    move.source.mute_at(time=1.0)
    while move.migration.now() < 1.0:
        await move.migration.receive(1.0)
    sent = move.precopy.sent_bytes
    assert await move.migration.receive(5.0) == Silence(5.0)
    result = await move.migration.perform(Abandon("enough"))
    assert result.error is not None and "does not answer" in result.error
    view = await move.source.look()
    assert not view.answers and not view.dead
    assert move.precopy.sent_bytes > sent
    move.source.unmute()
    assert (await move.source.look()).running


async def test_a_refusal_is_a_result_for_actions_and_an_error_for_commands() -> None:
    move = await started()
    move.source.refuse("set", "Parameter 'max-bandwidth' expects something else")
    move.source.refuse("proceed", "no")
    before = move.precopy.bandwidth
    result = await move.migration.perform(SetBandwidth(1))
    assert result.error == "Parameter 'max-bandwidth' expects something else"
    assert move.precopy.bandwidth == before
    await until_status(move, "pre-switchover")
    with pytest.raises(SideError, match="no"):
        await move.source.proceed()


async def test_without_a_destination_migrate_fails_at_once() -> None:
    move = SimulatedMove(IDLE)
    move.destination.die()
    await move.migration.start()
    await until_status(move, "failed")
    assert is_running(move) == ("source",)
