"""What this host has left, from /proc and /sys."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from vmferry.host.huge_pages import read_huge_pages
from vmferry.host.kernel_files import Tree
from vmferry.preflight.facts import Host

_KVM_PARAMETERS = ("eager_page_split",)


def read_host() -> Host:
    """Memory and KVM of this host. A missing file leaves its fact out."""
    memory = {
        match[1]: int(match[2]) * 1024
        for match in re.finditer(
            r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE
        )
    }
    pages = read_huge_pages(Tree(Path("/"), {})) or {}
    free = {size: count for size, (_, count) in pages.items()}
    kvm = {}
    for name in _KVM_PARAMETERS:
        with contextlib.suppress(OSError):
            kvm[name] = Path("/sys/module/kvm/parameters", name).read_text().strip()
    return Host(memory["MemAvailable"], memory.get("SwapFree", 0), free, kvm)
