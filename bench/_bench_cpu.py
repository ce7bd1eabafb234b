"""What processes run: read from outside, to the nanosecond, while they run."""

from __future__ import annotations

import bisect
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

_ALL_THREADS = 2  # include/linux/posix-timers.h: CPUCLOCK_SCHED


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have run so far, ended ones too. Raises OSError.

    The clock is what clock_getcpuclockid(3) gives, which Python does not offer.
    """
    return time.clock_gettime((~pid << 3) | _ALL_THREADS)


def children(pid: int) -> list[int]:
    """The children of a process; none where it has ended."""
    with contextlib.suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@dataclass
class CpuLog:
    """Samples of the CPU that one process has used, by wall-clock time."""

    times: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def sample(self, pid: int) -> None:
        """Note what it has used now; nothing where it has ended."""
        with contextlib.suppress(OSError):
            used = cpu_seconds(pid)
            self.times.append(time.time())
            self.seconds.append(used)

    def between(self, start: float, end: float) -> float:
        """Seconds of CPU used from `start` to `end`, interpolated between samples."""
        return self._at(end) - self._at(start)

    def _at(self, t: float) -> float:
        after = bisect.bisect(self.times, t)
        if after == 0 or after == len(self.times):
            return self.seconds[min(after, len(self.times) - 1)]
        share = (t - self.times[after - 1]) / (self.times[after] - self.times[after - 1])
        return self.seconds[after - 1] + share * (self.seconds[after] - self.seconds[after - 1])
