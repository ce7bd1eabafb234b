"""Everything about one QEMU that an audit may know without a look into its guest; only reads."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vmferry.fastpath.collect_files import read_text, reason_of
from vmferry.fastpath.collect_memory import read_passthrough, read_ram
from vmferry.fastpath.collect_network import read_cards
from vmferry.fastpath.collect_process import OpenFiles, count_neighbours, read_open_files
from vmferry.fastpath.collect_qom import Asker, virtio_devices
from vmferry.fastpath.collect_storage import read_controllers, read_iothreads
from vmferry.fastpath.collect_taps import Links
from vmferry.fastpath.collect_vcpus import (
    accelerator_of,
    outer_tids,
    read_features,
    read_vcpus,
)
from vmferry.fastpath.facts import Card, Vcpu, VmFacts
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
    version = await asker.ask("version", "query-version") or {}
    vcpus = await read_vcpus(asker, pid) or ()
    virtio = await virtio_devices(asker)
    kvm, machine, status, migration = await asyncio.gather(
        asker.ask("accelerator", "query-kvm"),
        asker.get("/machine", "type", "machine"),
        asker.ask("running", "query-status"),
        asker.ask("migrating", "query-migrate"),
    )
    cards, storage = await asyncio.gather(
        read_cards(asker, virtio, files), read_controllers(asker, virtio)
    )
    accelerator = accelerator_of(words, None if kvm is None else bool(kvm["enabled"]))
    if accelerator is None:
        unread.setdefault("accelerator", unread.get("words", _NO_PROCESS))
    first = vcpus[0].qom_path if vcpus else ""
    passthrough = await read_passthrough(asker, files)
    facts = VmFacts(
        name=name,
        version=_version(version),
        accelerator=accelerator,
        machine=None if machine is None else str(machine).removesuffix("-machine"),
        pid=pid,
        vcpus=vcpus,
        cpu_type=None if not first else await asker.get(first, "type", "cpu_type"),
        features=await read_features(asker, first) if first else None,
        cards=None if cards is None else await asyncio.to_thread(_with_taps, *cards, links, unread),
        controllers=None if storage is None else tuple(storage[0]),
        iothreads=await read_iothreads(asker),
        passthrough=None if passthrough is None else tuple(passthrough),
        ram=await read_ram(asker, pid),
        running=None if status is None else status["status"] == "running",
        migrating=None if migration is None else migration.get("status") in _MIGRATING,
        blocked=None if migration is None else tuple(migration.get("blocked-reasons", ())),
        words=words,
        libvirt_xml=None
        if words is None
        else await asyncio.to_thread(_libvirt_xml, pid, words, unread),
        neighbours=await asyncio.to_thread(_neighbours, pid, vcpus, unread),
        unread=unread,
    )
    return VmReading(facts, {} if storage is None else storage[1])


def _version(told: Mapping[str, object]) -> tuple[int, int, int]:
    qemu = told.get("qemu")
    if not isinstance(qemu, dict):
        return (0, 0, 0)
    return (int(qemu["major"]), int(qemu["minor"]), int(qemu["micro"]))


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


def _neighbours(pid: int | None, vcpus: tuple[Vcpu, ...], unread: dict[str, str]) -> int | None:
    cpus = frozenset[int]().union(*(vcpu.allowed or () for vcpu in vcpus))
    if pid is None or not cpus:
        unread["neighbours"] = unread.get("vcpus", _NO_PROCESS)
        return None
    try:
        return count_neighbours(pid, cpus)
    except OSError as error:
        unread["neighbours"] = reason_of(error, "/proc")
        return None


async def names_its_threads(side: QemuSide) -> bool:
    """Whether the process at the socket's other end is QEMU itself: it has the vCPUs' threads.

    Raises QmpError.
    """
    if side.process is None:
        return False
    inner = await asyncio.to_thread(outer_tids, side.process.pid)
    told = await side.execute("query-cpus-fast")
    return any(int(one["thread-id"]) in inner for one in told)
