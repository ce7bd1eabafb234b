"""Starts QEMU for an instance, detached from us, and waits until it answers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import subprocess

from vmferry.errors import UsageError
from vmferry.host.paths import instances_dir
from vmferry.host.process import ProcessId
from vmferry.hypervisor.qemu.command_line import command_line
from vmferry.hypervisor.qemu.instance import Instance, InstanceFiles, read_tail
from vmferry.hypervisor.qemu.networks import open_taps, release_bridges
from vmferry.hypervisor.qemu.pinning import pin_threads
from vmferry.hypervisor.qemu.qmp import Qmp, QmpError
from vmferry.hypervisor.qemu.resolve import Resolved, resolve
from vmferry.testguest.build import GuestImage, build
from vmferry.vm.spec import VmSpec

START_SECONDS = 30.0
_POLL_SECONDS = 0.02
# struct sockaddr_un has 108 bytes for the path and the zero that ends it.
_SOCKET_PATH_MAX = 107

# Held so that those which end are reaped, and the rest are not: they outlive us.
_started: list[subprocess.Popen[bytes]] = []


class LaunchError(UsageError):
    """QEMU did not start. `stderr` is what it wrote to its standard error."""

    def __init__(self, message: str, stderr: str) -> None:
        super().__init__(f"{message}: {stderr}" if stderr else message)
        self.stderr = stderr


async def launch(spec: VmSpec, *, incoming: bool = False) -> Instance:
    """Start an instance of `spec` and return it when its QMP sockets answer.

    With `incoming` it is a destination: stopped, and waiting for `migrate-incoming`. Of a QEMU that
    does not start nothing is left behind. Raises LaunchError with QEMU's own words, and UsageError.
    """
    _reap()
    resolved = await asyncio.to_thread(resolve, spec)
    image = await asyncio.to_thread(build) if spec.is_testguest else None
    files = _make_folder()
    process: subprocess.Popen[bytes] | None = None
    try:
        process = _start(resolved.spec, files, image, incoming=incoming)
        instance = _identify(process, files, resolved, incoming=incoming)
        instance.save()
        await _wait_until_it_answers(instance, process)
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(files.folder, ignore_errors=True)
        release_bridges(resolved.spec)
        raise
    _started.append(process)
    return instance


def _identify(
    process: subprocess.Popen[bytes], files: InstanceFiles, resolved: Resolved, *, incoming: bool
) -> Instance:
    spec = resolved.spec
    try:
        identity = ProcessId.of(process.pid)
    except ProcessLookupError:
        raise _ended(spec.name, process.wait(), files) from None
    return Instance(
        id=files.folder.name,
        vm=spec.name,
        folder=files.folder,
        process=identity,
        role="destination" if incoming else "source",
        version=resolved.version,
        spec=spec,
    )


def _ended(name: str, status: int, files: InstanceFiles) -> LaunchError:
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    return LaunchError(f"QEMU for '{name}' ended {how}", read_tail(files.stderr_log))


def _make_folder() -> InstanceFiles:
    while True:
        files = InstanceFiles(instances_dir() / secrets.token_hex(4))
        if len(bytes(files.heartbeat_socket)) > _SOCKET_PATH_MAX:
            raise UsageError(
                f"{files.heartbeat_socket} is too long for a socket",
                hint="set XDG_RUNTIME_DIR to a shorter path",
            )
        with contextlib.suppress(FileExistsError):
            files.folder.mkdir(mode=0o700)
            return files


def _start(
    spec: VmSpec, files: InstanceFiles, image: GuestImage | None, *, incoming: bool
) -> subprocess.Popen[bytes]:
    with open_taps(spec) as taps, files.stderr_log.open("ab") as log:
        words = command_line(spec, files, image, taps.words, incoming=incoming)
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                umask=0o177,
                pass_fds=taps.descriptors,
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(f"cannot run {words[0]}", error.strerror or str(error)) from None


async def _wait_until_it_answers(instance: Instance, process: subprocess.Popen[bytes]) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + START_SECONDS
    files = instance.files
    while True:
        status = process.poll()
        if status is not None:
            raise _ended(instance.vm, status, files)
        left = end - loop.time()
        if left <= 0:
            raise LaunchError(
                f"QEMU for '{instance.vm}' did not answer within {START_SECONDS:g} s",
                instance.stderr(),
            )
        if files.control_socket.exists():
            with contextlib.suppress(QmpError):
                qmp = await Qmp.connect(files.control_socket, timeout=left)
                try:
                    if instance.spec.cpu.pin:
                        await pin_threads(qmp, instance.process.pid, instance.spec.cpu.pin)
                finally:
                    await qmp.close()
                return
        await asyncio.sleep(_POLL_SECONDS)


def _reap() -> None:
    _started[:] = [process for process in _started if process.poll() is None]
