"""The HTML page of one run: self-contained, one file, no network. All text from runs is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from plotly.io import to_html
from plotly.offline import get_plotlyjs

from vmferry import __version__
from vmferry.report import pictures
from vmferry.report.facts import UNDER_WAY, Facts, facts, headline
from vmferry.report.recording import Recording
from vmferry.report.timeline import timeline
from vmferry.units import format_duration, format_rate, format_size

# Nothing may be fetched or sent, whatever a trace holds.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
PLOTLY = {"displaylogo": False, "responsive": True, "displayModeBar": False}


def render(lines: Iterable[Mapping[str, Any]], outcome: Mapping[str, Any] | None) -> str:
    """The page of a run from its trace lines and its outcome; None: not ended, or never told."""
    recording = Recording.read(lines)
    known = facts(recording, outcome)
    body = "\n".join(
        [
            *_head(known),
            *_convergence(known, recording),
            *_pictures(recording),
            *_passes(known.passes),
            *_cost(outcome or {}),
            *_timeline(recording),
            *_environment(recording, outcome or {}),
        ]
    )
    return document(_title(known), body)


def document(title: str, body: str) -> str:
    """A page around `body`, which must be escaped already."""
    style = resources.files("vmferry.report").joinpath("page.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n"
        f"<script>{get_plotlyjs()}</script></head>\n<body><main>\n{body}\n"
        f"<footer>Written by vmferry {escape(__version__)}.</footer>\n</main></body></html>\n"
    )


def _title(known: Facts) -> str:
    return " ".join(part for part in ("Migration", known.run, known.vm) if part)


def _head(known: Facts) -> Iterator[str]:
    yield f'<p class="kicker">{escape(_title(known))}</p>'
    yield f"<h1>{escape(headline(known))}</h1>"
    if known.why:
        yield f'<p class="why">{escape(known.why[0].upper() + known.why[1:])}</p>'
    yield '<dl class="tiles">'
    for name, value, note in _tiles(known):
        yield (
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
            f'<dd class="note">{escape(note)}</dd></div>'
        )
    yield "</dl>"


def _convergence(known: Facts, recording: Recording) -> Iterator[str]:
    """Whether a run without an outcome converges; an outcome says why it did not."""
    explanation = recording.explanation() if known.status == UNDER_WAY else None
    if explanation is not None:
        sentences = "\n".join(explanation.reasons)
        yield "<section><h2>Whether it converges</h2>"
        yield f'<p class="why">{escape(sentences)}</p></section>'


def _tiles(known: Facts) -> Iterator[tuple[str, str, str]]:
    if known.total_ms is not None:
        yield "Total time", _ms(known.total_ms), f"{len(known.passes):,} passes"
    if known.promised_ms is not None:
        yield "Downtime promised", f"≤ {_ms(known.promised_ms)}", "what the user allowed"
    if known.downtime_ms is not None:
        yield "Downtime by QEMU", _ms(known.downtime_ms), _kept(known, known.downtime_ms)
    if known.gap_ms is not None:
        yield (
            "Guest gap",
            _ms(known.gap_ms),
            f"by the host’s clock{_kept(known, known.gap_ms, ', ')}",
        )
    if known.bytes is not None:
        yield "Sent", format_size(known.bytes), _sent_note(known)


def _kept(known: Facts, measured: float, lead: str = "") -> str:
    if known.promised_ms is None or known.status != "completed":
        return ""
    return lead + ("within the promise" if measured <= known.promised_ms else "over the promise")


def _sent_note(known: Facts) -> str:
    notes = []
    if known.resent_bytes is not None:
        notes.append(f"{format_size(known.resent_bytes)} of it again")
    if known.downtime_bytes is not None:
        notes.append(f"{format_size(known.downtime_bytes)} while stopped")
    return ", ".join(notes)


def _pictures(recording: Recording) -> Iterator[str]:
    drawn = (
        (
            "Dirty memory left",
            "Upright lines are where passes begin; each finds what was rewritten meanwhile. The VM "
            "can switch over when a pass begins below the threshold: what can be sent within "
            "QEMU’s downtime limit.",
            pictures.dirty(recording),
        ),
        (
            "Speed",
            "What was sent per second, by QEMU’s last 100 ms, and what the guest rewrote per "
            "second, by the last pass.",
            pictures.speed(recording),
        ),
        (
            "Throttle",
            "CPU time that QEMU took from the guest to make it converge.",
            pictures.throttle(recording),
        ),
        (
            "Handover",
            "Coloured: that side’s vCPUs ran. Never both; the gap is the downtime.",
            pictures.handover(recording),
        ),
        (
            "Heartbeat gaps",
            "The longest interval between two heartbeats of the guest around each moment, "
            "by the host’s clock. Dotted: the migration begins, and the vCPUs stop.",
            pictures.beat_gaps(recording),
        ),
        (
            "Guest’s work",
            "Page writes per second by the guest’s page writer: what the move cost it. Dotted: "
            "the migration begins, and the vCPUs stop.",
            pictures.work(recording),
        ),
    )
    for number, (title, caption, figure) in enumerate(drawn):
        if figure is None:
            continue
        picture = to_html(
            figure,
            full_html=False,
            include_plotlyjs=False,
            config=PLOTLY,
            div_id=f"picture-{number}",
        )
        yield f"<section><h2>{title}</h2><p>{caption}</p>{picture}</section>"


PASS_COLUMNS = (
    ("start_ms", "Began", lambda v: f"{v / 1000:.2f} s"),
    ("duration_ms", "Took", lambda v: _ms(v)),
    ("dirty_bytes", "Dirty at its start", format_size),
    ("new_bytes", "Newly dirty", format_size),
    ("sent_bytes", "Sent", format_size),
    ("zero_pages", "Zero pages", lambda v: f"{v:,}"),
    ("left_bytes", "Left at its end", format_size),
)


def _passes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    heads = "".join(f"<th>{name}</th>" for _, name, _ in PASS_COLUMNS)
    yield '<section><h2>Passes</h2><div class="scroll"><table>'
    yield f"<thead><tr><th>Pass</th>{heads}</tr></thead><tbody>"
    any_estimated = False
    for row in rows:
        estimated = row.get("estimated") or ()
        any_estimated = any_estimated or bool(estimated)
        stopped = " (VM stopped)" if row.get("switchover") else ""
        cells = [f"<td>{escape(str(row.get('n', '')))}{stopped}</td>"]
        for key, _, text in PASS_COLUMNS:
            value = row.get(key)
            shown = "–" if value is None else escape(text(value))
            cells.append(
                f'<td class="est">≈ {shown}</td>' if key in estimated else f"<td>{shown}</td>"
            )
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
    if any_estimated:
        yield "<p>≈ estimated: inferred from the samples around it, not counted by QEMU.</p>"
    yield "</section>"


def _cost(outcome: Mapping[str, Any]) -> Iterator[str]:
    rows = [*_cost_rows(outcome.get("cost") or {}), *_guest_rows(outcome.get("guest") or {})]
    if rows:
        yield f"<section><h2>What it cost, and the proof</h2>{_pairs(rows)}</section>"


def _cost_rows(cost: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for when in ("before", "during", "after"):
        value = cost.get(f"work_{when}")
        if value is not None:
            yield f"Guest’s work {when} the move", f"{value:,.0f} page writes per second"
    if cost.get("work_loss_percent") is not None:
        yield "Work lost to the move", f"{cost['work_loss_percent']:.1f} %"
    for thread, percent in (cost.get("vcpu_run_delay_percent") or {}).items():
        yield f"Run delay of {thread}", f"{percent:.1f} % of the time"
    if cost.get("migration_cpu_seconds") is not None:
        yield "CPU of the migration threads", f"{cost['migration_cpu_seconds']:.2f} s"
    if cost.get("vmferry_cpu_seconds") is not None:
        yield "CPU of vmferry", f"{cost['vmferry_cpu_seconds']:.2f} s"
    if cost.get("pinned_to"):
        yield "Migration threads kept to cores", ", ".join(map(str, cost["pinned_to"]))


def _guest_rows(guest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if guest.get("beats") is not None:
        missing = guest.get("missing_beats") or 0
        yield "Heartbeats", f"{guest['beats']:,} received, {missing:,} missing"
    if guest.get("guest_clock_gap_ms") is not None:
        yield "Longest gap by the guest’s own clock", _ms(guest["guest_clock_gap_ms"])
    if guest.get("verified") is not None:
        lost = guest.get("lost_pages") or 0
        pages = guest.get("verified_pages")
        checked = "" if pages is None else f"{pages:,} pages checked in the guest: "
        yield "Memory", checked + ("all intact" if guest["verified"] else f"{lost:,} lost")


def _timeline(recording: Recording) -> Iterator[str]:
    moments = timeline(recording)
    if not moments:
        return
    yield '<section><h2>Step by step</h2><div class="scroll"><table class="text">'
    yield "<thead><tr><th>Time</th><th>After</th><th>What</th></tr></thead><tbody>"
    before = moments[0].t
    for moment in moments:
        since = _ms((moment.t - before) * 1000)
        yield f"<tr><td>{moment.t:.3f} s</td><td>+ {since}</td><td>{escape(moment.text)}</td></tr>"
        before = moment.t
    yield "</tbody></table></div></section>"


def _environment(recording: Recording, outcome: Mapping[str, Any]) -> Iterator[str]:
    header = recording.header
    rows = [("Started at", str(header["started_at"]))] if "started_at" in header else []
    policy = outcome.get("policy") or header.get("policy")
    if policy:
        rows.append(("Policy", str(policy)))
    rows += [_limit(key, value) for key, value in (header.get("limits") or {}).items()]
    rows += [(f"Version of {key}", _plain(v)) for key, v in (header.get("versions") or {}).items()]
    last = recording.last_sample
    if last is not None and last.total:
        rows.append(("Guest RAM", format_size(last.total)))
    if rows:
        yield f"<section><h2>Limits and versions</h2>{_pairs(rows)}</section>"
    for number, (t, parameters) in enumerate(recording.parameters):
        title = "QEMU’s parameters" if number == 0 else f"Parameters changed at {t:.1f} s"
        rows = [(key, _parameter(key, value)) for key, value in sorted(parameters.items())]
        yield f"<details><summary>{title}</summary>{_pairs(rows)}</details>"


def _limit(key: str, value: Any) -> tuple[str, str]:
    match key:
        case "max_downtime_ms":
            return "Downtime promised", _ms(value)
        case "downtime_limit_ms":
            return "QEMU’s downtime limit at the start", _ms(value)
        case "bandwidth":
            return "Bandwidth", format_rate(value) if value else "unlimited"
        case "deadline":
            return "Deadline", "none" if value is None else format_duration(value)
        case _:
            return key, _plain(value)


def _parameter(key: str, value: Any) -> str:
    if key in ("max-bandwidth", "max-postcopy-bandwidth", "avail-switchover-bandwidth"):
        return format_rate(value) if value else "unlimited"
    return f"{value} ms" if key == "downtime-limit" else _plain(value)


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f'<div class="scroll"><table class="pairs">{cells}</table></div>'


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def _ms(milliseconds: float) -> str:
    return format_duration(milliseconds / 1000)
