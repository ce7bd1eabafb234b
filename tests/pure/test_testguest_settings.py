"""The page writer's settings: units, limits, messages, and the memory that they take."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from vmferry.testguest.build import kernel_command_line
from vmferry.testguest.settings import PageWriterSettings

MIB = 1024**2


def test_sizes_and_rates_have_units() -> None:
    settings = PageWriterSettings.model_validate(
        {"working_set": "1GiB", "cold": 8192, "write_rate": "20MiB/s", "disk_rate": "unlimited"}
    )
    assert settings.working_set == 1024 * MIB
    assert settings.cold == 8192
    assert settings.write_rate == 20 * MIB
    assert settings.disk_rate == "unlimited"


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"working_set": "lots"}, "'lots' is not a size"),
        ({"working_set": "1000"}, "multiple of 4096"),
        ({"working_set": "4096", "threads": 2}, "fewer pages"),
        ({"write_rate": "fast"}, "'fast' is not a rate"),
        ({"write_rate": -1}, "greater than or equal to 0"),
        ({"hot_writes": 90}, "set both or neither"),
        ({"hot_pages": 100, "hot_writes": 5}, "less than or equal to 99"),
        ({"order": "backwards"}, "'random' or 'sequential'"),
        ({"content": "music"}, "'random', 'one-word', 'text' or 'same'"),
        ({"threads": 0}, "greater than or equal to 1"),
        ({"read_share": 100}, "less than or equal to 99"),
        ({"phases": "busy"}, "is not like busy:5,idle:3"),
        ({"phases": "busy:5,"}, "is not like busy:5,idle:3"),
        ({"phases": "busy:0"}, "0.001"),
        ({"phases": ",".join(["busy:1"] * 33)}, "at most 32"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_said(wrong: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(complaint)):
        PageWriterSettings.model_validate(wrong)


def test_owned_bytes_covers_pages_tables_and_whole_chunks() -> None:
    settings = PageWriterSettings(working_set=MIB, cold=3 * MIB, untouched=0, disk=4 * MIB)
    # 2 + 4 MiB in chunks of 2 MiB, and 4 bytes for each of their pages and each disk block.
    assert settings.owned_bytes == 6 * MIB + 4 * (1536 + 1024)


def test_settings_are_frozen() -> None:
    settings = PageWriterSettings()
    with pytest.raises(ValidationError):
        settings.threads = 2


def test_the_command_line_holds_every_setting_and_then_the_extra_words() -> None:
    settings = PageWriterSettings(write_rate="unlimited", phases="busy:5,idle:3")
    words = kernel_command_line(settings, "panic=5  quiet").split(" ")
    assert words[-2:] == ["panic=5", "quiet"]
    given = dict(w.removeprefix("pagewriter.").split("=") for w in words if "pagewriter." in w)
    assert given.keys() == PageWriterSettings.model_fields.keys()
    assert given["write_rate"] == "unlimited"
    assert given["phases"] == "busy:5,idle:3"
