"""What a move costs the guest is measured, and migration threads keep off its vCPUs on request."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.qemu.home import Home, finish, until_stage
from vmferry.host.threads import ThreadTimes, cores_of, thread_times

SPECIFICATION = """
[cpu]
count = 2
[memory]
size = "160MiB"
[boot]
kernel = "testguest"
[testguest]
working_set = "16MiB"
write_rate = "8MiB/s"
threads = 2
[qemu]
accelerator = "tcg"
"""
ALL = cores_of(os.getpid())
FIRST = frozenset({min(ALL)})


@pytest.fixture(scope="module")
def shared() -> Iterator[Home]:
    with Home() as home:
        home.run("web", SPECIFICATION)
        yield home
        home.call("stop", "web")


@pytest.fixture
def home(shared: Home) -> Iterator[Home]:
    """Tests leave the vCPUs free to run anywhere."""
    yield shared
    keep_vcpus_to(shared, ALL)


def threads(home: Home) -> list[ThreadTimes]:
    return thread_times(home.instance("web").process.pid)


def keep_vcpus_to(home: Home, cores: frozenset[int]) -> None:
    for one in threads(home):
        if one.is_vcpu:
            os.sched_setaffinity(one.tid, cores)


def where_it_migrates(home: Home, wanted: frozenset[int]) -> tuple[set[frozenset[int]], str]:
    """The cores that the migration threads have during a slow move, and what was said of them.

    They are told once all have the `wanted` ones, as far as that comes: threads are looked for
    now and then.
    """
    move = home.start(
        *("migrate", "web", "--to", "local", "--pin-migration", "auto"),
        *("--bandwidth", "1MiB/s", "--json"),
    )
    until_stage(move, "passes")
    for _ in range(100):
        cores = {cores_of(one.tid) for one in threads(home) if one.is_migration}
        if cores == {wanted}:
            break
        time.sleep(0.1)
    move.send_signal(signal.SIGINT)
    return cores, finish(move, 4).stderr


def test_the_cost_of_a_move_is_told(home: Home) -> None:
    *_, outcome = home.records("migrate", "web", "--to", "local", "--bandwidth", "32MiB/s")
    cost = outcome["cost"]
    assert cost["work_before"] > 0
    assert cost["work_during"] > 0
    assert cost["work_after"] > 0
    assert cost["work_loss_percent"] <= 100
    assert set(cost["vcpu_run_delay_percent"]) == {"CPU 0/TCG", "CPU 1/TCG"}
    assert all(delay >= 0 for delay in cost["vcpu_run_delay_percent"].values())
    assert cost["migration_cpu_seconds"] > 0
    assert cost["vmferry_cpu_seconds"] > 0
    assert cost["pinned_to"] is None
    told = home.call("show", "last").stdout
    assert "its vCPUs waited for a core up to " in told
    assert "the migration threads took " in told


def test_migration_threads_keep_off_the_cores_of_the_vcpus(home: Home) -> None:
    keep_vcpus_to(home, FIRST)
    spare = ALL - FIRST
    cores, said = where_it_migrates(home, spare or ALL)
    (run,) = home.records("runs")[-1:]
    if spare:
        listed = ", ".join(str(core) for core in sorted(spare))
        assert cores == {spare}
        assert f"migration threads are kept to core {listed}, where no vCPU may run" in said
        assert run["outcome"]["cost"]["pinned_to"] == sorted(spare)
        assert f" s of a core on core {listed}" in home.call("show", "last").stdout
    else:
        assert cores == {ALL}


def test_without_a_choice_they_are_left_alone(home: Home) -> None:
    cores, said = where_it_migrates(home, ALL)
    assert cores == {ALL}
    assert "migration threads are left alone: the vCPUs may run on every core" in said
    (run,) = home.records("runs")[-1:]
    assert run["outcome"]["cost"]["pinned_to"] is None
