"""Sizes, rates and durations: bytes, bytes per second and seconds inside, units at the edge."""

from __future__ import annotations

import math
import re

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_SIZES = {
    "": 1,
    "b": 1,
    "k": KIB,
    "kib": KIB,
    "m": MIB,
    "mib": MIB,
    "g": GIB,
    "gib": GIB,
    "t": 1024**4,
    "tib": 1024**4,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_BIT_RATES = {"bit/s": 1, "kbit/s": 10**3, "mbit/s": 10**6, "gbit/s": 10**9}
_DURATIONS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_NUMBER = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z/]*)\s*", re.ASCII)
# Networks are sold by `1Gb/s`, which is bits; an eighth is too far off to guess.
_BITS_OR_BYTES = re.compile(r"[KMGTkmgt]b(?:/[sS])?\s*$")


class UnitError(ValueError):
    """The text is not a quantity; the message names the text and what is allowed."""


def parse_size(text: str) -> int:
    """Bytes from `512MiB`, `1G`, `64 KiB` or `4096`; K, M and G are binary. Raises UnitError."""
    return _scaled(text, _SIZES, "a size such as 512MiB, 1GiB or 4096")


def parse_rate(text: str) -> int:
    """Bytes per second from `32MiB/s`, `1Gbit/s` or `32M`. Raises UnitError."""
    allowed = "a rate such as 32MiB/s or 1Gbit/s"
    lowered = text.lower()
    if "bit" in lowered:
        return _scaled(text, _BIT_RATES, allowed) // 8
    if _BITS_OR_BYTES.search(text):
        raise UnitError(f"'{text}' may be bits or bytes; it is not {allowed}")
    return _scaled(lowered.removesuffix("/s"), _SIZES, allowed, shown=text)


def parse_duration(text: str) -> float:
    """Seconds from `300ms`, `10s`, `2min`, `1h` or `10`. Raises UnitError."""
    number, unit = _split(text, "a duration such as 300ms, 10s or 2min")
    scale = _DURATIONS.get(unit)
    if scale is None:
        raise UnitError(f"'{text}' is not a duration such as 300ms, 10s or 2min")
    return number * scale


def format_size(count: float) -> str:
    """`1.5 GiB`: three significant digits, binary units."""
    for unit, size in (("TiB", 1024**4), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(count) >= size:
            return f"{_digits(count / size)} {unit}"
    return f"{count:.0f} B"


def format_rate(rate: float) -> str:
    """`32.0 MiB/s`."""
    return f"{format_size(rate)}/s"


def format_network_rate(rate: float) -> str:
    """`32.0 MiB/s (0.27 Gbit/s)`: as operators read a link."""
    return f"{format_rate(rate)} ({rate * 8 / 1e9:.2f} Gbit/s)"


def format_duration(seconds: float) -> str:
    """`300 ms`, `12.3 s`, `4 min 05 s` or `2 h 07 min`."""
    if not math.isfinite(seconds):
        return "for ever"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def format_share(share: float) -> str:
    """`12 %`; what is not more than half a per cent is not called none."""
    return "less than 1 %" if 0 < share <= 0.005 else f"{100 * share:.0f} %"


def _digits(value: float) -> str:
    return (
        f"{value:.2f}"
        if abs(value) < 10
        else f"{value:.1f}"
        if abs(value) < 100
        else f"{value:.0f}"
    )


def _split(text: str, allowed: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise UnitError(f"'{text}' is not {allowed}")
    return float(match[1]), match[2].lower()


def _scaled(text: str, table: dict[str, int], allowed: str, shown: str | None = None) -> int:
    number, unit = _split(text, allowed) if shown is None else _split_shown(text, allowed, shown)
    scale = table.get(unit)
    if scale is None:
        raise UnitError(f"'{shown or text}' is not {allowed}")
    return round(number * scale)


def _split_shown(text: str, allowed: str, shown: str) -> tuple[float, str]:
    try:
        return _split(text, allowed)
    except UnitError:
        raise UnitError(f"'{shown}' is not {allowed}") from None
