"""The sections of a page about forecasts: of a move against what happened, of a rehearsal's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from vmferry.precopy.plan_words import VERDICTS
from vmferry.precopy.quantiles import Quantiles
from vmferry.report.bands import Band, cards, range_text, room_for, strip
from vmferry.report.facts import UNDER_WAY, Facts
from vmferry.report.forecast_pictures import narrowing, odds
from vmferry.report.html import bullets, picture, scrolled, section
from vmferry.report.recording import Recording
from vmferry.report.rehearsal_words import NOT_MEASURED
from vmferry.report.told import Told
from vmferry.units import format_duration, format_rate, format_share, format_size

_MARKS = {"converges": "✓", "does-not-converge": "✕", "uncertain": "?"}
_COLUMNS = ("Setting", "Converges", "Total time", "Downtime", "Sent")
_NOTHING = "–"


def of_move(recording: Recording, known: Facts) -> Iterator[str]:
    """What was foretold of a move beside what happened; nothing where nothing was."""
    told = recording.forecasts
    if not told:
        return
    first = next((one for one in told if one.total_ms is not None), told[0])
    yield section(
        "Forecast" if known.status == UNDER_WAY else "Forecast and what happened",
        _caption(first, _arrived(known)),
        f'<p class="verdict {first.verdict}">{_mark(first)} {escape(_spoken(first))}</p>',
        cards(list(_bands(first, known))) if first.total_ms is not None else "",
        _otherwise(known),
    )
    ended = known.total_ms / 1000 if _arrived(known) and known.total_ms is not None else None
    figure = narrowing(told, recording.span, ended)
    if figure is not None:
        yield section(
            "The end as it was foretold",
            "Told again as passes ended: the middle, and the band of eight in ten cases.",
            picture(figure, "narrowing"),
        )
    figure = odds(told, recording.span)
    if figure is not None:
        yield section(
            "Odds that it converges",
            "Told again as passes ended.",
            picture(figure, "odds"),
        )


def of_rehearsal(found: Mapping[str, Any]) -> Iterator[str]:
    """The forecasts that a rehearsal made, and what to know of them."""
    given = [one for one in (found.get("forecast"), *found.get("others", ())) if one]
    notes = [
        *(f"{NOT_MEASURED[one]}." for one in found.get("not_measured", ()) if one in NOT_MEASURED),
        *(f"{warning}." for warning in found.get("warnings", ())),
    ]
    if given:
        yield section(
            "Forecast of the move, and of others",
            "Each setting is a bandwidth and a downtime limit; the first is the one rehearsed. "
            "Bars are the band of eight in ten cases with its middle; where it is uncertain, of "
            "those that converge.",
            _what_if([Told.read(0.0, one) for one in given]),
            bullets(_capital(note) for note in notes),
        )
    elif notes:
        yield section("To know", "", bullets(_capital(note) for note in notes))


def _caption(first: Told, arrived: bool) -> str:
    when = "before the start" if first.t <= 0 else f"after {format_duration(first.t)}"
    if first.total_ms is None:
        return f"Told {when}."
    diamond = ", the diamond what happened" if arrived else ""
    return f"Told {when}. The bar is the band of eight in ten cases with its middle{diamond}."


def _spoken(first: Told) -> str:
    text = first.words[0].upper() + first.words[1:]
    cap = first.given.get("bandwidth")
    limit = first.given.get("downtime_limit_ms")
    if limit is None:
        return text
    speed = f"at {format_rate(cap)}" if cap else "without a bandwidth cap"
    return f"{text} {speed}, with a downtime limit of {_milliseconds(limit)}"


def _bands(first: Told, known: Facts) -> Iterator[Band]:
    there = _arrived(known)
    for name, foretold, happened, text in (
        ("Total time", first.total_ms, known.total_ms, _milliseconds),
        ("Downtime", first.downtime_ms, known.downtime_ms, _milliseconds),
        ("Sent", first.bytes, known.bytes, format_size),
        ("Passes", first.passes, len(known.passes) or None, lambda count: f"{count:.0f}"),
    ):
        if foretold is not None:
            yield Band(name, foretold, happened if there else None, text)


def _arrived(known: Facts) -> bool:
    """Only of a move that ended there is something to compare with."""
    return known.status == "completed"


def _otherwise(known: Facts) -> str:
    """How a move ended that did not get there."""
    if _arrived(known) or known.status == UNDER_WAY:
        return ""
    after = "" if known.total_ms is None else f" after {_milliseconds(known.total_ms)}"
    return f'<p class="text">What happened: {escape(known.status)}{escape(after)}.</p>'


def _what_if(told: Sequence[Told]) -> str:
    totals = room_for([one.total_ms.p90 for one in told if one.total_ms is not None])
    downtimes = room_for([one.downtime_ms.p90 for one in told if one.downtime_ms is not None])
    heads = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    rows = []
    for number, one in enumerate(told):
        cap, limit = one.given.get("bandwidth"), _milliseconds(one.given["downtime_limit_ms"])
        converges = f"{VERDICTS.get(one.verdict, one.verdict)}, {format_share(one.p_converge)}"
        cells = [
            _cell(f"{format_rate(cap) if cap else 'no cap'}, {limit}"),
            f'<td class="verdict {one.verdict}">{_mark(one)} {escape(converges)}</td>',
            _band_cell(one.total_ms, totals),
            _band_cell(one.downtime_ms, downtimes),
            _cell(_NOTHING if one.bytes is None else format_size(one.bytes.p50)),
        ]
        planned = ' class="planned"' if number == 0 else ""
        rows.append(f"<tr{planned}>{''.join(cells)}</tr>")
    return scrolled(
        f'<table class="what-if"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _band_cell(value: Quantiles | None, end: float) -> str:
    if value is None:
        return f"<td>{_NOTHING}</td>"
    middle, between = _milliseconds(value.p50), range_text(value, _milliseconds)
    return (
        f"<td>{strip(value, None, end, f'{middle}, {between}')}"
        f"{escape(middle)} <small>{escape(between)}</small></td>"
    )


def _mark(one: Told) -> str:
    return f'<b aria-hidden="true">{_MARKS.get(one.verdict, "")}</b>'


def _milliseconds(value: float) -> str:
    return format_duration(value / 1000)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
