"""Kernel modules: which ones a driver needs, in which order, and their plain contents."""

from __future__ import annotations

import lzma
import re
from pathlib import Path

from vmferry.testguest.packages import run

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


class ModuleTree:
    """The modules of one kernel, as its package holds them (there is no modules.dep in it)."""

    def __init__(self, folder: Path) -> None:
        self._files = {_name(file): file for file in folder.rglob("*.ko*")}

    def load_order(self, *names: str) -> list[str]:
        """`names` and all that they need, each after its needs.

        A name without a file is left out: such a driver is built into the kernel.
        """
        order: list[str] = []

        def visit(name: str) -> None:
            if name in order or name not in self._files:
                return
            match = _DEPENDS.search(self.contents(name))
            for need in match[1].decode().split(",") if match else ():
                visit(need.replace("-", "_"))
            order.append(name)

        for name in names:
            visit(name)
        return order

    def contents(self, name: str) -> bytes:
        """The module as the kernel takes it, uncompressed."""
        file = self._files[name]
        if file.suffix == ".xz":
            return lzma.decompress(file.read_bytes())
        if file.suffix == ".zst":
            return run(["zstd", "-dcq", str(file)], file.parent)
        return file.read_bytes()


def _name(file: Path) -> str:
    return file.name.partition(".ko")[0].replace("-", "_")
