"""What was foretold as strips: the band of eight in ten cases, its middle, what happened.

Each strip begins at zero, so that a band looks as wide as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from vmferry.precopy.quantiles import Quantiles

_ROOM = 1.06
# In per cent of the strip: a band of no width is still seen.
_THINNEST = 0.8


@dataclass(frozen=True, slots=True)
class Band:
    """One quantity; `text` writes a value of it. `happened` is None where nobody knows."""

    name: str
    foretold: Quantiles
    happened: float | None
    text: Callable[[float], str]


def cards(bands: Sequence[Band]) -> str:
    """A card for each band."""
    return f'<dl class="bands">{"".join(map(_card, bands))}</dl>'


def strip(foretold: Quantiles, happened: float | None, end: float, told: str) -> str:
    """The band on a scale from 0 to `end`; `told` is the same in words."""
    return (
        f'<svg class="strip" role="img" aria-label="{escape(told)}"><title>{escape(told)}</title>'
        f"{''.join(_marks(foretold, happened, end))}</svg>"
    )


def room_for(values: Sequence[float]) -> float:
    """The end of a scale that holds all of them."""
    return max([*values, 1e-9]) * _ROOM


def range_text(value: Quantiles, text: Callable[[float], str]) -> str:
    """`3.5 s to 4.7 s`, or one value where both are written alike."""
    low, high = text(value.p10), text(value.p90)
    return low if low == high else f"{low} to {high}"


def _card(band: Band) -> str:
    foretold, happened, text = band.foretold, band.happened, band.text
    end = room_for([foretold.p90, *([happened] if happened is not None else [])])
    lines = [
        f"<dt>{escape(band.name)}</dt>",
        f"<dd>{strip(foretold, happened, end, _words(band))}</dd>",
        f'<dd class="ends"><span>0</span><span>{escape(text(end))}</span></dd>',
        f'<dd class="foretold">{escape(text(foretold.p50))}'
        f" <small>{escape(range_text(foretold, text))}</small></dd>",
    ]
    if happened is not None:
        lines.append(
            f'<dd class="happened">{escape(text(happened))}'
            f" <small>{_where(foretold, happened)}</small></dd>"
        )
    return f"<div>{''.join(lines)}</div>"


def _words(band: Band) -> str:
    told = f"{band.name} foretold: {band.text(band.foretold.p50)}"
    told += f", {range_text(band.foretold, band.text)}"
    return told if band.happened is None else f"{told}; happened: {band.text(band.happened)}"


def _where(foretold: Quantiles, happened: float) -> str:
    if happened < foretold.p10:
        return "below the band"
    return "above the band" if happened > foretold.p90 else "within the band"


def _marks(foretold: Quantiles, happened: float | None, end: float) -> Iterator[str]:
    low, middle, high = (100 * one / end for one in (foretold.p10, foretold.p50, foretold.p90))
    width = max(high - low, _THINNEST)
    yield '<line class="axis" x1="0" x2="100%" y1="50%" y2="50%"/>'
    yield f'<rect class="band" x="{low:.2f}%" width="{width:.2f}%" y="20%" height="60%"/>'
    yield f'<line class="middle" x1="{middle:.2f}%" x2="{middle:.2f}%" y1="20%" y2="80%"/>'
    if happened is not None:
        yield (
            f'<svg class="mark" x="{100 * happened / end:.2f}%" y="50%">'
            '<path d="M0 -9 L6 0 L0 9 L-6 0 Z"/></svg>'
        )
