"""`./dev lab clean` takes nothing from under a lab that runs."""

from __future__ import annotations

import argparse

import pytest

from lab import cli, places
from tests.bystander import process_with
from vmferry.errors import UsageError


@pytest.mark.parametrize("name", [places.COMMON, "own-1"])
def test_not_while_a_lab_runs_from_it(name: str) -> None:
    words = ["-name", "guest=x", f"unix:{places.runtime(name)}/a/qmp.sock"]
    (places.cache() / "0123456789abcdef").mkdir()
    with process_with(*words), pytest.raises(UsageError, match="a lab is up"):
        cli._clean(argparse.Namespace())
    assert (places.cache() / "0123456789abcdef").exists()
