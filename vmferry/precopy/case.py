"""What a forecast is made of, beside the guest's profile: setting, link, host, where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmferry.precopy.profile import DirtyProfile
from vmferry.precopy.quantiles import Quantiles

# Of an idle guest's move on one host; docs/forecast.md.
FIXED_DOWNTIME = Quantiles(0.010, 0.015, 0.030)

# A cap beyond this holds nothing: libvirt sets 8 EiB/s where there shall be none.
MOST_BANDWIDTH = 2**40


@dataclass(frozen=True, slots=True)
class Setting:
    """How a migration is set up, by QEMU's parameters.

    `bandwidth` is the cap in bytes per second, 0 for none; `throttle` in per cent of the guest's
    time; `compress` names a ratio of the profile, such as `zstd-1`, and is empty for none. With
    `auto_converge` QEMU raises the throttle by itself.
    """

    bandwidth: int = 0
    downtime_limit_ms: int = 300
    throttle: float = 0.0
    compress: str = ""
    xbzrle: bool = False
    post_copy: bool = False
    auto_converge: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """What goes from source to destination, in bytes per second.

    `speed` is R of the passes were there no cap, the CPUs of both sides included; `burst` is B, the
    speed of the switchover, which no cap holds.
    """

    speed: Quantiles
    burst: Quantiles


def speed_of(setting: Setting, link: Link) -> float:
    """What the passes send, in bytes per second: the cap, or the link where that is slower."""
    return min(setting.bandwidth or link.speed.p50, link.speed.p50)


def threshold_of(setting: Setting, link: Link) -> float:
    """Less than that may be left for QEMU to end a pass, in bytes."""
    return speed_of(setting, link) * setting.downtime_limit_ms / 1000


@dataclass(frozen=True, slots=True)
class Host:
    """What the source, and the way to the destination, take for themselves. Seconds.

    A sync takes `sync_seconds` and `sync_seconds_per_page` for each page found written.
    `fixed_downtime_seconds` is what a downtime takes beside sending what is left: stop, sync,
    device state, resume.
    """

    setup_seconds: float = 0.005
    zero_pages_per_second: float = 1.5e6
    sync_seconds: float = 0.001
    sync_seconds_per_page: float = 0.0
    fixed_downtime_seconds: Quantiles = FIXED_DOWNTIME


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a running migration is: `t` seconds since migrate was issued, in pass `number`.

    `remaining` as QEMU counts it (zero pages in full), `sent` on the wire, both in bytes;
    `pass_elapsed` seconds have gone since the pass began.
    """

    t: float
    number: int
    remaining: float
    sent: float
    pass_elapsed: float


@dataclass(frozen=True, slots=True)
class Case:
    """One migration to forecast; `standing` is None before it begins."""

    profile: DirtyProfile
    setting: Setting
    link: Link
    host: Host = field(default_factory=Host)
    standing: Standing | None = None

    @property
    def speed(self) -> float:
        """What the passes send, in bytes per second."""
        return speed_of(self.setting, self.link)

    @property
    def threshold(self) -> float:
        """Less than that may be left for QEMU to end a pass, in bytes."""
        return threshold_of(self.setting, self.link)
