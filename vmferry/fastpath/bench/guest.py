"""A guest of a benchmark: one QEMU, our program in it, and a line to both."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import re
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmferry.errors import UsageError, VmferryError
from vmferry.fastpath.bench.program import Image
from vmferry.fastpath.guest_audit import changes, table
from vmferry.host.kvm import kvm_problem
from vmferry.host.threads import ThreadTimes, thread_times
from vmferry.hypervisor.qemu.binary import find_binary
from vmferry.hypervisor.qemu.qmp import Qmp, QmpError, QmpGone

# A nested guest of a host in software boots in about 12 s, and in 40 s beside another one.
_BOOT_SECONDS = 240.0
_START_SECONDS = 30.0
_ANSWER_SECONDS = 60.0
_STATE_SECONDS = 5.0
_POLL_SECONDS = 0.05
_LONGEST = 16 << 20
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class GuestFailedError(VmferryError):
    """A guest of a benchmark did not start, or did not do what it was told."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a guest is. `memory` in MiB; `cpu` is QEMU's -cpu for KVM (TCG gets `max`)."""

    image: Image
    cpus: int
    memory: int = 256
    cpu: str = "host"
    arguments: tuple[str, ...] = ()
    words: str = ""
    descriptors: tuple[int, ...] = ()


def _now() -> float:
    return asyncio.get_running_loop().time()


def accelerator() -> str:
    """`kvm` where it boots stock guests, else `tcg`."""
    return "kvm" if kvm_problem() is None else "tcg"


class Guest:
    """A running guest. Make it with `started`."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._qmp: Qmp | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, command: str, timeout: float = _ANSWER_SECONDS) -> str:
        """The program's answer to a command. Raises GuestFailedError."""
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await self._connected()
                writer.write(command.encode() + b"\n")
                await writer.drain()
                size = int(await reader.readline())
                told = (await reader.readexactly(size)).decode(errors="replace")
        except (TimeoutError, OSError, ValueError, EOFError) as error:
            raise GuestFailedError(
                f"the guest did not answer '{command}' ({str(error) or 'too late'}; it is "
                f"{await self._state()}): {self._said()}"
            ) from None
        if "error: " in told[:200]:
            raise GuestFailedError(f"the guest could not '{command}': {told[:300]}")
        return told

    async def figures(self, command: str, timeout: float = _ANSWER_SECONDS) -> dict[str, Any]:
        """An answer that is JSON. Raises GuestFailedError."""
        told = await self.ask(command, timeout)
        try:
            return dict(json.loads(told))
        except ValueError:
            raise GuestFailedError(f"the guest answered '{command}' with {told[:200]}") from None

    async def counters(self) -> Counters:
        """Interrupts and softirqs so far. Raises GuestFailedError."""
        interrupts = table(await self.ask("read /proc/interrupts"))
        softirqs = table(await self.ask("read /proc/softirqs"))
        return Counters(
            {
                f"{label} {tail.rsplit(None, 1)[-1] if tail else ''}": row
                for label, (tail, row) in interrupts.items()
            },
            {label: row for label, (_, row) in softirqs.items()},
        )

    async def command(self, name: str, timeout: float = _ANSWER_SECONDS, **arguments: Any) -> Any:
        """What QEMU answers. Argument names are QMP's with _ for -. Raises GuestFailedError."""
        values = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            if self._qmp is None:
                self._qmp = await self._monitor()
            return await self._qmp.execute(name, values, timeout)
        except QmpError as error:
            raise GuestFailedError(f"QEMU failed at {name}: {error}; {self._said()}") from None

    async def _state(self) -> str:
        """The VM's state as QEMU tells it."""
        try:
            told = await self.command("query-status", timeout=_STATE_SECONDS)
        except GuestFailedError:
            return "in a state that QEMU does not tell"
        return str(told["status"])

    async def _monitor(self) -> Qmp:
        until = _now() + _START_SECONDS
        while True:
            try:
                return await Qmp.connect(self._folder / "qmp", _START_SECONDS)
            except QmpGone:  # it does not listen yet
                if self._process.returncode is not None or _now() > until:
                    raise
                await asyncio.sleep(_POLL_SECONDS)

    async def vcpu_counts(self) -> dict[str, int]:
        """What KVM counted for all vCPUs so far; nothing where this QEMU cannot tell."""
        try:
            told = await self.command("query-stats", target="vcpu")
        except GuestFailedError:
            return {}
        sums: dict[str, int] = {}
        for vcpu in told:
            for one in vcpu.get("stats", ()):
                if isinstance(one.get("value"), int):
                    sums[one["name"]] = sums.get(one["name"], 0) + one["value"]
        return sums

    def threads(self) -> list[ThreadTimes]:
        return thread_times(self.pid)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._line is None:
            if self._process.returncode is not None:
                raise GuestFailedError(f"QEMU ended: {self._said()}")
            try:
                path = self._folder / "load"
                self._line = await asyncio.open_unix_connection(path, limit=_LONGEST)
            except OSError:  # it is not there yet
                await asyncio.sleep(_POLL_SECONDS)
        return self._line

    def _said(self) -> str:
        texts = []
        for name in ("errors", "console"):
            with contextlib.suppress(OSError):
                text = (self._folder / name).read_text(errors="replace").strip()
                texts.append(f"{name} end with: {text[-600:]}" if text else f"no {name}")
        return "; ".join(texts)

    async def stop(self) -> None:
        """End it; nothing where it has ended."""
        if self._line is not None:
            self._line[1].close()
        if self._qmp is not None:
            await self._qmp.close()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()


