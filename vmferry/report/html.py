"""The frame of a page and what recurs in it: self-contained, one file, no network.

Text is escaped here; what is called markup must be escaped already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import resources

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from vmferry import __version__

# Nothing may be fetched or sent, whatever a trace holds.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
# A few words before a colon that name what follows.
_LEAD = re.compile(r"[A-Z][^:\d]{2,31}:(?= )")
_PLOTLY = {"displaylogo": False, "responsive": True, "displayModeBar": False}


def document(title: str, markup: str) -> str:
    """A page around `markup`."""
    style = resources.files("vmferry.report").joinpath("page.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n"
        f"<script>{get_plotlyjs()}</script></head>\n<body><main>\n{markup}\n"
        f"<footer>Written by vmferry {escape(__version__)}.</footer>\n</main></body></html>\n"
    )


def section(title: str, caption: str, *markup: str) -> str:
    """A heading, a line in small about what follows, and that."""
    told = f"<p>{escape(caption)}</p>" if caption else ""
    return f"<section><h2>{escape(title)}</h2>{told}{''.join(markup)}</section>"


def picture(figure: go.Figure, name: str) -> str:
    """The figure; `name` is its id in the page."""
    markup: str = to_html(
        figure, full_html=False, include_plotlyjs=False, config=_PLOTLY, div_id=name
    )
    return markup


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under the first, which names the columns."""
    head, *body = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body
    )
    return scrolled(f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>")


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return scrolled(f'<table class="pairs">{cells}</table>')


def tiles(values: Iterable[tuple[str, str, str]]) -> str:
    """The few figures that matter: name, value and a note on each."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        f'<dd class="note">{escape(note)}</dd></div>'
        for name, value, note in values
    )
    return f'<dl class="tiles">{cells}</dl>'


def prose(lines: Iterable[str]) -> Iterator[str]:
    """Paragraphs; those that begin with a dash are a list."""
    items: list[str] = []
    for line in lines:
        if line.startswith("- "):
            items.append(line[2:])
            continue
        yield from _list(items)
        items = []
        lead = _LEAD.match(line)
        end = lead.end() if lead else 0
        strong = f"<b>{escape(line[:end])}</b>" if end else ""
        yield f'<p class="text">{strong}{escape(line[end:])}</p>'
    yield from _list(items)


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "".join(_list(list(lines)))


def scrolled(markup: str) -> str:
    """What may be wider than the page, or very long."""
    return f'<div class="scroll">{markup}</div>'


def _list(items: Sequence[str]) -> Iterator[str]:
    if items:
        yield f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"
