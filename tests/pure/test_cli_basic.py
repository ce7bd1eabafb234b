"""The command line without a VM: versions, wrong use, garbage, and bugs of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vmferry import __version__
from vmferry.cli import main
from vmferry.cli.output import printable, table
from vmferry.host.paths import state_dir, vms_dir

Captured = pytest.CaptureFixture[str]


def test_version(capsys: Captured) -> None:
    assert main.run_command(["--version"]) == 0
    assert capsys.readouterr().out == f"vmferry {__version__}\n"


def test_help_names_the_commands(capsys: Captured) -> None:
    assert main.run_command(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in ("run", "ls", "status", "console", "stop"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["--nosuch"],
        ["run"],
        ["run", "a", "b"],
        ["run", ""],
        ["run", "/"],
        ["run", "/nonexistent.toml"],
        ["run", "/dev/null"],
        ["run", "n" * 5000],
        ["run", "\udcff.toml"],
        ["ls", "x"],
        ["status"],
        ["status", ""],
        ["status", "nosuch"],
        ["status", "a/b"],
        ["status", "../../etc"],
        ["status", "n" * 300],
        ["status", "a\nb"],
        ["status", "\x1b[2J"],
        ["status", "\udcff"],
        ["status", "qmp:"],
        ["status", "qmp:/nonexistent"],
        ["status", "qmp:/"],
        ["status", "qmp:/dev/null"],
        ["status", "qmp:" + "p" * 300],
        ["status", "libvirt:qemu:///system#web"],
        ["status", "nosuch", "--json"],
        ["stop", "nosuch"],
        ["stop", "nosuch", "--force"],
        ["stop", "qmp:/dev/null"],
        ["stop", ".."],
        ["console", "nosuch"],
        ["console", "qmp:/dev/null"],
        ["migrate", "web"],
        ["migrate", "nosuch", "--to", "local"],
        ["migrate", "qmp:/nonexistent", "--to", "local"],
        ["migrate", "web", "--to", "nowhere"],
        ["migrate", "web", "--to", "tcp:host"],
        ["migrate", "web", "--to", "tcp:host:65536"],
        ["migrate", "web", "--to", "exec:cat"],
        ["migrate", "web", "--to", "unix:" + "p" * 300],
        ["migrate", "web", "--to", "local", "--bandwidth", "fast"],
        ["migrate", "web", "--to", "local", "--bandwidth", "1kbit/s"],
        ["migrate", "web", "--to", "local", "--bandwidth", "99999999TiB/s"],
        ["migrate", "web", "--to", "local", "--downtime", "0"],
        ["migrate", "web", "--to", "local", "--downtime", "300MiB"],
        ["migrate", "web", "--to", "local", "--deadline", "-1s"],
        ["migrate", "web", "--to", "local", "--policy", "nosuch"],
        ["migrate", "web", "--to", "local", "--to-qmp", "/dev/null"],
        ["migrate", "web", "--to", "local", "--trace", "/nonexistent/t"],
        ["migrate", "web", "--to", "local", "--trace", "/proc/t"],
        ["recover", "a/b"],
        ["recover", "nosuch"],
        ["recover", "qmp:/nonexistent"],
        ["runs", "nosuch"],
        ["show", "last"],
        ["show", "²"],
        ["show", "-1"],
        ["report", "9" * 40],
        ["demo", "--output", "/nonexistent/demo.html"],
    ],
)
def test_wrong_use_is_status_2_in_words(capsys: Captured, arguments: list[str]) -> None:
    assert main.run_command(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("vmferry: ")
    assert "Traceback" not in shown.err
    assert printable(shown.err) == shown.err


def test_a_path_that_leads_nowhere_is_wrong_use(capsys: Captured, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    to = ("--to", "unix:/nonexistent")
    for arguments in (
        ["status", f"qmp:{loop}"],
        ["recover", f"qmp:{loop}"],
        ["migrate", f"qmp:{loop}", *to],
        ["migrate", "web", *to, "--to-qmp", str(loop)],
        ["migrate", "web", *to, "--to-qmp", "/" + 300 * "x"],
    ):
        assert main.run_command(arguments) == 2, arguments
        assert "bug" not in capsys.readouterr().err


def test_wrong_use_of_a_command_is_told_in_its_own_words(capsys: Captured) -> None:
    assert main.run_command(["migrate", "web", "--to", "local", "--profile", "modern"]) == 2
    assert capsys.readouterr().err == (
        "vmferry: Invalid value for '--profile': 'modern' is not one of 'classic'\n"
        "  `vmferry migrate --help` shows how to use it\n"
    )


def test_an_unwritable_trace_is_told_before_anything_and_leaves_no_file(
    capsys: Captured, tmp_path: Path
) -> None:
    file = tmp_path / "run.jsonl"
    arguments = ["migrate", "nosuch", "--to", "local", "--trace"]
    assert main.run_command([*arguments, str(file)]) == 2
    assert "nosuch" in capsys.readouterr().err
    assert not file.exists()
    assert main.run_command([*arguments, str(tmp_path)]) == 2
    assert "--trace" in capsys.readouterr().err


def test_a_bad_specification_is_status_2_with_every_problem(
    capsys: Captured, tmp_path: Path
) -> None:
    spec = tmp_path / "vm.toml"
    spec.write_text("[memory]\nsize = 'x'\n[cpu]\ncount = 0\n")
    assert main.run_command(["run", str(spec)]) == 2
    shown = capsys.readouterr().err
    assert "memory.size: 'x'" in shown
    assert "cpu.count: 0" in shown


def test_ls_lists_what_is_damaged_and_does_not_fall_over_it(capsys: Captured) -> None:
    assert main.run_command(["ls", "--json"]) == 0
    assert capsys.readouterr().out == ""
    folder = vms_dir() / "broken"
    folder.mkdir()
    (folder / "spec.json").write_text("{")
    (folder / "current").symlink_to("/nonexistent")
    (vms_dir() / "empty").mkdir()
    assert main.run_command(["ls", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["name"]: line["state"] for line in lines} == {
        "broken": "crashed",
        "empty": "damaged",
    }
    assert main.run_command(["ls"]) == 0
    assert "broken" in capsys.readouterr().out
    for name in ("broken", "empty"):
        assert main.run_command(["stop", name]) == 0
    assert list(vms_dir().iterdir()) == []


def test_a_bug_is_told_shortly_and_kept_in_full(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down() -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("vmferry.hypervisor.qemu.look.list_vms", break_down)
    assert main.run_command(["ls"]) == 1
    shown = capsys.readouterr().err
    assert "this is a bug in vmferry: ZeroDivisionError: by nought" in shown
    assert "Traceback" not in shown
    (report,) = state_dir().glob("bug-*.txt")
    assert str(report) in shown
    assert "Traceback" in report.read_text()


def test_ctrl_c_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vmferry.hypervisor.qemu.look.list_vms", interrupt)
    assert main.run_command(["ls"]) == 130


def test_the_door_opens_without_what_is_heavy() -> None:
    heavy = ("pydantic", "numpy", "plotly", "rich", "qemu.qmp", "asyncssh")
    program = f"import sys, vmferry.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[31mé\n\udcff\t") == "a\\x1b[31mé\n\\udcff\\t"


def test_a_table_has_columns() -> None:
    assert table([("A", "B"), ("long", "")]) == "A     B\nlong"
