"""The huge pages that this host has set aside."""

from __future__ import annotations

import re

from vmferry.host.kernel_files import Tree

_FOLDER = "/sys/kernel/mm/hugepages"
_COUNT = re.compile(r"[0-9]{1,18}")
_SIZE = re.compile(r"hugepages-(\d{1,12})kB")


def read_huge_pages(tree: Tree) -> dict[int, tuple[int, int]] | None:
    """Pages in all and free ones, by size in bytes; None, and why under `huge_pages`, where the
    kernel has none."""
    names = tree.names("huge_pages", _FOLDER)
    if names is None:
        return None
    found = {}
    for name in names:
        size = _SIZE.fullmatch(name)
        total, free = (
            _COUNT.fullmatch(tree.maybe(f"{_FOLDER}/{name}/{file}") or "")
            for file in ("nr_hugepages", "free_hugepages")
        )
        if size is not None and total is not None and free is not None:
            found[int(size[1]) * 1024] = (int(total[0]), int(free[0]))
    return found
