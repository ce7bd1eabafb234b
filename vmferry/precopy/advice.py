"""What each optimisation of a migration would be worth, by an X-ray: a line each, or none."""

from __future__ import annotations

from vmferry.precopy.xray import Compression, Delta, XRayResult
from vmferry.units import GIB, format_share, format_size

# Less is not worth a line.
_WORTH = 0.05
# Fewer sampled pages tell nothing.
_FEWEST_DELTAS = 30
_FEWEST_COMPRESSED = 64
# An ordinary page's and an XBZRLE page's record without the page (QEMU's migration/ram.c).
_HEAD, _XBZRLE_HEAD = 8, 11
# QEMU's default for xbzrle-cache-size.
_XBZRLE_CACHE = 64 * 1024**2


def advise(result: XRayResult) -> list[str]:
    """The lines, each with what it rests on. Nothing where there is no worth."""
    return [
        *_xbzrle(result),
        *_compression(result),
        *_unchanged(result),
        *_zero_pages(result),
    ]


def xbzrle_cut(result: XRayResult) -> float | None:
    """The part of the bytes sent again that XBZRLE would not have sent in this migration.

    None where nothing was measured. Its cache is taken to hold all pages that are sent again.
    """
    total, delta = result.total, result.delta
    if delta is None or delta.usable_ratio is None or not total.resent_bytes:
        return None
    cut = delta.usable * _saving(delta, delta.usable_ratio, result.page_size)
    # Zero pages sent again, of nine bytes each, stay as they are.
    return cut * _ordinary_resent_bytes(result) / total.resent_bytes


def compression_cut(result: XRayResult, level: int) -> float | None:
    """The part of pass 1's bytes that zstd of this level would not have sent; None: not known."""
    found = [one for one in result.compress if one.level == level]
    if not found or found[0].first_ratio is None or not result.rows or not result.rows[0].bytes:
        return None
    first = result.rows[0]
    plain = min(first.bytes, first.ordinary * (result.page_size + _HEAD))
    return max(0.0, (1 - 1 / found[0].first_ratio) * plain / first.bytes)


def _saving(delta: Delta, ratio: float, page_size: int) -> float:
    """The part of an ordinary page's record that its delta saves, on the average."""
    head = _XBZRLE_HEAD * (1 - delta.unchanged - delta.overflow) + _HEAD * delta.overflow
    return 1 - (ratio * page_size + max(head, 0.0)) / (page_size + _HEAD)


def _ordinary_resent_bytes(result: XRayResult) -> int:
    return result.total.resent_ordinary * (result.page_size + _HEAD)


def _xbzrle(result: XRayResult) -> list[str]:
    total = result.total
    if total.xbzrle:
        average = format_share(result.xbzrle_bytes / (total.xbzrle * result.page_size))
        return [
            f"XBZRLE is on: its {total.xbzrle:,} pages took {average} of a page each on the average"
        ]
    delta, cut = result.delta, xbzrle_cut(result)
    if delta is None or delta.sampled < _FEWEST_DELTAS:
        return []
    if cut is None:
        cut = 0.0
    long_run = _saving(delta, delta.ratio, result.page_size)
    if max(cut, long_run) < _WORTH:
        return []
    size = format_share(delta.ratio)
    rests = f"{_pages(delta.sampled)} sampled, deltas of {size} of a page on the average"
    line = f"XBZRLE would cut the bytes sent again by {format_share(cut)}"
    if long_run > cut + _WORTH:
        line += (
            f", and by up to {format_share(long_run)} in a longer migration: it begins with the"
            " third time that a page is sent"
        )
    return [f"{line}{_cache(result)} ({rests})"]


def _cache(result: XRayResult) -> str:
    """The cache that it takes, where QEMU's default is too small."""
    wanted = 1 << (result.distinct_resent * result.page_size - 1).bit_length()
    return f"; it takes a cache of {format_size(wanted)}" if wanted > _XBZRLE_CACHE else ""


def _compression(result: XRayResult) -> list[str]:
    lines: list[str] = []
    best = 0.0
    for one in sorted(result.compress, key=lambda one: one.level):
        cut = compression_cut(result, one.level)
        if cut is None or one.sampled < _FEWEST_COMPRESSED or cut < best + _WORTH:
            continue
        best = cut
        lines.append(_compression_line(result, one, cut))
    return lines


def _compression_line(result: XRayResult, one: Compression, cut: float) -> str:
    return (
        f"{one.name} would cut {result.by} 1 by {format_share(cut)} and needs"
        f" {one.cpu_seconds_per_gib:.1f} cores at {format_size(GIB)}/s of memory"
        f" ({_pages(one.sampled)} compressed on a core of this machine)"
    )


def _unchanged(result: XRayResult) -> list[str]:
    total = result.total
    if not total.compared or total.same / total.compared < _WORTH:
        return []
    share = format_share(total.same / total.compared)
    return [
        f"{share} of the pages with content that were sent again had not changed"
        f" ({_pages(total.compared)} compared): XBZRLE sends nothing for such a page"
    ]


def _zero_pages(result: XRayResult) -> list[str]:
    total = result.total
    pages = total.zero + total.ordinary + total.xbzrle
    if not pages or total.zero / pages < _WORTH:
        return []
    share, spared = (
        format_share(total.zero / pages),
        format_size(total.zero * (result.page_size - 1)),
    )
    return [
        f"zero pages: {share} of the pages sent ({total.zero:,}) were zero, which spared {spared}:"
        " leave the search for them on"
    ]


def _pages(count: int) -> str:
    return f"{count:,} pages"
