"""`vmferry rehearse`, as a user calls it: right answers, and a VM that nothing can take or change.

Every test ends with the VM running where it was, all its pages verified, its migration settings as
somebody had left them, and no process beside it.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qemu.qmp import ConnectError

from tests import leftovers
from tests.qemu.home import (
    PATIENCE,
    Home,
    ask,
    finish,
    lines_of,
    migration_settings,
    processes_of,
)
from tests.qemu.testguest_vm import GuestVm

SPECIFICATION = """
[cpu]
count = 1
[memory]
size = "128MiB"
[boot]
kernel = "testguest"
[testguest]
working_set = "16MiB"
write_rate = "2MiB/s"
[qemu]
accelerator = "tcg"
"""
SLOW = ("--bandwidth", "32MiB/s", "--downtime", "100ms")
# As somebody may have set it for moves of their own; a pause before the switchover stops the VM.
FOREIGN_PARAMETERS = {"downtime-limit": 1234, "max-bandwidth": 5 * 2**20}
FOREIGN_CAPABILITIES = [
    {"capability": name, "state": True} for name in ("xbzrle", "pause-before-switchover")
]
GUARDIAN, SINK = "vmferry.guardian", "vmferry.rehearsal.sink"


@pytest.fixture(scope="module")
def shared() -> Iterator[Home]:
    with Home() as home:
        home.run("web", SPECIFICATION)
        set_foreign(home)
        yield home
        home.call("stop", "web")


@pytest.fixture
def home(shared: Home) -> Iterator[Home]:
    before = settings(shared)
    yield shared
    until_running(shared)
    instance = shared.instance("web")
    assert settings(shared) == before
    till_alone(shared)
    assert list(processes_of(shared)) == [instance.process]
    checked = shared.agent("web").verify()
    assert checked.ok, checked.bad[:5]
    assert checked.pages >= 4096
    assert shared.call("recover").stdout == "nothing to recover\n"


@pytest.fixture
def busy(home: Home) -> Iterator[Home]:
    """The guest writes far more than SLOW can carry."""
    home.agent("web").set(write_rate=128 * 2**20)
    yield home
    home.agent("web").set(write_rate=2 * 2**20)


def set_foreign(home: Home) -> None:
    from qemu.qmp.legacy import QEMUMonitorProtocol

    qmp = QEMUMonitorProtocol(str(home.instance("web").files.observer_socket))
    qmp.connect()
    qmp.cmd("migrate-set-capabilities", capabilities=FOREIGN_CAPABILITIES)
    qmp.cmd("migrate-set-parameters", **FOREIGN_PARAMETERS)
    qmp.close()


def settings(home: Home) -> tuple[dict[str, Any], dict[str, bool]]:
    return migration_settings(home.instance("web").files.observer_socket)


def begin(home: Home, *more: str) -> subprocess.Popen[str]:
    return home.start("rehearse", "web", *SLOW, "--json", *more)


def in_pass(process: subprocess.Popen[str], number: int) -> None:
    """Return when the rehearsal is in that pass or a later one."""
    for line in process.stdout or ():
        if lines_of(line)[0].get("pass_number", 0) >= number:
            return
    raise AssertionError(f"it ended before pass {number}: {finish(process, -1)}")


def kill(home: Home, what: str) -> bool:
    """Kill what has `what` in its command line; says whether it was there."""
    for one in leftovers.processes(home.runtime):
        if what in one.command:
            one.process.kill()
            return one.process.wait_dead(PATIENCE)
    return False


def till_alone(home: Home) -> None:
    """Return when nothing but the VM is left: what has lost its owner ends by itself."""
    deadline = time.monotonic() + PATIENCE
    while len(list(processes_of(home))) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_guest_that_writes_little_would_converge(home: Home) -> None:
    *_, found, outcome = home.records("rehearse", "web", "--bandwidth", "64MiB/s")
    assert (found["event"], found["verdict"]) == ("rehearsal", "converges")
    assert found["limits"]["bandwidth"] == 64 * 2**20
    assert found["profile"]["zero_pages"] > 1000
    assert (outcome["status"], outcome["vm_runs_at"]) == ("cancelled", "source")
    assert outcome["policy"] == "rehearse"
    assert outcome["why"].startswith("a rehearsal: the move would converge; ")
    assert outcome["guest"]["missing_beats"] == 0
    said = home.call("show", outcome["run"]).stdout
    assert (
        "web was rehearsed for " in said and " and did not move. The VM runs at the source." in said
    )
    assert "rehearse" in home.call("runs").stdout


def test_a_guest_that_writes_too_much_would_not(busy: Home) -> None:
    *_, found, outcome = busy.records("rehearse", "web", *SLOW, status=7)
    assert found["verdict"] == "does-not-converge"
    assert not found["reached_switchover"]
    assert len(outcome["passes"]) >= 3
    assert "The move would not converge: " in outcome["why"]


def test_too_little_time_is_no_answer(busy: Home) -> None:
    done = busy.call("rehearse", "web", "--bandwidth", "1MiB/s", "--for", "1s", status=8)
    assert "pass 1 was not over after 1.0 s" in done.stdout


def test_ctrl_c_ends_it(busy: Home) -> None:
    process = begin(busy)
    in_pass(process, 1)
    process.send_signal(signal.SIGINT)
    *_, outcome = lines_of(finish(process, 130).stdout)
    assert "cancelled by the user" in outcome["why"]


def test_a_switchover_that_nobody_expected_is_not_let_happen(busy: Home) -> None:
    process = begin(busy)
    switchover(busy, process)
    *_, found, outcome = lines_of(finish(process, 0).stdout)
    assert (found["verdict"], found["reached_switchover"]) == ("converges", True)
    assert outcome["vm_runs_at"] == "source"


def set_limit(home: Home, milliseconds: int) -> None:
    from qemu.qmp.legacy import QEMUMonitorProtocol

    qmp = QEMUMonitorProtocol(str(home.instance("web").files.observer_socket))
    qmp.connect()
    qmp.cmd("migrate-set-parameters", **{"downtime-limit": milliseconds})
    qmp.close()


def prepared(home: Home, process: subprocess.Popen[str]) -> None:
    """Before `migrate`: the sink is there and waits."""
    deadline = time.monotonic() + PATIENCE
    while not any(SINK in one.command for one in leftovers.processes(home.runtime)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)


def first_pass(home: Home, process: subprocess.Popen[str]) -> None:
    in_pass(process, 1)


def later_pass(home: Home, process: subprocess.Popen[str]) -> None:
    in_pass(process, 3)


def switchover(home: Home, process: subprocess.Popen[str]) -> None:
    """QEMU is about to switch over, or does so already; by then the policy sets no limits."""
    in_pass(process, 3)
    set_limit(home, 2_000_000)


STAGES = pytest.mark.parametrize("stage", [prepared, first_pass, later_pass, switchover])
Stage = Callable[[Home, subprocess.Popen[str]], None]


def outcome_of(process: subprocess.Popen[str], stage: Stage) -> dict[str, Any]:
    """Of a rehearsal that failed for what was killed, unless the switchover came first."""
    output, errors = process.communicate()
    *_, outcome = lines_of(output)
    came_first = stage is switchover and process.returncode == 0
    assert came_first or (process.returncode, outcome["status"]) == (5, "failed"), errors
    assert outcome["vm_runs_at"] == "source"
    return outcome


@STAGES
def test_without_its_sink_the_vm_runs_on(busy: Home, stage: Stage) -> None:
    process = begin(busy)
    stage(busy, process)
    assert kill(busy, SINK) or stage is switchover
    outcome = outcome_of(process, stage)
    assert outcome["why"].startswith("a rehearsal that failed: the sink ") or stage is switchover


@STAGES
def test_without_its_command_it_is_undone(busy: Home, stage: Stage) -> None:
    process = begin(busy)
    stage(busy, process)
    process.kill()
    process.communicate()
    till_alone(busy)


@STAGES
def test_without_its_guardian_the_command_undoes_it(busy: Home, stage: Stage) -> None:
    process = begin(busy)
    stage(busy, process)
    assert kill(busy, GUARDIAN) or stage is switchover
    outcome_of(process, stage)


@STAGES
def test_without_anybody_the_vm_runs_on_and_recover_puts_its_settings_back(
    busy: Home, stage: Stage
) -> None:
    process = begin(busy)
    stage(busy, process)
    process.kill()
    assert kill(busy, GUARDIAN) or stage is switchover
    process.communicate()
    till_alone(busy)
    # By itself: QEMU takes a moment to notice that the sink has gone too.
    until_running(busy)
    for outcome in busy.records("recover"):
        assert outcome["vm_runs_at"] == "source"
        assert "the rehearsal begun at" in outcome["why"]


def until_running(home: Home) -> None:
    """Return when the VM runs."""
    deadline = time.monotonic() + PATIENCE
    while True:
        # An event that QEMU 7.2 had for the client before may come ahead of its greeting.
        with contextlib.suppress(ConnectError):
            if ask(home.instance("web").files.observer_socket, "query-status")[0]["running"]:
                return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_next_command_puts_the_settings_back_too(busy: Home) -> None:
    process = begin(busy)
    in_pass(process, 1)
    process.kill()
    assert kill(busy, GUARDIAN)
    process.communicate()
    till_alone(busy)
    assert busy.records("rehearse", "web", *SLOW, status=7)[-1]["vm_runs_at"] == "source"


def test_any_qemu_by_its_qmp_socket(home: Home) -> None:
    folder = home.folder / "foreign"
    attach = f"{folder}/attach.sock"
    with GuestVm(
        folder,
        *("-qmp", f"unix:{attach},server=on,wait=off", "-m", "163848k"),
        working_set=16 * 2**20,
        write_rate=2 * 2**20,
    ) as vm:
        before = [vm.ask("query-migrate-parameters"), vm.ask("query-migrate-capabilities")]
        *_, found, outcome = home.records("rehearse", f"qmp:{attach}", "--bandwidth", "64MiB/s")
        assert (found["verdict"], outcome["vm_runs_at"]) == ("converges", "source")
        assert before == [vm.ask("query-migrate-parameters"), vm.ask("query-migrate-capabilities")]
        assert vm.ask("query-status")["status"] == "running"
        assert vm.agent.verify().ok
        vm.ask("stop")
        refused = home.call("rehearse", f"qmp:{attach}", status=3)
        assert "is paused: nothing would be dirtied" in refused.stderr
        vm.ask("cont")


def test_over_a_while_there_is_a_curve_by_the_hour(home: Home) -> None:
    options = ("--bandwidth", "64MiB/s", "--watch", "12s", "--every", "8s", "--for", "5s")
    records = home.records("rehearse", "web", *options)
    assert sum(one.get("event") == "rehearsal" for one in records) == 2
    hours = [one for one in records if one.get("event") == "hour"]
    assert sum(one["rehearsals"] for one in hours) == 2


def test_what_is_refused(home: Home) -> None:
    assert "--for" in home.call("rehearse", "web", "--for", "0s", status=2).stderr
    assert "--downtime" in home.call("rehearse", "web", "--downtime", "0s", status=2).stderr
    home.call("rehearse", "nobody", status=2)
    process = begin(home)
    prepared(home, process)
    assert "is busy: rehearse by process" in home.call("rehearse", "web", status=3).stderr
    process.send_signal(signal.SIGINT)
    finish(process, 130)
