"""What libvirt's own record says of the devices that findings are about, as evidence beside QEMU's.

It is the record of the VM as it runs; a device's alias there is its id in QEMU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from xml.etree import ElementTree

from vmferry.fastpath.finding import Finding, Level
from vmferry.fastpath.verdicts import saw


def with_libvirts_words(findings: Iterable[Finding], record: str | None) -> list[Finding]:
    """The findings; those on what is offered to a device have its element of the record too."""
    words = device_words(record or "")
    return [
        replace(one, evidence=(*one.evidence, saw("libvirt's record of it", words[one.subject])))
        if one.level is Level.OFFERED and one.subject in words
        else one
        for one in findings
    ]


def device_words(record: str) -> Mapping[str, str]:
    """`<interface>: <driver name="vhost" queues="4"/>` by alias; none where it is no XML."""
    try:
        root = ElementTree.fromstring(record)
    except ElementTree.ParseError:
        return {}
    found = {}
    for device in root.iterfind(".//devices/*"):
        alias, driver = device.find("alias"), device.find("driver")
        if alias is not None and (name := alias.get("name")):
            found[name] = f"<{device.tag}>: {_shown(driver)}"
    return found


def _shown(driver: ElementTree.Element | None) -> str:
    if driver is None:
        return "no <driver>, so the defaults"
    options = "".join(f' {name}="{value}"' for name, value in driver.attrib.items())
    return f"<driver{options}/>"
