"""What the machine refuses the lab is told in words."""

from __future__ import annotations

import errno
import shutil
import sys

import pytest

from lab import cli


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "gigabytes"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), "No such file"),
        (shutil.Error([("/x", "/y", "No space left on device")]), "No space left"),
    ],
)
def test_no_traceback_where_a_file_cannot_be_written(
    error: OSError,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def build(_: object) -> None:
        raise error

    monkeypatch.setattr("lab.cli.images.build", build)
    monkeypatch.setattr("lab.cli.signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["lab", "build"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 255
    said = capsys.readouterr().err
    assert told in said and "/x" in said
