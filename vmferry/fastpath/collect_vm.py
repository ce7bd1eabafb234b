"""Everything about one QEMU that an audit may know without a look into its guest, and without the
window; only reads."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vmferry.fastpath.collect_memory import read_passthrough, read_ram
from vmferry.fastpath.collect_network import read_cards
from vmferry.fastpath.collect_qom import Asker, understood, virtio_devices
from vmferry.fastpath.collect_storage import read_controllers, read_iothreads
from vmferry.fastpath.collect_taps import Links
from vmferry.fastpath.collect_vcpus import (
    accelerator_of,
    outer_tids,
    read_features,
    read_most,
    read_vcpus,
)
from vmferry.fastpath.facts import Card, VmFacts
from vmferry.host.kernel_files import read_text, reason_of
from vmferry.host.open_files import OpenFiles, read_open_files
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.side import QemuSide

_MIGRATING = ("setup", "active", "pre-switchover", "device", "postcopy-active", "postcopy-paused")
# libvirt's record says of which process it is: another VM may have had the name.
_PID = re.compile(r"<domstatus\b[^>]*\bpid=['\"](\d+)['\"]")
_NO_PROCESS = "QEMU's process cannot be seen from here"


@dataclass(frozen=True, slots=True)
class VmReading:
    """The facts, and what the window needs beside them: the owner of each disk by its name in
    query-blockstats."""

    facts: VmFacts
    owners: Mapping[str, str]


async def read_vm(side: QemuSide, name: str, links: Links) -> VmReading:
    """Read one QEMU, whose session is open. Raises QmpGone where it ends meanwhile."""
    unread: dict[str, str] = {}
    asker = Asker(side.execute, unread)
    pid = None if side.process is None else side.process.pid
    files, words = await asyncio.to_thread(_of_process, side.process, unread)
    version = await understood(asker, "version", _version(asker))
    vcpus = await understood(asker, "vcpus", read_vcpus(asker, pid)) or ()
    virtio = await understood(asker, "virtio", virtio_devices(asker)) or {}
    accelerator, machine, status, migration = await asyncio.gather(
        _accelerator(asker, words),
        asker.get("/machine", "type", "machine"),
        asker.ask("running", "query-status"),
        asker.ask("migrating", "query-migrate"),
    )
    cards, storage, passthrough, iothreads = await asyncio.gather(
        understood(asker, "cards", read_cards(asker, virtio, files, links)),
        understood(asker, "controllers", read_controllers(asker, virtio)),
        understood(asker, "passthrough", read_passthrough(asker, files)),
        understood(asker, "iothreads", read_iothreads(asker)),
    )
    first = vcpus[0].qom_path if vcpus else ""
    facts = VmFacts(
        name=name,
        version=version or (0, 0, 0),
        accelerator=accelerator,
        machine=None if machine is None else str(machine).removesuffix("-machine"),
        pid=pid,
        vcpus=vcpus,
        most_vcpus=await understood(asker, "most_vcpus", read_most(asker)),
        cpu_type=await asker.get(first, "type", "cpu_type") if first else None,
        features=await understood(asker, "features", read_features(asker, first))
        if first
        else None,
        cards=None if cards is None else await asyncio.to_thread(_with_taps, *cards, links, unread),
        controllers=None if storage is None else tuple(storage[0]),
        iothreads=iothreads,
        passthrough=None if passthrough is None else tuple(passthrough),
        ram=await understood(asker, "ram", read_ram(asker, pid, mapping=bool(passthrough))),
        running=None if status is None else status.get("status") == "running",
        migrating=None if migration is None else migration.get("status") in _MIGRATING,
        blocked=None if migration is None else tuple(migration.get("blocked-reasons", ())),
        words=words,
        libvirt_xml=None
        if words is None
        else await asyncio.to_thread(_libvirt_xml, pid, words, unread),
        unread=unread,
    )
    return VmReading(facts, {} if storage is None else storage[1])


async def _version(asker: Asker) -> tuple[int, int, int] | None:
    told = await asker.ask("version", "query-version")
    if told is None:
        return None
    qemu = told["qemu"]
    return int(qemu["major"]), int(qemu["minor"]), int(qemu["micro"])


async def _accelerator(asker: Asker, words: tuple[str, ...] | None) -> str | None:
    told = await asker.ask("accelerator", "query-kvm")
    found = accelerator_of(words, bool(told and told.get("enabled")))
    if found is None:
        asker.unread.setdefault("accelerator", asker.unread.get("words", _NO_PROCESS))
    return found


def _of_process(
    process: ProcessId | None, unread: dict[str, str]
) -> tuple[OpenFiles | None, tuple[str, ...] | None]:
    if process is None:
        unread["pid"] = unread["files"] = unread["words"] = _NO_PROCESS
        return None, None
    words = tuple(process.words()) or None
    if words is None:
        unread["words"] = f"/proc/{process.pid}/cmdline cannot be read"
    try:
        return read_open_files(process.pid), words
    except OSError as error:
        unread["files"] = reason_of(error, f"/proc/{process.pid}/fd")
        return None, words


def _with_taps(
    cards: list[Card], interfaces: Mapping[str, str], links: Links, unread: dict[str, str]
) -> tuple[Card, ...]:
    if any(card.netdev == "tap" for card in cards):
        if links.problem:
            unread["taps"] = links.problem
        elif any(card.netdev == "tap" and card.name not in interfaces for card in cards):
            unread["taps"] = unread.get("files", "QEMU does not say which tap a card is joined to")
    return tuple(
        replace(card, tap=links.tap(interfaces[card.name])) if card.name in interfaces else card
        for card in cards
    )


def _libvirt_xml(pid: int | None, words: tuple[str, ...], unread: dict[str, str]) -> str | None:
    """libvirt's own record of a VM that it runs, where this is one and may be read."""
    name = next(
        (
            part.removeprefix("guest=")
            for option, value in itertools.pairwise(words)
            if option == "-name"
            for part in value.split(",")
            if part.startswith("guest=")
        ),
        None,
    )
    if name is None or "/" in name or name in (".", ".."):
        return None
    folders = [Path("/run/libvirt/qemu")]
    if (own := os.environ.get("XDG_RUNTIME_DIR")) is not None:
        folders.append(Path(own, "libvirt/qemu/run"))
    for folder in folders:
        path = folder / f"{name}.xml"
        try:
            text = read_text(path)
            named = _PID.search(text)
            return text if pid is not None and named is not None and int(named[1]) == pid else None
        except PermissionError as error:
            unread["libvirt_xml"] = reason_of(error, path)
        except OSError:
            continue
    return None


async def names_its_threads(side: QemuSide) -> bool:
    """Whether the process at the socket's other end is QEMU itself: it has the vCPUs' threads.

    Raises QmpError.
    """
    if side.process is None:
        return False
    inner = await asyncio.to_thread(outer_tids, side.process.pid)
    told = await side.execute("query-cpus-fast")
    return any(one.get("thread-id") in inner for one in told)
