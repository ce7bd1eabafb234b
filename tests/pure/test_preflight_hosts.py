"""The fast paths of the two hosts, side by side; and the file that brings the other one's audit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure import catalogue_parts as hosts
from tests.pure.preflight_facts import ALIKE, QEMU, between
from tests.pure.test_prepare import LISTEN
from vmferry.cli import main
from vmferry.errors import UsageError
from vmferry.fastpath.facts import HostFacts, Iommu
from vmferry.fastpath.finding import Feature, Finding, Level
from vmferry.fastpath.finding import Verdict as Told
from vmferry.fastpath.large_pages.judge import CAP_2M
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.move.prepare import seen_party
from vmferry.preflight.checks.hosts import host_fast_paths
from vmferry.preflight.collect_audit import read_audit
from vmferry.preflight.facts import Device, Facts
from vmferry.preflight.finding import Evidence, Verdict

Captured = pytest.CaptureFixture[str]

CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
WITHOUT_VHOST = hosts.host(devices={"/dev/kvm": ""})
SLOW_CLOCK = hosts.host(clocksource="hpet")
LARGE = Iommu("dmar0", "intel", CAP_2M, 0)
VFIO = replace(QEMU, devices=(Device("gpu", "vfio-pci"),))


def test_what_the_destinations_host_lacks_is_told_at_once() -> None:
    there = hosts.host(devices={"/dev/kvm": ""}, clocksource="hpet")
    found = host_fast_paths(between(hosts.HOST, there))
    assert found.verdict is Verdict.WARNING
    assert "net-queues (the host has no vhost-net), clock (the host counts" in found.answer.what
    assert Evidence("/dev/vhost-net", "there", "not there") in found.answer.evidence
    assert Evidence(CLOCKSOURCE, "tsc", "hpet") in found.answer.evidence
    assert "net-queues: modprobe vhost_net" in found.answer.remedy
    assert "; clock: in the VM that this host is: clocksource=tsc" in found.answer.remedy


@pytest.mark.parametrize(
    "facts",
    [
        between(hosts.HOST, hosts.HOST),
        between(WITHOUT_VHOST, hosts.HOST),
        between(WITHOUT_VHOST, WITHOUT_VHOST),
        between(SLOW_CLOCK, hosts.HOST),
        between(hosts.host(iommus=(LARGE,)), hosts.host(iommus=())),
        replace(
            between(hosts.host(iommus=(LARGE,)), hosts.host(iommus=(Iommu("b", "amd", 0, 0),))),
            source=VFIO,
        ),
        replace(between(hosts.HOST, SLOW_CLOCK), same_host=True),
        replace(between(hosts.HOST, SLOW_CLOCK), local=True, same_host=None),
        replace(ALIKE, audits=None),
    ],
    ids=[
        "alike",
        "better there",
        "as bad there",
        "a better clock there",
        "large pages that this VM has no use for",
        "an IOMMU of another name",
        "one host",
        "to this host",
        "one host that nobody has audited",
    ],
)
def test_a_host_that_is_no_worse(facts: Facts) -> None:
    found = host_fast_paths(facts)
    assert found.verdict is Verdict.OK, found.answer


@pytest.mark.parametrize(
    ("here", "there", "lost"),
    [
        (hosts.HOST, hosts.with_module("kvm", eager_page_split="N"), "migration-thread"),
        (hosts.HOST, hosts.with_module("vhost_net", experimental_zcopytx="1"), "zero-copy"),
        (hosts.HOST, hosts.host(devices={"/dev/vhost-net": ""}), "clock"),
        (hosts.host(iommus=(LARGE,)), hosts.host(iommus=()), "large-pages"),
        (hosts.HOST, hosts.host(command_line="intel_iommu=on,sp_off"), "large-pages"),
    ],
)
def test_each_is_lost_by_itself(here: HostFacts, there: HostFacts, lost: str) -> None:
    found = host_fast_paths(replace(between(here, there), source=VFIO))
    assert found.verdict is Verdict.WARNING
    assert found.answer.what.startswith(f"the destination's host offers less than this one: {lost}")
    assert found.answer.remedy.startswith(f"on the destination's host: {lost}: ")


UNREAD = hosts.host(clocksource=None, unread={"clocksource": "Permission denied"})


@pytest.mark.parametrize(
    ("here", "there", "side"),
    [(hosts.HOST, UNREAD, "the destination's host"), (UNREAD, SLOW_CLOCK, "this host")],
)
def test_what_one_side_does_not_tell(here: HostFacts, there: HostFacts, side: str) -> None:
    found = host_fast_paths(between(here, there))
    assert found.verdict is Verdict.UNTOLD
    assert found.answer.what == f"clock of {side} (the host's clock source could not be read)"
    lacking = replace(there, devices={"/dev/kvm": ""})
    found = host_fast_paths(between(here, lacking))
    assert found.verdict is Verdict.WARNING
    assert "net-queues (the host has no vhost-net); cannot be told: clock" in found.answer.what


def test_the_best_there_is_no_worse_than_what_is_not_known_here() -> None:
    assert host_fast_paths(between(UNREAD, hosts.HOST)).verdict is Verdict.OK


def test_an_audit_of_some_features_tells_nothing_of_the_others() -> None:
    facts = between(hosts.HOST, hosts.HOST)
    assert facts.audits is not None
    some = tuple(one for one in facts.audits.destination if one.feature is not Feature.CLOCK)
    found = host_fast_paths(replace(facts, audits=replace(facts.audits, destination=some)))
    assert found.verdict is Verdict.UNTOLD
    assert "clock of the destination's host (its audit does not answer host-clock)" in str(found)


def test_a_judge_that_failed_here_does_not_make_the_destination_worse() -> None:
    there = hosts.host(command_line="intel_iommu=on,sp_off")
    facts = replace(between(hosts.HOST, there), source=VFIO)
    assert facts.audits is not None
    failed = Finding(Feature.LARGE_PAGES, Level.OFFERED, "check-failed", Told.UNTOLD, "oh", ())
    others = (one for one in facts.audits.source if one.feature is not Feature.LARGE_PAGES)
    audits = replace(facts.audits, source=(*others, failed))
    assert host_fast_paths(replace(facts, audits=audits)).verdict is Verdict.UNTOLD


@pytest.mark.parametrize(
    ("to", "same_host", "said"),
    [
        ("tcp:b:4444", False, "was not audited: `ssh b vmferry audit --host --json > FILE`"),
        ("tcp:[fd00::2]:4444", False, "`ssh fd00::2 vmferry"),
        ("unix:/run/x.sock", None, "is not to be seen; where it is not: `ssh HOST vmferry audit"),
        ("tcp:localhost:4444", None, "`ssh HOST vmferry audit --host"),
    ],
)
def test_another_host_without_its_audit(to: str, same_host: bool | None, said: str) -> None:
    found = host_fast_paths(replace(ALIKE, to=to, same_host=same_host, audits=None))
    assert found.verdict is Verdict.UNTOLD
    assert said in found.answer.what
    assert "--to-audit FILE" in found.answer.what


def audit_of_this_host(capsys: Captured) -> str:
    assert main.run_command(["audit", "--host", "--json"]) in (0, 7)
    return capsys.readouterr().out


def test_the_file_says_what_the_audit_said(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "b.json"
    text = audit_of_this_host(capsys)
    path.write_text(f"Welcome to b!\n{text}")
    *told, _ = (json.loads(line) for line in text.splitlines())
    assert [one.to_json() for one in read_audit(path)] == told


def altered(text: str, **changes: object) -> str:
    """The first record with other values."""
    first, _, rest = text.partition("\n")
    return f"{json.dumps({**json.loads(first), **changes})}\n{rest}"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda text: "", "it is empty"),
        (lambda text: "\n \n", "it is empty"),
        (lambda text: "vmferry: command not found\n", "it has no line of JSON"),
        (lambda text: text[:-20], " is no JSON"),
        (lambda text: text.rpartition("\n{")[0], "its last line, the one for all"),
        (lambda text: text.replace('"this host"', '"web"'), "what was audited is 'web'"),
        (lambda text: altered(text, format=2), "its format is 2, and this vmferry reads 1"),
        (lambda text: altered(text, event="check"), "line 1 is of another command"),
        (lambda text: altered(text, feature="warp"), "line 1: 'warp' is not a valid Feature"),
        (lambda text: altered(text, evidence=7), "line 1: a value in it is of another kind"),
        (lambda text: altered(text, evidence=[{"where": "x"}]), "line 1: it has no 'value'"),
        (lambda text: altered(text, change=7), "line 1: 7 is no text"),
        (lambda text: "[" * 100_000, "it has no line of JSON"),
        (lambda text: '{"a":' * 100_000, "line 1 is no JSON"),
        (lambda text: text + "x" * (5 << 20), "it has more than 4 MiB"),
    ],
)
def test_a_file_that_is_no_audit(
    make: Callable[[str], str], said: str, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "b.json"
    path.write_text(make(audit_of_this_host(capsys)))
    with pytest.raises(UsageError) as refused:
        read_audit(path)
    assert said in refused.value.message
    assert refused.value.hint is not None and "vmferry audit --host --json" in refused.value.hint


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "gone", tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UsageError, match="is not there or no file"):
            read_audit(path)
    with pytest.raises(UsageError, match="cannot be read: File name too long"):
        read_audit(tmp_path / ("x" * 300))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
NAMES = ("event", "format", "feature", "level", "check", "verdict", "what", "evidence", "subject")
WORDS = st.sampled_from(["finding", "audit", 1, "clock", "offered", "ok", "this host"])
RECORD = st.dictionaries(st.sampled_from(NAMES), WORDS | JSON)
LINES = st.lists(RECORD.map(json.dumps), max_size=4).map(lambda rows: "\n".join(rows).encode())


@given(st.binary(max_size=200) | LINES)
def test_any_bytes_are_an_answer_or_wrong_use(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            assert isinstance(read_audit(Path(file.name)), tuple)
        except UsageError as error:
            assert error.message


@pytest.mark.parametrize("command", ["check", "migrate"])
def test_a_bad_file_ends_both_commands_before_the_vm_is_asked(
    command: str, tmp_path: Path, capsys: Captured, own_folders: Path
) -> None:
    gone = tmp_path / "gone.json"
    words = [command, "qmp:/nonexistent", "--to", "tcp:b:4444", "--to-audit", str(gone)]
    assert main.run_command(words) == 2
    err = capsys.readouterr().err
    assert f"--to-audit: {gone} is not there or no file" in err
    assert "Traceback" not in err
    words = [command, "web", "--to", "local", "--to-audit", str(gone)]
    assert main.run_command(words) == 2
    assert "--to-audit is for another host" in capsys.readouterr().err


def test_a_socket_that_is_passed_on_can_be_looked_through(tmp_path: Path) -> None:
    """`check` may ask another host's QEMU; its process is not the one that passes the socket on."""
    at = tmp_path / "forwarded.sock"
    source = QemuSide(tmp_path / "vm.sock", ProcessId.of(os.getpid()), ours=False)
    with subprocess.Popen([sys.executable, "-c", LISTEN, at], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            assert seen_party(at, source).process is None
        finally:
            child.kill()
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(tmp_path / "own.sock"))
        own.listen()
        with pytest.raises(UsageError, match="names the VM itself"):
            seen_party(tmp_path / "own.sock", source)
    with pytest.raises(UsageError, match="nobody answers"):
        seen_party(tmp_path / "gone.sock", source)
