"""What only root may see, and only asks for by `--deep`: IOMMU page tables, vhost's transmit calls.

Both cost the host something for a moment: the first walks page tables with the group's lock held,
the second puts probes on kernel functions. The probes are in a tracing instance of their own, and
both are taken away on every exit.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vmferry.host.kernel_files import read_text, reason_of

FUNCTIONS = ("handle_tx_zerocopy", "handle_tx_copy", "vhost_zerocopy_callback", "skb_copy_ubufs")
# Names that the kernel gave the same functions later (Linux 6.10).
_SINCE = {"vhost_zerocopy_callback": ("vhost_zerocopy_complete",)}
PAGE_4K, PAGE_2M, PAGE_1G = 1 << 12, 1 << 21, 1 << 30

_DEBUGFS = Path("/sys/kernel/debug")
_TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_TABLES = "iommu/intel"
_DUMP = "domain_translation_struct"
# Before 6.0 the dump is written with interrupts off; from 6.7 on, with a file for each device, it
# may follow a wild pointer, which was mended in 6.18 (Linux fbe6070c73ba, fixing 2b437e804566).
_LOCKED_BEFORE, _WILD_FROM, _MENDED_IN = (6, 0), (6, 7), (6, 18)
_DEVICE = re.compile(r"Device (\S+)")
_LEAF = re.compile(r"(?:0x)?[0-9a-f]+\s*\|((?:\s+0x[0-9a-f]+){5})\s*")
_LEAVES_MOST = 4_000_000
_EVENTS = "kprobe_events"
_TRIGGER = "hist:keys=common_pid:size=512"
_LEFT_OVER = re.compile(r"^[pr]\d*:((?:vmferry_)(\d+))/(\w+) ", re.MULTILINE)
_RELEASE = re.compile(r"(\d+)\.(\d+)")


def release_of(kernel: str) -> tuple[int, int]:
    """`6.1.0-53-amd64` is (6, 1); (0, 0) where the text is no release."""
    found = _RELEASE.match(kernel)
    return (int(found[1]), int(found[2])) if found is not None else (0, 0)


def dump_problem(kernel: str) -> str:
    """Why this kernel's dump of the IOMMU's tables is not read; empty where it may be."""
    release = release_of(kernel)
    if release < _LOCKED_BEFORE:
        return (
            f"Linux {kernel} writes its IOMMU tables out with interrupts off; 6.0 and later do not"
        )
    if _WILD_FROM <= release < _MENDED_IN:
        return (
            f"Linux {kernel} may oops when its IOMMU tables are read (mended in 6.18 by "
            "fbe6070c73ba; whether this kernel has that too cannot be told)"
        )
    return ""


def read_leaf_pages(
    kernel: str, devices: Sequence[str], unread: dict[str, str], debugfs: Path = _DEBUGFS
) -> dict[str, dict[int, int]] | None:
    """Leaf entries by page size in the VT-d tables of each device (a PCI address)."""
    problem = dump_problem(kernel)
    if problem:
        unread["leaf_pages"] = problem
        return None
    common = debugfs / _TABLES / _DUMP
    found: dict[str, dict[int, int]] = {}
    try:
        if release_of(kernel) < _WILD_FROM:
            with common.open(errors="replace") as dump:
                found = count_leaves(dump, devices)
        else:
            for device in devices:
                with (debugfs / _TABLES / device / _DUMP).open(errors="replace") as dump:
                    found |= count_leaves(dump, [device])
    except OSError as error:
        unread["leaf_pages"] = (
            f"{reason_of(error, error.filename or common)} (it needs root, VT-d, a kernel with "
            "INTEL_IOMMU_DEBUGFS, and debugfs mounted)"
        )
        return None
    missing = [device for device in devices if device not in found]
    if missing:
        unread["leaf_pages"] = f"the IOMMU's tables do not have {', '.join(missing)}"
    return found


def count_leaves(dump: Iterator[str], devices: Sequence[str]) -> dict[str, dict[int, int]]:
    """Leaf entries by page size, from the text of one dump.

    A row has the entries of the levels on the way, from the fifth down to the first; the last one
    that is not zero is the leaf. What comes after the first four million rows is left out.
    """
    found: dict[str, dict[int, int]] = {}
    counts: dict[int, int] | None = None
    rows = 0
    for line in dump:
        device = _DEVICE.match(line)
        if device is not None:
            counts = found.setdefault(device[1], {}) if device[1] in devices else None
        leaf = _LEAF.fullmatch(line) if counts is not None else None
        if leaf is None or counts is None:
            continue
        *_, third, second, first = (int(entry, 16) for entry in leaf[1].split())
        size = PAGE_4K if first else PAGE_2M if second else PAGE_1G if third else 0
        counts[size] = counts.get(size, 0) + 1
        rows += 1
        if rows >= _LEAVES_MOST:
            break
    return found


class TransmitProbes:
    """Counts calls of vhost's transmit functions; a context manager. `problem` says why not.

    Each function gets a probe and a histogram, which counts in the kernel without a record of each
    call. What is not in this kernel (inlined, or the module is not loaded) is not counted.
    """

    def __init__(self, tracefs: Sequence[Path] = _TRACEFS) -> None:
        self.problem = ""
        self._group = f"vmferry_{os.getpid()}"
        self._places = tracefs
        self._tracefs: Path | None = None
        self._probed: list[str] = []

    def __enter__(self) -> TransmitProbes:
        # Looked for no earlier: to look below debugfs may mount tracefs.
        self._tracefs = next((path for path in self._places if _writable(path / _EVENTS)), None)
        if self._tracefs is None:
            self.problem = "there is no kprobe_events in tracefs (it needs root, and a tracefs)"
            return self
        try:
            self._set_up()
        except OSError as error:
            self.problem = reason_of(error, error.filename or self._tracefs)
        except BaseException:
            self._remove()
            raise
        if not self._probed and not self.problem:
            self.problem = "this kernel has none of vhost's transmit functions to probe"
        return self

    def _set_up(self) -> None:
        assert self._tracefs is not None
        self._remove_left_over()
        self._instance.mkdir()
        for name in FUNCTIONS:
            for symbol in (name, *_SINCE.get(name, ())):
                with contextlib.suppress(OSError):
                    _append(self._tracefs / _EVENTS, f"p:{self._group}/{name} {symbol}")
                    self._probed.append(name)
                    break
        for name in self._probed:
            # By thread, so that another VM's calls can be told from this one's.
            _append(self._event(name) / "trigger", _TRIGGER)

    def _remove_left_over(self) -> None:
        """The probes of an audit that was killed."""
        assert self._tracefs is not None
        left: dict[str, list[str]] = {}
        for group, pid, name in _LEFT_OVER.findall(read_text(self._tracefs / _EVENTS)):
            # In a container the next audit often has the number of the one that was killed.
            if int(pid) == os.getpid() or not Path("/proc", pid).exists():
                left.setdefault(group, []).append(name)
        for group, names in left.items():
            _remove(self._tracefs, group, names)

    def counts(self) -> dict[str, dict[int, int]] | None:
        """Calls so far, by function and thread; None where `problem` says why."""
        if self.problem:
            return None
        try:
            return {
                name: parse_histogram(read_text(self._event(name) / "hist"))
                for name in self._probed
            }
        except OSError as error:
            self.problem = reason_of(error, error.filename or self._instance)
            return None

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        if self._tracefs is not None:
            _remove(self._tracefs, self._group, self._probed)

    @property
    def _instance(self) -> Path:
        assert self._tracefs is not None
        return self._tracefs / "instances" / self._group

    def _event(self, name: str) -> Path:
        return self._instance / "events" / self._group / name


_ENTRY = re.compile(r"common_pid:\s*(\d+)\s*\}\s*hitcount:\s*(\d+)")


def parse_histogram(text: str) -> dict[int, int]:
    """Hits by thread, from the text of a trigger's `hist`."""
    return {int(tid): int(hits) for tid, hits in _ENTRY.findall(text)}


def transmit_calls(
    first: Mapping[str, Mapping[int, int]],
    last: Mapping[str, Mapping[int, int]],
    threads: frozenset[int] | None,
) -> dict[str, int]:
    """Calls between two readings, by function; of those threads only, where they are known.

    The callback may run in any context, so it is counted for all.
    """
    return {
        name: sum(
            hits - first.get(name, {}).get(tid, 0)
            for tid, hits in now.items()
            if threads is None or tid in threads or not name.startswith("handle_tx")
        )
        for name, now in last.items()
    }


def _remove(tracefs: Path, group: str, names: Sequence[str]) -> None:
    """Take a group's histograms, instance and probes away, as far as they are there."""
    for name in names:
        with contextlib.suppress(OSError):
            _append(
                tracefs / "instances" / group / "events" / group / name / "trigger", f"!{_TRIGGER}"
            )
    with contextlib.suppress(OSError):
        (tracefs / "instances" / group).rmdir()
    for name in names:
        # The kernel lets a probe go a moment after its last user.
        for _ in range(10):
            try:
                _append(tracefs / _EVENTS, f"-:{group}/{name}")
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK)


def _append(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode() + b"\n")
    finally:
        os.close(descriptor)
