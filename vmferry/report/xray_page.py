"""The HTML page of an X-ray, and its sections in the page of a rehearsal."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from vmferry.precopy.xray import XRayResult
from vmferry.report.heatmap import heatmap
from vmferry.report.html import bullets, document, picture, section, table
from vmferry.report.xray_words import findings, headline, rows_table


def render_xray(result: XRayResult, name: str) -> str:
    """The page of `result`, of a stream that is called `name`."""
    parts = [
        f'<p class="kicker">{escape(name)}</p>',
        "<h1>X-ray of a migration stream</h1>",
        f'<p class="why">{escape(headline(result))}</p>',
        *_findings(result, "What it shows", ""),
        *_picture(result),
        *_rows(result),
    ]
    return document(f"X-ray of {name}", "\n".join(parts))


def xray_sections(result: XRayResult) -> Iterator[str]:
    """The same in a page with more: the picture first."""
    yield from _picture(result)
    yield from _findings(result, "X-ray of the pages", headline(result))
    yield from _rows(result)


def _findings(result: XRayResult, title: str, caption: str) -> Iterator[str]:
    lines = findings(result)
    if lines:
        yield section(title, caption, bullets(lines))


def _picture(result: XRayResult) -> Iterator[str]:
    figure = heatmap(result)
    if figure is not None:
        yield section(
            "Heat map",
            f"The guest’s memory from its first address downwards, {result.by} after {result.by}: "
            "white was not sent, the darkest blue was sent whole.",
            picture(figure, "heat-map"),
        )


def _rows(result: XRayResult) -> Iterator[str]:
    yield section(f"Pages, {result.by} by {result.by}", "", table(rows_table(result)))