@dataclass(frozen=True, slots=True)
class Counters:
    """Counts by row and CPU: of interrupts by `LABEL name`, of softirqs by name."""

    interrupts: dict[str, dict[int, int]]
    softirqs: dict[str, dict[int, int]]

    def since(self, before: Counters) -> Counters:
        """What came after `before`."""

        def came(now: dict[str, dict[int, int]], then: dict[str, dict[int, int]]) -> Any:
            return {name: changes(then.get(name, {}), row) for name, row in now.items()}

        return Counters(
            came(self.interrupts, before.interrupts), came(self.softirqs, before.softirqs)
        )

    def per_cpu(self, pattern: str) -> list[int]:
        """Interrupts of the rows whose name matches, by CPU."""
        rows = [row for name, row in self.interrupts.items() if re.search(pattern, name)]
        cpus = sorted({cpu for row in rows for cpu in row})
        return [sum(row.get(cpu, 0) for row in rows) for cpu in cpus]


def busiest_share(counts: Sequence[int]) -> float | None:
    """The share of the CPU that had most, in percent; None where there is nothing to share."""
    return round(100 * max(counts) / sum(counts), 1) if sum(counts) else None


@contextlib.asynccontextmanager
async def started(
    machine: Machine, folder: Path, *, incoming: bool = False
) -> AsyncIterator[Guest]:
    """A guest for one `async with`, its sockets in `folder`. With `incoming` it waits for a move.

    Raises UsageError without QEMU, GuestFailedError.
    """
    _make(folder)
    program = find_binary(None).path
    by = accelerator()
    words = [program, "-name", "vmferry-bench,debug-threads=on"]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    words += ["-machine", "q35", "-accel", by, "-cpu", machine.cpu if by == "kvm" else "max"]
    # Not a multiple of 256 KiB: under TCG QEMU before 9.0 loses writes of such guests in a move.
    words += ["-smp", str(machine.cpus), "-m", f"{machine.memory * 1024 + 8}k"]
    words += ["-kernel", str(machine.image.kernel), "-initrd", str(machine.image.initrd)]
    words += ["-append", f"{machine.image.words} {machine.words}".strip()]
    words += ["-serial", f"file:{folder / 'console'}"]
    words += ["-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"]
    words += ["-chardev", f"socket,id=load,path={folder / 'load'},server=on,wait=off"]
    words += ["-device", "virtio-serial-pci,id=line"]
    words += ["-device", "virtserialport,bus=line.0,chardev=load,name=load"]
    words += machine.arguments
    words += ["-incoming", "defer"] if incoming else []
    with (folder / "errors").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            pass_fds=machine.descriptors,
            preexec_fn=_end_with_parent,
        )
    guest = Guest(process, folder)
    try:
        if not incoming:
            await guest.ask("time", _BOOT_SECONDS)
        yield guest
    finally:
        await guest.stop()


def _end_with_parent() -> None:
    """Of a benchmark that is killed no guest is left."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _make(folder: Path) -> None:
    folder.mkdir()


def need_kvm() -> str:
    """Why a benchmark that means nothing without KVM cannot run here; empty where it can."""
    problem = kvm_problem()
    return f"it needs KVM, and {problem}" if problem else ""


def need_qemu() -> str:
    """Why no guest can be started here; empty where one can."""
    try:
        find_binary(None)
    except UsageError as error:
        return f"{error.message}: {error.hint}"
    return ""
