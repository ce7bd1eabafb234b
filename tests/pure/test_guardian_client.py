"""What the command makes of its guardian's lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vmferry.cli.guardian_client import GuardianDied, guarded
from vmferry.move.run import Request
from vmferry.policy.base import Limits

REQUEST = Request("web", "local", Limits())
ERROR = {"error": "cannot read the journal", "hint": None, "exit_status": 5}


def lines_of(monkeypatch: pytest.MonkeyPatch, *said: dict[str, Any]) -> list[dict[str, Any]]:
    """What `guarded` yields of a guardian that says this."""
    script = "".join(f"print({json.dumps(json.dumps(line))})\n" for line in said)
    return list(lines_of_script(monkeypatch, script))


def lines_of_script(monkeypatch: pytest.MonkeyPatch, script: str) -> Iterator[dict[str, Any]]:
    start = subprocess.Popen

    def popen(_words: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", f"input()\n{script}"], **options)

    monkeypatch.setattr("vmferry.cli.guardian_client.subprocess.Popen", popen)
    return guarded(REQUEST, lambda: None)


def test_an_error_before_the_run_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(monkeypatch, {"guardian": {}}, ERROR)[-1] == ERROR


def test_an_error_in_the_run_leaves_it_to_be_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GuardianDied) as death:
        lines_of(monkeypatch, {"guardian": {}}, {"run": "7"}, ERROR)
    assert death.value.run == "7"
    assert death.value.said == "cannot read the journal"


def test_a_ctrl_c_while_the_guardian_ends_does_not_lose_the_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = {"event": "outcome"}
    script = (
        "import os, time\n"
        f"print({json.dumps(json.dumps(outcome))}, flush=True)\n"
        "os.close(1)\ntime.sleep(0.5)\nos._exit(0)"
    )
    heard = []
    for line in lines_of_script(monkeypatch, script):
        heard.append(line)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert heard == [outcome]
