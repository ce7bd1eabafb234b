"""The HTML page of an X-ray: one file, no network."""

from __future__ import annotations

from html import escape

from plotly.io import to_html

from vmferry.precopy.xray import XRayResult
from vmferry.report.heatmap import heatmap
from vmferry.report.page import PLOTLY, document
from vmferry.report.xray_words import findings, headline, rows_table


def render_xray(result: XRayResult, name: str) -> str:
    """The page of `result`, of a stream that is called `name`."""
    parts = [
        f'<p class="kicker">{escape(name)}</p>',
        "<h1>X-ray of a migration stream</h1>",
        f'<p class="why">{escape(headline(result))}</p>',
        *_findings(result),
        *_picture(result),
        f"<section><h2>{result.by.capitalize()} by {result.by}</h2>"
        f'<div class="scroll">{_table(rows_table(result))}</div></section>',
    ]
    return document(f"X-ray of {name}", "\n".join(parts))


def _findings(result: XRayResult) -> list[str]:
    lines = findings(result)
    if not lines:
        return []
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f"<section><h2>What it shows</h2><ul>{items}</ul></section>"]


def _picture(result: XRayResult) -> list[str]:
    figure = heatmap(result)
    if figure is None:
        return []
    caption = (
        f"The guest’s memory from its first address downwards, {result.by} after {result.by}: "
        "the darker, the more of it was sent."
    )
    picture = to_html(
        figure, full_html=False, include_plotlyjs=False, config=PLOTLY, div_id="heat-map"
    )
    return [f"<section><h2>Heat map</h2><p>{caption}</p>{picture}</section>"]


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"
