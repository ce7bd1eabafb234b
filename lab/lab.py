"""A lab: one or two hosts that are up, and the network between them.

    async with Lab.up(hosts=2, vtd=True) as lab:
        await lab.link(rate=parse_rate("500Mbit/s"), delay=0.002)
        result = await lab.hosts[0].run("lspci", timeout=30)

Such a lab is the block's own: it ends with the block, and with the process if that is killed.
`./dev lab up` makes the common one, which stays; `Lab.attach()` finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

from lab import image as images
from lab import network, payload, places, prepared, process, record
from lab.errors import LabError
from lab.host import Host
from lab.image import Image, Say
from lab.machine import Files, Options, command_line, link_between
from lab.record import Record
from vmferry.errors import UsageError

_UP_SECONDS = 60.0
# struct sockaddr_un has 108 bytes for the path and the zero that ends it.
_SOCKET_PATH_MAX = 107
_OWN = "own-"
# One whose record is in the runtime folder of another login may be just starting.
_YOUNG_SECONDS = 600.0


def _quiet(_: str) -> None:
    pass


class Lab:
    """A lab that is up. `hosts` are `a` and, where there are two, `b`."""

    def __init__(self, name: str, options: Options, hosts: list[Host]) -> None:
        self.name = name
        self.options = options
        self.hosts = hosts

    @classmethod
    @contextlib.asynccontextmanager
    async def up(
        cls,
        hosts: int = 1,
        *,
        vtd: bool = False,
        cpus: int = 2,
        memory: int = 0,
        append: str = "",
        say: Say = _quiet,
    ) -> AsyncIterator[Lab]:
        """A lab of the block's own; what is missing is built first (minutes, once).

        `vtd`: hosts have an Intel IOMMU, an e1000e and an NVMe disk. `memory` in bytes (0: enough);
        `append`: more words for the hosts' kernel. `say` hears what is being done. Raises LabError.
        """
        options = Options(vtd=vtd, cpus=cpus, memory=memory, append=append)
        lab = await start(own_name(), hosts, options, say, own=True)
        try:
            yield lab
        finally:
            remove(lab.name)

    @classmethod
    def attach(cls, name: str = places.COMMON) -> Lab:
        """The lab that `./dev lab up` started. Raises UsageError where none is up."""
        found = record.load(name)
        if found is None or not found.ready:
            raise UsageError("no lab is up", hint="`./dev lab up` starts one")
        hosts = [Host(index, _files(name, index), qemu) for index, qemu in enumerate(found.hosts)]
        return cls(name, found.options, hosts)

    def host(self, name: str) -> Host:
        """The host of that name. Raises UsageError."""
        for host in self.hosts:
            if host.name == name:
                return host
        names = " and ".join(host.name for host in self.hosts)
        raise UsageError(f"there is no host '{name}' in this lab; there is {names}")

    async def link(self, rate: int | None = None, delay: float = 0.0) -> None:
        """Limit the network between the hosts: bytes a second each way (None: no limit), and
        seconds of delay each way. Raises LabError or UsageError."""
        await network.limit([host.agent for host in self.hosts], rate, delay)


def own_name() -> str:
    """A name that no other lab has."""
    return f"{_OWN}{secrets.token_hex(3)}"


async def start(name: str, hosts: int, options: Options, say: Say, *, own: bool = False) -> Lab:
    """Start a lab of that name; where it is up already, nothing is done. Raises LabError.

    Whatever stops it, Ctrl-C too, nothing of it is left. `own`: it ends with this process.
    """
    if not 1 <= hosts <= len(network.NAMES):
        raise UsageError(f"a lab has 1 or {len(network.NAMES)} hosts, not {hosts}")
    # Nobody else knows the name of one's own.
    with contextlib.nullcontext() if own else _lock(name):
        sweep()
        found = _running(name, hosts, options)
        if found is not None:
            say("the lab is up already")
            return found
        remove(name)
        image = await asyncio.to_thread(images.build, say)
        try:
            return await _start(name, hosts, options, image, say, own=own)
        except BaseException:
            remove(name)
            raise


def down(name: str) -> bool:
    """End a lab and remove all it left; whether there was anything. Raises LabError."""
    with _lock(name):
        return remove(name)


def sweep() -> None:
    """Remove what labs of killed processes left."""
    for name in places.names():
        with contextlib.suppress(LabError):
            found = record.load(name)
            if found is None:
                dead = name.startswith(_OWN) and _lost_its_record(name)
            else:
                dead = found.owner is not None and not found.owner.alive()
            if dead:
                remove(name)


def _lost_its_record(name: str) -> bool:
    """Whether only disks are left: the runtime folder goes with the session or the boot."""
    disks = places.state(name)
    try:
        old = time.time() - disks.stat().st_mtime > _YOUNG_SECONDS
    except OSError:
        return False
    return old and not any(process.of_folder(disks))


def _running(name: str, hosts: int, options: Options) -> Lab | None:
    """The lab where it is up as it should be. Raises UsageError where it is up otherwise."""
    try:
        found = record.load(name)
    except LabError:
        return None
    if found is None or not found.ready or not all(one.alive() for one in found.hosts):
        return None
    if (len(found.hosts), found.options.to_json()) != (hosts, options.to_json()):
        raise UsageError(
            "a lab is up with other options",
            hint="`./dev lab status` tells which; `./dev lab down` ends it",
        )
    return Lab.attach(name)


async def _start(
    name: str, hosts: int, options: Options, image: Image, say: Say, *, own: bool
) -> Lab:
    state, packed = await asyncio.gather(
        prepared.prepare(image, options, say), asyncio.to_thread(payload.make, image, say)
    )
    try:
        return await _start_from(name, hosts, options, image, state, packed, own=own)
    except prepared.NotLoadable as error:
        say(f"{error.message}; it is made again")
        remove(name)
        state.discard()
        state = await prepared.prepare(image, options, say)
        return await _start_from(name, hosts, options, image, state, packed, own=own)


async def _start_from(
    name: str,
    count: int,
    options: Options,
    image: Image,
    state: prepared.Prepared,
    packed: Path,
    *,
    own: bool,
) -> Lab:
    known = Record(name, options, (), ready=False, owner=record.own_process() if own else None)
    places.runtime(name).mkdir(mode=0o700)
    known.save()
    places.state(name).mkdir(mode=0o700)
    hosts = []
    for index in range(count):
        files = _files(name, index)
        files.folder.mkdir(mode=0o700)
        if len(bytes(files.agent_sockets[-1])) > _SOCKET_PATH_MAX:
            raise UsageError(
                f"{files.agent_sockets[-1]} is too long for a socket",
                hint="set XDG_RUNTIME_DIR to a shorter path",
            )
        prepared.new_disk(image, state.disk, "qcow2", files.disk)
        words = command_line(
            image,
            options,
            f"{name}-{network.NAMES[index]}",
            files,
            link=link_between(places.runtime(name), index),
            payload=packed,
            incoming=True,
        )
        qemu = process.start(words, files, image.toolbox.qemu_environment(), tied=own)
        known = replace(known, hosts=(*known.hosts, qemu))
        known.save()
        hosts.append(Host(index, files, qemu))
    try:
        async with asyncio.TaskGroup() as group:
            for host in hosts:
                group.create_task(_make_ready(host, options, state))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    replace(known, ready=True).save()
    return Lab(name, options, hosts)


async def _make_ready(host: Host, options: Options, state: prepared.Prepared) -> None:
    await prepared.load(host.qemu, host.files, state)
    await prepared.until_up(host.agent, host.qemu, host.files, _UP_SECONDS)
    await network.introduce(host.agent, host.index)
    await payload.install(host.agent)
    if options.vtd:
        await host.plug_disk()


def _files(name: str, index: int) -> Files:
    host = network.NAMES[index]
    return Files(places.runtime(name) / host, places.state(name) / f"{host}.qcow2")


def remove(name: str) -> bool:
    """End the processes of a lab and remove its files; whether there was anything.

    For a lab of one's own, which no other command changes; else `down`.
    """
    folder = places.runtime(name)
    with contextlib.suppress(LabError):
        known = record.load(name)
        for one in known.hosts if known else ():
            process.end(one)
    # A command that was killed may have started one that it did not live to record.
    for one in process.of_folder(folder):
        process.end(one)
    there = folder.exists() or places.state(name).exists()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(places.state(name), ignore_errors=True)
    return there


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """One command at a time changes a lab. Raises LabError where another does."""
    with places.runtime(f".{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError("another command is starting or ending this lab now") from None
        yield
