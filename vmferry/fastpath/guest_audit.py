#!/usr/bin/env python3
"""Are the fast paths of KVM in use in this Linux guest? Reads only, needs nothing but Python 3.6.

`python3 guest_audit.py` prints a summary, `--json` the readings in one line for `vmferry audit`.
This one file is brought into guests, so it imports nothing of vmferry. Root is not needed; what
cannot be read has its reason in `unread`. Exit status 7: something is misconfigured.
"""

import argparse
import array
import fcntl
import json
import os
import re
import socket
import struct
import sys
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Rows = dict[str, tuple[str, dict[int, int]]]
    Facts = dict[str, Any]

_LONGEST = 4 << 20
_FOLDERS = {"cards": "/sys/class/net/", "disks": "/sys/block/"}
_SERVED = {"cards": "packets", "disks": "requests"}
_SIOCETHTOOL, _ETHTOOL_GCHANNELS = 0x8946, 0x3C
_SYSLOG_READ_ALL, _MONOTONIC = 3, 1
_LOOPS, _LOOP_SECONDS = 15, 0.002
_HOPS, _HOP_SECONDS = 400, 0.15
# For x86-64: call(function, a, b, c, n) calls function(a, b, c) n times, since a loop of Python's
# takes longer than what it measures; at byte 64 stands cpuid(leaf, four words).
_MACHINE_CODE = (
    "f30f1efa 53 4154 4155 4156 4157 4889fb 4989f4 4989d5 4989ce 4d89c7"  # keep the arguments
    "4c89e7 4c89ee 4c89f2 31c0 ffd3 49ffcf 75ee 415f 415e 415d 415c 5b c3 0f1f840000000000"
    "f30f1efa 53 89f8 31c9 0fa2 8906 895e04 894e08 89560c 5b c3"
)
# __NR_clock_gettime of 64-bit Linux.
_CLOCK_CALLS = {"x86_64": 228, "aarch64": 113, "riscv64": 113, "loongarch64": 113, "s390x": 260}
_PV_UNHALT, _HINT_DEDICATED = 1 << 7, 1 << 0
_IDLE, _STEAL = 3, 7
_FEW_INTERRUPTS, _WORKS, _FELL_BACK = 100, 2.5, 1.5  # ratios: a system call over libc's reading


class Unread(Exception):
    """It could not be read, for this reason."""


class Reader:
    """Reads files below `root`, and keeps why something could not be read, by its name."""

    def __init__(self, root: str = "") -> None:
        self.root = root
        self.unread = {}  # type: dict[str, str]

    def guard(self, name: str, function: "Callable[..., Any]", *arguments: "Any") -> "Any":
        """What the function gives, or None and the reason kept: nothing may end the audit."""
        try:
            return function(*arguments)
        except Exception as error:
            self.unread.setdefault(name, reason(error))
            return None

    def text(self, path: str) -> str:
        with Path(self.root + path).open(errors="replace") as file:
            return file.read(_LONGEST).replace("\0", " ").strip()

    def names(self, path: str) -> "list[str]":
        found = [one.name for one in Path(self.root + path).iterdir()]
        return sorted(found, key=lambda name: (len(name), name))  # rx-10 stands behind rx-9

    def there(self, path: str) -> bool:
        return os.path.exists(self.root + path)  # noqa: PTH110 - never raises

    def real(self, path: str) -> str:
        """Where links lead, as a path below the root."""
        root = os.path.realpath(self.root or "/").rstrip("/")
        return os.path.realpath(self.root + path)[len(root) :]


