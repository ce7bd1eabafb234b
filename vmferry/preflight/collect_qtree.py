"""The settings of all devices at once, from what HMP `info qtree` prints for people.

A busy QEMU takes up to a millisecond for each question, and a device has some fifty settings.
"""

from __future__ import annotations

import re
from typing import Any

from vmferry.preflight.asking import Asking
from vmferry.preflight.facts import Scalar

_DEVICE = re.compile(r'^(?P<indent> *)dev: (?P<type>\S+), id "(?P<id>.*)"$')
_SETTING = re.compile(r"^(?P<indent> *)(?P<name>[\w.-]+) = (?P<value>.*)$")
# A number as `4 (0x4)`, a size as `1048576 (1 MiB)`.
_NUMBER = re.compile(r"(-?\d+)(?: \(.*\))?")
_PCI_ADDRESS = re.compile(r"([0-9a-f]{2})\.([0-7])")
# The device behind a virtio-…-pci is one of its own here; in the object tree both are one.
_BEHIND = re.compile(r"(virtio|vhost).*-device")

Settings = dict[str, Scalar]


async def read_settings(asking: Asking) -> dict[str, Settings]:
    """The settings of each device that has an id; nothing where QEMU does not tell."""
    words = {"command-line": "info qtree"}
    told: Any = await asking.quietly("human-monitor-command", **words)
    return settings_of(told) if isinstance(told, str) else {}


def settings_of(told: str) -> dict[str, Settings]:
    """What `info qtree` says, by the ids of devices."""
    found: dict[str, Settings] = {}
    # The devices that a line is within, the innermost last, with their indents.
    within: list[tuple[int, Settings]] = []
    for line in told.splitlines():
        if (device := _DEVICE.match(line)) is not None:
            indent = len(device["indent"])
            within = [one for one in within if one[0] < indent]
            behind = bool(within) and _BEHIND.fullmatch(device["type"]) is not None
            settings = within[-1][1] if behind else {}
            within.append((indent, settings))
            if device["id"]:
                found[device["id"]] = settings
        elif within and (setting := _SETTING.match(line)) is not None:
            value = _value(setting["name"], setting["value"])
            if value is not None and len(setting["indent"]) == within[-1][0] + 2:
                within[-1][1].setdefault(setting["name"], value)
    return found


def _value(name: str, text: str) -> Scalar | None:
    """As QMP has it; None for what is no plain value."""
    if text in ("true", "false"):
        return text == "true"
    if text == "<null>":
        return ""
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        return text[1:-1]
    if name == "addr" and (address := _PCI_ADDRESS.fullmatch(text)) is not None:
        return int(address[1], 16) << 3 | int(address[2])
    number = _NUMBER.fullmatch(text)
    return int(number[1]) if number is not None else None
