"""apt as the lab uses it, whatever the machine's own is told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from lab.archive import _CONFIGURATION


def test_packages_are_checked_also_where_the_machine_asks_for_no_check(tmp_path: Path) -> None:
    lax = (
        "APT::Get::AllowUnauthenticated",
        "Acquire::AllowInsecureRepositories",
        "Acquire::AllowWeakRepositories",
        "Acquire::AllowDowngradeToInsecureRepositories",
    )
    (tmp_path / "machine").write_text("".join(f'{name} "true";\n' for name in lax))
    (tmp_path / "lab").write_text(_CONFIGURATION.format(folder=tmp_path))
    told = subprocess.run(
        ["apt-config", "-c", tmp_path / "lab", "dump", "--format", "%f=%v%n", *lax],
        env=os.environ | {"APT_CONFIG": str(tmp_path / "machine")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(told.stdout.split()) == sorted(f"{name}=false" for name in lax)