def reason(error: BaseException) -> str:
    """Why, for a person."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        root = " (root may)" if isinstance(error, PermissionError) and os.geteuid() else ""
        return place + error.strerror + root
    return str(error) if isinstance(error, Unread) else f"{type(error).__name__}: {error!s:.200}"


def cpu_list(text: str) -> "list[int]":
    """`0-2, 5` as numbers."""
    numbers = []  # type: list[int]
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        if int(last or first) - int(first) > 1 << 16:
            raise Unread(f"a list of CPUs reads {text:.80}")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def table(text: str) -> "Rows":
    """/proc/interrupts or /proc/softirqs: by label the rest of the line, and counts by CPU."""
    lines = text.splitlines() or [""]
    cpus = [int(word[3:]) for word in lines[0].split() if re.match("CPU[0-9]{1,5}$", word)]
    rows = {}
    for line in lines[1:]:
        label, _, rest = line.partition(":")
        words = rest.split(None, len(cpus))
        counts = words[: len(cpus)]
        if counts and len(counts) == len(cpus) and all(re.match("[0-9]+$", one) for one in counts):
            rows[label.strip()] = ("".join(words[len(cpus) :]), dict(zip(cpus, map(int, counts))))  # noqa: B905
    return rows


def changes(before: "dict[Any, int]", after: "dict[Any, int]") -> "dict[Any, int]":
    """What came within the window; counters of a CPU that was offline begin again."""
    return {key: max(count - before.get(key, 0), 0) for key, count in after.items()}


def per_cpu(before: "Rows", after: "Rows", label: str) -> "list[int]":
    """The same for a row, by number of CPU, 0 for one that is offline."""
    came = changes(before.get(label, ("", {}))[1], after[label][1])
    return [came.get(cpu, 0) for cpu in range(max(came, default=-1) + 1)]


def processor_times(text: str) -> "dict[int, dict[int, int]]":
    """/proc/stat: user, nice, system, idle, iowait, irq, softirq, steal of each CPU."""
    found = re.findall("^cpu([0-9]{1,5}) +([0-9 ]+)$", text, re.MULTILINE)
    return {int(cpu): dict(enumerate(map(int, rest.split()[: _STEAL + 1]))) for cpu, rest in found}


class Counters:
    """All that is counted, at one moment."""

    def __init__(self, reader: Reader) -> None:
        def read(name: str, function: "Callable[..., Any]", *arguments: "Any") -> "Any":
            return reader.guard(name, function, *arguments) or {}

        self.at = time.monotonic()
        self.interrupts = read("interrupts", lambda: table(reader.text("/proc/interrupts")))
        self.softirqs = read("softirqs", lambda: table(reader.text("/proc/softirqs")))
        self.times = read("busy", lambda: processor_times(reader.text("/proc/stat")))
        self.locks = read("lock_events", lock_events, reader)
        self.served = {}  # type: dict[str, Any]
        for kind in _FOLDERS:
            for name in read(kind, devices, reader, kind):
                key = kind + "." + name
                self.served[key] = reader.guard(key, served_by, reader, kind, name)


def devices(reader: Reader, kind: str) -> "list[str]":
    """Network cards or disks with hardware behind them: no bridges, no loops, no CD."""
    place = _FOLDERS[kind]
    names = [name for name in reader.names(place) if not re.match("sr[0-9]|fd[0-9]", name)]
    return [name for name in names if reader.there(place + name + "/device")]


def served_by(reader: Reader, kind: str, name: str) -> int:
    """Packets that came and went; reads, writes and discards of a disk that were completed."""
    place = _FOLDERS[kind] + name
    if kind == "cards":
        both = (reader.text(place + "/statistics/" + way) for way in ("rx_packets", "tx_packets"))
        return sum(map(int, both))
    words = reader.text(place + "/stat").split()
    return sum(int(words[column]) for column in (0, 4, 11) if column < len(words))


def lock_events(reader: Reader) -> "dict[str, int]":
    place = "/sys/kernel/debug/lock_event_counts/"
    return {x: int(reader.text(place + x)) for x in reader.names(place) if x[0] != "."}


def ancestors(path: str) -> "list[str]":
    """The path and the folders above it, the nearest first."""
    parts = path.split("/")
    return ["/".join(parts[:size]) for size in range(len(parts), 3, -1)]


def driver(reader: Reader, device: str) -> str:
    """Of the nearest device that drives hardware: sd drives what is behind a controller."""
    links = (place + "/driver" for place in ancestors(device))
    names = (reader.real(link).rpartition("/")[2] for link in links if reader.there(link))
    return next((name for name in names if name != "sd"), "")


def interrupts_of(reader: Reader, device: str, before: Counters, after: Counters) -> "Any":
    """Interrupts of the queues of a device within the window, by their name in /proc/interrupts."""
    if not after.interrupts:
        return None
    virtio = re.findall("/(virtio[0-9]+)(?=/|$)", device)
    places = [] if virtio else [x for x in ancestors(device) if reader.there(x + "/msi_irqs")]
    own = reader.names(places[0] + "/msi_irqs") if places else []
    found = {}
    for label, (tail, _) in after.interrupts.items():
        name = (re.findall(r"\S+(?:, \S+)*$", tail) or [label])[0]
        here = virtio and re.search(rf"(^|\s){virtio[-1]}(-|,|$)", name)
        if (here or label in own) and not re.search("-(config|control|event)$", name):
            key = name if name not in found else f"{name} ({label})"
            found[key] = per_cpu(before.interrupts, after.interrupts, label)
    if not found:
        raise Unread("/proc/interrupts has no line of " + "".join(virtio[-1:] or [device]))
    return found


def channels(card: str) -> "tuple[int, int]":
    """The most queues and those in use, as `ethtool -l` reads them."""
    told = array.array("I", [_ETHTOOL_GCHANNELS] + [0] * 8)
    asked = struct.pack("16sP", card.encode()[:15], told.buffer_info()[0]).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        fcntl.ioctl(line.fileno(), _SIOCETHTOOL, asked)
    return max(told[4], told[1], told[2]), max(told[8], told[5], told[6])


def common_facts(reader: Reader, kind: str, name: str, *both: Counters) -> "Facts":
    """What cards and disks have in common."""
    key, device = kind + "." + name, reader.real(_FOLDERS[kind] + name + "/device")
    rows = reader.guard(key + ".interrupts", interrupts_of, reader, device, *both)
    served = [both[1].served.get(key), both[0].served.get(key)]  # type: list[Any]
    return {
        "name": name,
        "driver": reader.guard(key + ".driver", driver, reader, device) or "",
        "interrupts": rows,
        _SERVED[kind]: None if None in served else max(served[0] - served[1], 0),
    }


def card_facts(reader: Reader, name: str, *both: Counters) -> "Facts":
    place, key = "/sys/class/net/" + name, "cards." + name
    most, now = None, None
    if not reader.root:
        most, now = reader.guard(key + ".most_queues", channels, name) or (None, None)
    if now is None:
        listed = reader.guard(key + ".queues", reader.names, place + "/queues") or ()
        now = sum(queue.startswith("rx-") for queue in listed) or None
    facts = common_facts(reader, "cards", name, *both)
    facts["mac"] = reader.guard(key + ".mac", reader.text, place + "/address") or ""
    facts.update(most_queues=most, queues=now)
    return facts


def disk_facts(reader: Reader, name: str, *both: Counters) -> "Facts":
    place = "/sys/block/" + name + "/mq"

    def queues() -> "list[list[int]]":
        files = [place + "/" + one + "/cpu_list" for one in reader.names(place)]
        return [cpu_list(reader.text(file)) for file in files]

    facts = common_facts(reader, "disks", name, *both)
    facts["queues"] = reader.guard("disks." + name + ".queues", queues)
    return facts


def machine_code() -> "tuple[Any, Any]":
    """The two functions of _MACHINE_CODE. Raises Unread, ImportError, OSError."""
    import ctypes
    import mmap

    if os.uname().machine != "x86_64" or struct.calcsize("P") != 8:
        raise Unread("there is machine code for x86-64 only")
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(bytes.fromhex(_MACHINE_CODE.replace(" ", "")))
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_long] * 5)
    call, cpuid = kind(at), kind(at + 64)
    call.memory = cpuid.memory = memory  # type: ignore[attr-defined] # it must live as long
    return call, cpuid


def cpuid_leaf(leaf: int) -> "tuple[int, ...]":
    """eax, ebx, ecx, edx. Raises Unread, ImportError, OSError."""
    if os.access("/dev/cpu/0/cpuid", os.R_OK):
        with Path("/dev/cpu/0/cpuid").open("rb", buffering=0) as file:
            return struct.unpack("4I", os.pread(file.fileno(), 16, leaf))
    import ctypes

    words = (ctypes.c_uint * 4)()
    machine_code()[1](leaf, ctypes.addressof(words), 0, 0, 0)
    return tuple(words)


def kvm_words() -> "tuple[int, int]":
    """Features and hints of KVM's own leaf, 0 without one; it stands higher beside Hyper-V's."""
    for base in range(0x40000000, 0x40001000, 0x100) if cpuid_leaf(1)[2] >> 31 else ():
        if struct.pack("3I", *cpuid_leaf(base)[1:]).startswith(b"KVMKVMKVM"):
            words = cpuid_leaf(base + 1)
            return words[0], words[3]
    return 0, 0


def kernel_log() -> str:
    """What the kernel said since boot, as far as it still knows. Raises OSError, ImportError."""
    import ctypes

    room = ctypes.create_string_buffer(_LONGEST)
    size = ctypes.CDLL(None, use_errno=True).klogctl(_SYSLOG_READ_ALL, room, _LONGEST)
    if size < 0:
        raise PermissionError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "dmesg")
    return room.raw[:size].decode(errors="replace")


def log_line(log: str, pattern: str) -> "str | None":
    """The first line of the kernel's log with the pattern, without its stamp."""
    found = re.search(r"^(?:<[0-9]+>)?(?:\[[ 0-9.]+\] )?(.*(?:" + pattern + ").*)$", log, re.M)
    return found.group(1) if found else None


