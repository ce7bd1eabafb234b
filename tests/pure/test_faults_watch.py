"""The fault bench's watcher: what it takes for vCPUs that ran after STOP."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from bench import _faults_watch
from bench._faults_watch import Eye, Watch

LATER = {"seconds": 2, "microseconds": 0}


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Eye:
    """A QEMU that said STOP, and whose vCPUs got 10 ms since the last look."""
    monkeypatch.setattr(_faults_watch, "vcpu_ns", lambda pid: 10_000_000)
    eye = Eye(Path("x"), 1, socket.socket(), began=[1.0], ended=[1.5])
    eye.cpu = (time.monotonic() - 0.01, 0)
    return eye


def test_vcpus_that_ran_after_stop_are_a_violation(stopped: Eye) -> None:
    watch = Watch([])
    watch._check_cpu(stopped)
    stopped.asked_at = time.monotonic()
    watch._take(stopped, {"id": "status", "return": {"status": "paused", "running": False}})
    [violation] = watch.violations
    assert "10.0 ms after STOP" in violation
    stopped.connection.close()


def test_a_resume_that_was_read_late_is_none(stopped: Eye) -> None:
    watch = Watch([])
    stopped.asked_at = time.monotonic() - 1
    watch._check_cpu(stopped)
    watch._take(stopped, {"id": "status", "return": {"status": "paused", "running": False}})
    watch._take(stopped, {"event": "RESUME", "timestamp": LATER})
    stopped.asked_at = time.monotonic()
    watch._take(stopped, {"id": "status", "return": {"status": "running", "running": True}})
    assert watch.violations == []
    stopped.connection.close()
