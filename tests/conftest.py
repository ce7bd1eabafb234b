"""For every test: its layer's marker, the parts the layer needs, folders of its own."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import leftovers, requirements

HERE = Path(__file__).parent

# Wall-clock limits say more about a busy machine than about the code.
settings.register_profile(
    "vmferry", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile(
    "vmferry-ci", parent=settings.get_profile("vmferry"), derandomize=True, database=None
)
settings.load_profile("vmferry-ci" if os.environ.get("CI") else "vmferry")

# A shell that starts us in the background has Ctrl-C ignored, by the commands under test too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def layer_of(item: pytest.Item) -> str:
    """The folder under tests/ that the test lies in: pure, qemu or lab."""
    layer = item.path.relative_to(HERE).parts[0]
    if layer not in requirements.BY_LAYER:
        known = ", ".join(requirements.BY_LAYER)
        raise pytest.UsageError(f"{item.path} is in no layer: put it in one of {known}")
    return layer


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its layer, before -m chooses."""
    for item in items:
        item.add_marker(layer_of(item))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stop the run where the chosen tests need what is not there."""
    if session.config.option.collectonly:
        return
    parts = requirements.missing({layer_of(item) for item in session.items})
    if parts:
        raise pytest.UsageError(requirements.complaint(parts))


@pytest.fixture(autouse=True)
def own_folders(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Give the test state and runtime folders of its own; yields XDG_RUNTIME_DIR.

    In the qemu and lab layers nothing may be left in it or know of it when the test ends; the
    cache is the user's, so that the test guest is built once.
    """
    # Not under tmp_path: the path of a socket has at most 107 bytes.
    runtime = Path(tempfile.mkdtemp(prefix="vf-", dir="/tmp"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    if layer_of(request.node) == "pure":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield runtime
        found = []
    else:
        yield runtime
        found = leftovers.collect(runtime)
    shutil.rmtree(runtime)
    if found:
        pytest.fail("left behind:\n  " + "\n  ".join(found), pytrace=False)