def clock_facts(reader: Reader) -> "Facts":
    place = "/sys/devices/system/clocksource/clocksource0/"

    def live(name: str, function: "Callable[..., Any]", *arguments: "Any") -> "Any":
        return None if reader.root else reader.guard("clock." + name, function, *arguments)

    sources = reader.guard("clock.sources", reader.text, place + "available_clocksource")
    return {
        "source": reader.guard("clock.source", reader.text, place + "current_clocksource"),
        "sources": (sources or "").split(),
        "vdso_ns": live("vdso_ns", clock_ns, False),
        "syscall_ns": live("syscall_ns", clock_ns, True),
        "steps_back": live("steps_back", steps_back),
    }


def clock_ns(by_call: bool) -> float:
    """One clock_gettime(CLOCK_MONOTONIC). Raises Unread, ImportError, OSError."""
    import ctypes

    libc, machine = ctypes.CDLL(None), os.uname().machine
    room = ctypes.create_string_buffer(64)
    function, words = libc.clock_gettime, [_MONOTONIC, ctypes.addressof(room), 0]
    if by_call:
        if machine not in _CLOCK_CALLS or struct.calcsize("P") != 8:
            raise Unread(f"the number of the system call on {machine} is not known here")
        function, words = libc.syscall, [_CLOCK_CALLS[machine], *words[:2]]
    values = [ctypes.c_long(word) for word in words]
    if function(*values) != 0:
        raise Unread("clock_gettime fails")
    try:
        call, address = machine_code()[0], ctypes.cast(function, ctypes.c_void_p).value
        return per_call(lambda times: call(address, *words, times))
    except (OSError, Unread, ImportError):
        # Python's own part is larger than what is sought; a call that does nothing has it as well.
        whole = per_call(lambda times: [function(*values) for _ in range(times)])
        nothing = libc.getpagesize
        return max(whole - per_call(lambda times: [nothing(*values) for _ in range(times)]), 0.0)


