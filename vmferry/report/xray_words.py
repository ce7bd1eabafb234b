"""An X-ray of a migration stream in words, tables and blocks of text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from vmferry.precopy.advice import advise
from vmferry.precopy.xray import HeatMap, Repeats, Row, XRayResult
from vmferry.units import format_share, format_size

# More rows than these are told together, in the middle.
_MOST_ROWS, _SHOWN = 24, 8
# From never to every page of a region in every pass.
SHADES, PLAIN_SHADES = " ░▒▓█", " .:+#"
# Letters for a pass where there are few.
_WIDEST = 4
_HEADINGS = ("Zero", "Ordinary", "XBZRLE", "First time", "Sent again", "Unchanged", "Sent")
NOTHING = "-"
# What is not rounded to all.
_ALL = 0.995


def headline(result: XRayResult) -> str:
    """What there was, in a sentence or two."""
    total = result.total
    pages = total.zero + total.ordinary + total.xbzrle
    many = "" if len(result.rows) == 1 else "es" if result.by == "pass" else "s"
    text = (
        f"{pages:,} pages of {format_size(result.page_size)} in {len(result.rows)}"
        f" {result.by}{many}, {format_size(total.bytes)} in all;"
        f" {format_size(total.resent_bytes)} of it for pages that had been sent before."
    )
    if result.sampled_share < _ALL:
        text += (
            f" The contents of {format_share(result.sampled_share)} of the pages were looked at."
        )
    if result.by == "sweep":
        text += (
            " A sweep ends when a page comes that it has had already: the stream itself does not"
            " tell where QEMU's passes begin."
        )
    if result.late_marks:
        rows = "row begins" if result.late_marks == 1 else "rows begin"
        text += f" {result.late_marks} {rows} later than the passes did."
    return text


def rows_table(result: XRayResult) -> list[tuple[str, ...]]:
    """A heading, a line for each pass or sweep, and their sum."""
    rows = list(result.rows)
    lines: list[tuple[str, ...]] = [(result.by.capitalize(), *_HEADINGS)]
    if len(rows) > _MOST_ROWS:
        middle = rows[_SHOWN:-_SHOWN]
        name = f"{middle[0].n}-{middle[-1].n}"
        lines += [_line(str(row.n), row) for row in rows[:_SHOWN]]
        lines.append(_line(name, XRayResult.sum_of(middle)))
        lines += [_line(str(row.n), row) for row in rows[-_SHOWN:]]
    else:
        lines += [_line(str(row.n), row) for row in rows]
    if len(rows) > 1:
        lines.append(_line("all", result.total))
    return lines


def findings(result: XRayResult) -> list[str]:
    """How often pages were sent, which regions are hot, and what could be saved."""
    lines = []
    if result.distinct_resent:
        lines.append(f"sent {', '.join(map(_repeat, filter(_any, result.repeats)))}")
    for region in result.hot:
        lines.append(
            f"hot: {region.block} from {region.start:#x} to {region.end:#x}"
            f" ({format_size(region.size)}): {format_share(region.share)} of the bytes sent again"
        )
    return lines + advise(result)


def heat_lines(result: XRayResult, width: int, height: int, shades: str) -> list[str]:
    """The heat map, a line for some regions and a letter for some passes; none where it is empty.

    A letter of `shades` tells how much of its memory was sent in one of its passes, on the average.
    """
    heat, rows = result.heat, result.column_rows
    if not rows:
        return []
    groups = list(_groups(heat, height))
    labels = [f"{block} {start:#x}" for block, start, _, _ in groups]
    margin = max(map(len, labels))
    room = max(1, width - margin - 2)
    step = -(-len(rows) // room)
    cells = [slice(i, i + step) for i in range(0, len(rows), step)]
    wide = min(_WIDEST, room // len(cells))
    lines = []
    for label, (_, _, size, sends) in zip(labels, groups, strict=True):
        pages = max(1, size // result.page_size)
        shares = [sum(sends[cell]) / (sum(rows[cell]) * pages) for cell in cells]
        letters = (_shade(share, shades) * wide for share in shares)
        lines.append(f"{label.rjust(margin)}  {''.join(letters)}")
    return lines


def _groups(heat: HeatMap, height: int) -> Iterator[tuple[str, int, int, list[int]]]:
    """Neighbouring regions of a block together: block, start, size, sends by column."""
    together = -(-len(heat.regions) // height)
    rows = list(zip(heat.regions, heat.sends, strict=True))
    for block, inside in groupby(rows, lambda row: row[0].block):
        mine = list(inside)
        for i in range(0, len(mine), together):
            part = mine[i : i + together]
            size = part[-1][0].end - part[0][0].start
            sends = [sum(column) for column in zip(*(row[1] for row in part), strict=True)]
            yield block, part[0][0].start, size, sends


def _shade(share: float, shades: str) -> str:
    last = len(shades) - 1
    return shades[0] if share <= 0 else shades[min(last, 1 + int(share * last))]


def _line(name: str, row: Row) -> tuple[str, ...]:
    unchanged = format_share(row.same / row.compared) if row.compared else NOTHING
    counts = (row.zero, row.ordinary, row.xbzrle, row.first, row.resent)
    return (name, *(f"{count:,}" for count in counts), unchanged, format_size(row.bytes))


def _any(one: Repeats) -> bool:
    return one.pages > 0


def _repeat(one: Repeats) -> str:
    often = {1: "once", 2: "twice"}.get(one.low, f"{one.low} times")
    if one.high > one.low:
        often = f"{one.low} to {one.high} times"
    return f"{often}: {one.pages:,} pages"
