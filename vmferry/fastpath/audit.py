"""One audit: the facts are read, the judges say what they mean, and the answer is put together.

It changes nothing and takes the window's time and a little more; a look into the guest may take
longer. The window begins before everything else is read and ends after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vmferry.errors import UsageError
from vmferry.fastpath.collect_deep import TransmitProbes, read_leaf_pages, transmit_calls
from vmferry.fastpath.collect_host import read_host
from vmferry.fastpath.collect_vm import names_its_threads, read_vm
from vmferry.fastpath.collect_window import WindowReader
from vmferry.fastpath.facts import DeepFacts, Facts, GuestFacts, HostFacts, VmFacts, Window
from vmferry.fastpath.finding import Feature, Finding, Level, Verdict, worst_of
from vmferry.fastpath.guest_access import GuestAccess, GuestUntold, ThisMachine, read_guest
from vmferry.fastpath.libvirt_words import with_libvirts_words
from vmferry.host.sockets import peer_of
from vmferry.hypervisor.qemu.lifecycle import current_instance
from vmferry.hypervisor.qemu.qmp import QmpError, QmpGone
from vmferry.hypervisor.qemu.side import QemuSide
from vmferry.vm.address import VmName, parse_vm
from vmferry.vm.registry import lookup

Judge = Callable[[Facts], list[Finding]]

WINDOW_SECONDS = 1.0
NOT_LOOKED = "nobody looked into the guest"
# What the last line of an audit with `host` calls its subject.
THIS_HOST = "this host"


@dataclass(frozen=True, slots=True)
class Audit:
    """The answer. `subject` names what was audited; `bugs` are tracebacks of judges that failed."""

    subject: str
    features: tuple[Feature, ...]
    facts: Facts
    findings: tuple[Finding, ...]
    seconds: float
    bugs: tuple[str, ...] = ()

    def verdict(self, feature: Feature, level: Level) -> Verdict | None:
        """The worst that was found; None where the question does not arise for this subject."""
        found = (one for one in self.findings if one.feature is feature and one.level is level)
        worst = worst_of(found)
        return None if worst is None else worst.verdict

    @property
    def exit_status(self) -> int:
        """1 where a judge failed, 7 where something is misconfigured, 0 otherwise."""
        if self.bugs:
            return 1
        wrong = any(one.verdict is Verdict.MISCONFIGURED for one in self.findings)
        return 7 if wrong else 0

    def to_json(self) -> dict[str, Any]:
        """`{"event": "audit", "format": 1, …}`: the last line."""
        window = self.facts.window
        return {
            "event": "audit",
            "format": 1,
            "subject": self.subject,
            "verdicts": {
                feature.value: {
                    level.value: None if verdict is None else verdict.value
                    for level in Level
                    for verdict in (self.verdict(feature, level),)
                }
                for feature in self.features
            },
            "counts": {
                verdict.value: sum(one.verdict is verdict for one in self.findings)
                for verdict in Verdict
            },
            "looked_inside": self.facts.guest is not None,
            "no_guest": self.facts.no_guest or None,
            "window_seconds": None if window is None else round(window.seconds, 3),
            "seconds": round(self.seconds, 3),
            "bugs": [bug.strip().rpartition("\n")[2] for bug in self.bugs],
        }


@dataclass(frozen=True, slots=True)
class Request:
    """What to audit: a VM by its name, this host, or a guest from inside. `window` in seconds."""

    vm: str | None = None
    host: bool = False
    guest: bool = False
    access: GuestAccess | None = None
    window: float = WINDOW_SECONDS
    deep: bool = False
    features: tuple[Feature, ...] = tuple(Feature)


async def audit(request: Request, judges: Mapping[Feature, Judge]) -> Audit:
    """Read and judge. Raises UsageError where what is asked for is not there."""
    began = time.monotonic()
    if request.vm is not None:
        subject, facts = request.vm, await _of_vm(request.vm, request)
    elif request.host:
        host = await asyncio.to_thread(read_host)
        subject, facts = THIS_HOST, Facts(host=host, no_guest="this is about the host alone")
    else:
        subject, facts = "this machine as a guest", await _of_guest(request)
    findings: list[Finding] = []
    bugs: list[str] = []
    for feature in request.features:
        found, bug = judged(feature, judges[feature], facts)
        findings += found
        bugs += [bug] if bug else []
    if facts.vm is not None:
        findings = with_libvirts_words(findings, facts.vm.libvirt_xml)
    return Audit(
        subject, request.features, facts, tuple(findings), time.monotonic() - began, tuple(bugs)
    )


def judged(feature: Feature, judge: Judge, facts: Facts) -> tuple[list[Finding], str]:
    """The findings of one judge. Where it fails, each level cannot be told, and the traceback."""
    try:
        return judge(facts), ""
    except Exception as error:
        what = f"its check failed: {type(error).__name__}: {error}"
        return [
            Finding(
                feature,
                level,
                check="check-failed",
                verdict=Verdict.UNTOLD,
                what=what,
                evidence=(),
                why="this is a bug in vmferry",
                change="report it with the details that vmferry kept",
            )
            for level in Level
        ], traceback.format_exc()


async def _of_guest(request: Request) -> Facts:
    try:
        guest = await read_guest(request.access or ThisMachine(), request.window)
    except GuestUntold as error:
        raise UsageError(error.reason) from None
    return Facts(guest=guest)


async def _of_vm(vm: str, request: Request) -> Facts:
    async with _opened(vm) as side:
        try:
            return await _look(side, vm, request)
        except QmpGone:
            raise UsageError(f"'{vm}' ended while it was looked at") from None


@dataclass(slots=True)
class _Guest:
    """What became of the look into the guest."""

    facts: GuestFacts | None = None
    reason: str = NOT_LOOKED


async def _look(side: QemuSide, vm: str, request: Request) -> Facts:
    deep = _Deep(TransmitProbes() if request.deep else None)
    window = WindowReader(side)
    links = await window.begin()
    looking = asyncio.create_task(_inside(request))
    try:
        with deep:
            host, reading = await asyncio.gather(
                asyncio.to_thread(read_host), read_vm(side, vm, links)
            )
            inside = await looking
            await asyncio.sleep(max(0.0, window.began + request.window - time.monotonic()))
            counted = await window.end(reading.facts, reading.owners)
            deep.count(counted)
            vm_facts = await window.neighbours_of(reading.facts)
    finally:
        looking.cancel()
    return Facts(
        host=host,
        vm=vm_facts,
        window=counted,
        guest=inside.facts,
        deep=await asyncio.to_thread(deep.facts, host, reading.facts),
        no_guest=inside.reason,
    )


async def _inside(request: Request) -> _Guest:
    if request.access is None:
        return _Guest()
    try:
        return _Guest(await read_guest(request.access, request.window), "")
    except GuestUntold as error:
        return _Guest(None, error.reason)


class _Deep:
    """What `--deep` adds; without probes, nothing."""

    def __init__(self, probes: TransmitProbes | None) -> None:
        self._probes = probes
        self._first: Mapping[str, Mapping[int, int]] = {}
        self._calls: dict[str, int] | None = None

    def __enter__(self) -> _Deep:
        if self._probes is not None:
            self._probes.__enter__()
            self._first = self._probes.counts() or {}
        return self

    def __exit__(self, *_: object) -> None:
        if self._probes is not None:
            self._probes.__exit__()

    def count(self, window: Window) -> None:
        """Take the counts at the window's end."""
        last = None if self._probes is None else self._probes.counts()
        if last is not None:
            threads = [one.tid for one in window.threads or () if one.role == "vhost"]
            self._calls = transmit_calls(self._first, last, frozenset(threads) or None)

    def facts(self, host: HostFacts, vm: VmFacts) -> DeepFacts | None:
        if self._probes is None:
            return None
        unread: dict[str, str] = {}
        if self._calls is None:
            unread["transmit_calls"] = self._probes.problem
        devices = [device.host for device in vm.passthrough or () if device.host]
        pages = read_leaf_pages(host.kernel, devices, unread) if devices else {}
        return DeepFacts(pages, self._calls, unread)


@contextlib.asynccontextmanager
async def _opened(vm: str) -> AsyncIterator[QemuSide]:
    """The VM's QEMU with an open session. Raises UsageError."""
    address = parse_vm(vm)
    if isinstance(address, VmName):
        instance = current_instance(lookup(address.name))
        if instance is None or not instance.alive():
            raise UsageError(
                f"'{address.name}' does not run", hint="`vmferry ls` shows which VMs do"
            )
        side = QemuSide(instance.files.observer_socket, instance.process, ours=True)
    else:
        process = await asyncio.to_thread(peer_of, address.path)
        side = QemuSide(address.path, process, ours=False)
    try:
        await side.connect()
        if not await names_its_threads(side):
            # Somebody passes the socket on, or opened it for QEMU.
            side.process = None
        yield side
    except QmpError as error:
        raise UsageError(f"'{vm}' cannot be looked at: {error}") from None
    finally:
        await side.close()