def per_call(loop: "Callable[[int], object]") -> float:
    """Nanoseconds of one round: of the quickest of several loops, since we may lose the CPU."""

    def seconds(times: int) -> float:
        began = time.perf_counter()
        loop(times)
        return time.perf_counter() - began

    times = 16
    # The least of some here too: loops that one lost CPU left too short would measure Python.
    while min(seconds(times) for _ in range(3)) < _LOOP_SECONDS / 2 and times < 1 << 20:
        times *= 2
    return round(1e9 * min(seconds(times) for _ in range(_LOOPS)) / times, 2)


def steps_back() -> int:
    """How often the clock went back when we read it on one CPU after the other."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Unread("we may run on one CPU only")
    back, last, end = 0, 0.0, time.perf_counter() + _HOP_SECONDS
    try:
        for hop in range(_HOPS):
            os.sched_setaffinity(0, {allowed[hop % len(allowed)]})
            now = time.clock_gettime(_MONOTONIC)
            back, last = back + (now < last), now
            if time.perf_counter() > end:
                break
    finally:
        os.sched_setaffinity(0, allowed)
    return back


def collect(root: str, seconds: float) -> "Facts":
    """All readings; those that need the live machine are made only where `root` is empty."""
    reader = Reader(root)
    before = Counters(reader)
    time.sleep(seconds)
    after = Counters(reader)

    def each(kind: str, facts: "Any") -> "Any":
        names = reader.guard(kind, devices, reader, kind)
        found = [reader.guard(kind, facts, reader, name, before, after) for name in names or ()]
        return None if names is None else [one for one in found if one]

    log = "" if root else reader.guard("spinlocks", kernel_log) or ""
    spinlocks = log_line(log, "PV spinlocks|paravirtual spinlock|PV qspinlock hash")
    if log and not spinlocks:
        reader.unread["spinlocks"] = "no such line in the kernel's log, or it was overwritten"
    unstable = log_line(log, "Marking (TSC|clocksource 'tsc') .*unstable") or ""
    features = (None, None) if root else reader.guard("kvm_features", kvm_words) or (None, None)
    spent = [changes(before.times.get(cpu, {}), row) for cpu, row in sorted(after.times.items())]
    whole = [sum(row.values()) for row in spent]
    idle = [row.get(_IDLE, 0) / (total or 1) for row, total in zip(spent, whole)]  # noqa: B905
    steal = sum(row.get(_STEAL, 0) for row in spent)
    return {
        "event": "guest",
        "format": 1,
        "kernel": os.uname().release,
        "cpus": len(spent) or os.cpu_count() or 1,
        "window": round(after.at - before.at, 6),
        "command_line": reader.guard("command_line", reader.text, "/proc/cmdline"),
        "cards": each("cards", card_facts),
        "disks": each("disks", disk_facts),
        "clock": dict(clock_facts(reader), unstable=unstable),
        "kvm_features": features[0],
        "kvm_hints": features[1],
        "spinlocks": spinlocks,
        "steal": round(steal / sum(whole), 6) if any(whole) else None,
        "busy": [round(1 - share, 6) for share in idle] if any(whole) else None,
        "softirqs": {x: per_cpu(before.softirqs, after.softirqs, x) for x in after.softirqs}
        or None,
        "lock_events": changes(before.locks, after.locks) or None,
        "unread": reader.unread,
    }


def queue_words(now: "Any", most: "Any", rows: "Any", cpus: int) -> "tuple[str, str]":
    """A verdict on the queues of one device, and what it rests on."""
    counts = [sum(column) for column in zip(*(rows or {}).values())] or [0]  # noqa: B905
    words = f"{now or 'unknown'} of {most or 'unknown'} queues in use, {cpus} CPUs"
    if now and most and now < min(most, cpus):
        return "misconfigured", words + ": raise them with `ethtool -L CARD combined N`"
    if now == 1 and cpus > 1:
        return "could be better", words + ": the host can give one for each CPU"
    words += f", {max(counts)} of {sum(counts)} interrupts on one CPU"
    if not now or sum(counts) < _FEW_INTERRUPTS:
        return "cannot be told", words + ": put it under load"
    return "could be better" if now > 1 and max(counts) > 0.9 * sum(counts) else "ok", words


def clock_words(clock: "Facts", under_kvm: bool) -> "tuple[str, str]":
    words = "{source}: libc {vdso_ns} ns, system call {syscall_ns} ns, {steps_back} steps back"
    ratio = (clock["syscall_ns"] or 0.0) / (clock["vdso_ns"] or float("inf"))
    if clock["steps_back"] or (under_kvm and 0 < ratio <= _FELL_BACK):
        return "misconfigured", words.format(**clock)
    other = "not used" if 0 < ratio <= _FELL_BACK else "cannot be told"
    return "ok" if ratio >= _WORKS else other, words.format(**clock)


def spinlock_words(facts: "Facts") -> "tuple[str, str]":
    features, hints = facts["kvm_features"], facts["kvm_hints"]
    words = facts["spinlocks"] or f"CPUID features {features}, hints {hints}"
    if features == 0 or facts["cpus"] == 1:
        return "not used", words
    if features is None or hints & _HINT_DEDICATED:
        return "cannot be told", words + ": right only where each vCPU has a core of its own"
    if "nopvspin" in (facts["command_line"] or "").split():
        return "misconfigured", words
    return "ok" if features & _PV_UNHALT else "could be better", words


def summary(facts: "Facts") -> "list[tuple[str, str, str]]":
    """For each fast path, as far as a guest alone can tell: its name, a verdict, and why."""
    cpus, lines = facts["cpus"], []
    for card in facts["cards"] or ():
        words = queue_words(card["queues"], card["most_queues"], card["interrupts"], cpus)
        lines.append(("net-queues " + card["name"], *words))
    for disk in facts["disks"] or ():
        queues = len(disk["queues"] or ()) or None
        words = queue_words(queues, queues, disk["interrupts"], cpus)
        lines.append(("scsi-queues " + disk["name"], *words))
    lines.append(("pv-spinlocks", *spinlock_words(facts)))
    lines.append(("clock", *clock_words(facts["clock"], facts["kvm_features"] != 0)))
    for name in ("zero-copy", "large-pages", "migration-thread"):
        lines.append((name, "cannot be told", "only the host can see it: `vmferry audit` there"))
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Reads only; see the top of this file.")
    parser.add_argument("--json", action="store_true", help="the readings, in one line")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long counters are watched")
    options = parser.parse_args()
    facts = collect("", min(max(options.seconds, 0.0), 3600.0))
    if options.json:
        print(json.dumps(facts))
        return 0
    lines = summary(facts)
    for name, verdict, words in lines:
        print(f"{name:<24}{verdict:<17}{words}")
    print("Steal {:.1%} of {:.1f} s.".format(facts["steal"] or 0.0, facts["window"]))
    for name, why in sorted(facts["unread"].items()):
        print(f"  not read: {name} ({why})")
    return 7 if any(verdict == "misconfigured" for _, verdict, _ in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
