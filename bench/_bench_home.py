"""vmferry as a user runs it, in folders of its own that are gone when the benchmark ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from vmferry.hypervisor.qemu.instance import Instance, list_instances, load_instance
from vmferry.hypervisor.qemu.lifecycle import start_vm
from vmferry.hypervisor.qemu.resolve import resolve
from vmferry.testguest.agent import AgentClient
from vmferry.testguest.settings import PageWriterSettings
from vmferry.units import format_rate, format_size
from vmferry.vm.registry import Vm, create
from vmferry.vm.spec import VmSpec

COMMAND = (sys.executable, "-c", "from vmferry.cli.main import main; main()")


class Home:
    """State and runtime folders of this benchmark's own; a context manager.

    The cache stays the user's, so that the test guest is built once.
    """

    def __enter__(self) -> Home:
        # Short: the path of a socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="vfb-"))
        os.environ["XDG_STATE_HOME"] = str(self.folder / "state")
        os.environ["XDG_RUNTIME_DIR"] = str(self.folder / "run")
        # Ended from outside it shall leave nothing behind either.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for instance in list_instances():
            end(instance)
        shutil.rmtree(self.folder)

    def run(self, name: str, settings: PageWriterSettings, ram_mib: int, *extra: str) -> None:
        """Start a test guest under a name and return when its page writer runs."""
        spec = VmSpec.model_validate(
            {
                "name": name,
                "memory": {"size": f"{ram_mib}MiB"},
                "boot": {"kernel": "testguest"},
                "testguest": settings.model_dump(),
                "qemu": {"accelerator": "tcg", "extra": extra},
            }
        )
        asyncio.run(start_vm(resolve(spec).spec))

    def current(self, name: str) -> Instance:
        """The instance that has the VM's name."""
        folder = Vm(name).current()
        instance = load_instance(folder) if folder is not None else None
        if instance is None or not instance.alive():
            raise RuntimeError(f"'{name}' does not run")
        return instance

    def agent(self, name: str) -> AgentClient:
        """The agent in the guest, wherever the VM is now."""
        return AgentClient(self.current(name).files.agent_socket, timeout=60.0)

    def pass_name(self, instance: Instance) -> None:
        """Give a VM's name to an instance, also where vmferry has forgotten the name."""
        create(instance.spec).set_current(instance.folder)


def end(instance: Instance) -> None:
    """End a QEMU of ours and remove what it leaves."""
    instance.process.kill()
    instance.process.wait_dead(10.0)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(instance.process.pid, 0)
    instance.remove()


def command(*arguments: str) -> list[str]:
    """A vmferry command as a list of words."""
    return [*COMMAND, *arguments]


def describe(writer: PageWriterSettings) -> str:
    """A load in a few words, for tables."""
    unlimited = writer.write_rate == "unlimited"
    words = [
        format_size(writer.working_set),
        "unlimited" if unlimited else format_rate(int(writer.write_rate)),
        writer.order,
    ]
    if writer.hot_writes:
        words.append(f"{writer.hot_writes} % to {writer.hot_pages} %")
    if writer.phases:
        words.append(writer.phases)
    if writer.threads > 1:
        words.append(f"{writer.threads} threads")
    return " ".join(words)


def call(words: list[str], *allowed: int) -> str:
    """Run a vmferry command; what it wrote to standard output.

    Raises RuntimeError with what it said where it ends with another status than 0 and `allowed`.
    When we are interrupted, a move is given the time to be undone.
    """
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            process.terminate()
            raise
    if process.returncode not in (0, *allowed):
        raise RuntimeError(f"{words[3:]} ended with {process.returncode}: {err}")
    return out
