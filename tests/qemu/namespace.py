"""A network of a test's own: a namespace in which it may make taps and bridges, root or not."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests.qemu.home import COMMAND, Home


class NetworkHome(Home):
    """A home whose commands, and the VMs that they start, are in a network namespace of its own."""

    def __enter__(self) -> NetworkHome:
        super().__enter__()
        root = os.geteuid() == 0
        # Whoever is not root is root in a user namespace of its own.
        unshare = ["unshare", "--net"] if root else ["unshare", "--map-root-user", "--net"]
        self._holder = subprocess.Popen(
            [*unshare, "sh", "-c", "ip link set lo up && echo && exec sleep 3600"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"\n", "no network namespace can be made here"
        inside = ["nsenter", f"--target={self._holder.pid}", "--net"]
        self.prefix = inside if root else [*inside, "--user", "--preserve-credentials"]
        return self

    def __exit__(self, *error: object) -> None:
        self._holder.kill()
        self._holder.communicate()
        super().__exit__(*error)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return self.begin([*COMMAND, *arguments])

    def begin(self, command: list[str] | tuple[str, ...]) -> subprocess.Popen[str]:
        """Begin any command in the namespace."""
        return subprocess.Popen(
            [*self.prefix, *command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def links(self, *arguments: str) -> list[dict[str, Any]]:
        """What `ip -d link show` says."""
        shown = self.ip("-json", "-details", "link", "show", *arguments)
        return [one for one in json.loads(shown or "[]") if one]

    def ip(self, *arguments: str) -> str:
        done = self.begin(["ip", *arguments])
        output, errors = done.communicate()
        assert done.returncode == 0, errors
        return output
