"""The HTML page of one run: self-contained, one file, no network. All text from runs is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from vmferry.errors import UsageError
from vmferry.precopy.xray import XRayResult
from vmferry.report import curve, forecast_page, pictures
from vmferry.report.facts import Facts, facts, headline
from vmferry.report.html import document, pairs, picture, prose, scrolled, section, tiles
from vmferry.report.recording import Recording
from vmferry.report.timeline import timeline
from vmferry.report.xray_page import xray_sections
from vmferry.units import format_duration, format_rate, format_share, format_size


def render(lines: Iterable[Mapping[str, Any]], outcome: Mapping[str, Any] | None) -> str:
    """The page of a run from its trace lines and its outcome; None: not ended, or never told."""
    recording = Recording.read(lines)
    known = facts(recording, outcome)
    body = "\n".join(
        [
            *_head(known, recording),
            *_why(known, recording, outcome or {}),
            *_forecasts(known, recording),
            *_dirty(recording),
            *_curve(recording),
            *_xray(recording),
            *_pictures(recording),
            *_passes(known.passes),
            *_cost(outcome or {}),
            *_timeline(recording),
            *_environment(recording, outcome or {}),
        ]
    )
    return document(_title(known), body)


def _title(known: Facts) -> str:
    kind = "Rehearsal" if known.rehearsed else "Migration"
    return " ".join(part for part in (kind, known.run, known.vm) if part)


def _head(known: Facts, recording: Recording) -> Iterator[str]:
    yield f'<p class="kicker">{escape(_title(known))}</p>'
    yield f"<h1>{escape(headline(known))}</h1>"
    ending, _ = _ending_and_rest(known)
    if ending:
        yield f'<p class="why">{escape(ending[0].upper() + ending[1:])}</p>'
    yield tiles([*_tiles(known), *_memory_tiles(recording)])


def _why(known: Facts, recording: Recording, outcome: Mapping[str, Any]) -> Iterator[str]:
    """What `vmferry explain` tells of the run."""
    cost = outcome.get("cost") or {}
    explanation = recording.explanation(cost.get("migration_cpu_seconds"))
    if explanation is not None and explanation.verdict != "unknown":
        # With an outcome the headline and the figures have told the opening.
        lines = explanation.reasons if outcome else explanation.text
    else:
        _, lines = _ending_and_rest(known)
        if not lines and explanation is not None:
            lines = explanation.reasons
    if lines:
        arrived = explanation is not None and explanation.verdict == "converged"
        yield section("Where the time went" if arrived else "Why", "", *prose(lines))


def _ending_and_rest(known: Facts) -> tuple[str, tuple[str, ...]]:
    """What ended the run, and how it was explained at its end, where that follows."""
    ending, *rest = known.why.splitlines() or [""]
    if known.status in ("abandoned", "cancelled"):
        return ending, tuple(rest)
    return known.why, ()


def _forecasts(known: Facts, recording: Recording) -> Iterator[str]:
    if recording.rehearsal is not None:
        yield from forecast_page.of_rehearsal(recording.rehearsal)
    else:
        yield from forecast_page.of_move(recording, known)


def _dirty(recording: Recording) -> Iterator[str]:
    figure = pictures.dirty(recording)
    if figure is not None:
        yield section(
            "Dirty memory left",
            "Upright lines are where passes begin; each finds what was rewritten meanwhile. The VM "
            "can switch over when a pass begins below the threshold: what can be sent within "
            "QEMU’s downtime limit.",
            picture(figure, "dirty"),
        )


def _curve(recording: Recording) -> Iterator[str]:
    known = curve.curves(recording)
    if known is not None:
        yield section(
            "Dirty curve",
            "How much memory the guest rewrites in a window of each length, with the band of eight "
            "in ten cases. While that is less than can be sent meanwhile, passes get shorter, down "
            "to QEMU’s shortest (dotted); where the two meet before, they settle. Below the "
            "threshold the VM can switch over." + _held(known),
            picture(curve.draw(known), "curve"),
        )


def _held(known: curve.Curves) -> str:
    throttle = known.found.throttle if known.found is not None else 0
    return f" The guest is drawn as it was held at the end, by {throttle} %." if throttle else ""


def _xray(recording: Recording) -> Iterator[str]:
    if recording.xray is None:
        return
    try:
        result = XRayResult.from_json(recording.xray)
    except UsageError as error:
        yield section("X-ray of the pages", error.message)
        return
    yield from xray_sections(result)


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


def _memory_tiles(recording: Recording) -> Iterator[tuple[str, str, str]]:
    """What a rehearsal found of the guest besides."""
    found = recording.profile
    if found is not None:
        zero = format_size(found["zero_pages"] * found["page_size"])
        yield "Memory", format_size(found["ram_bytes"]), f"{zero} of it zero pages"
        if found.get("slowdown"):
            yield "Guest slowed by", format_share(found["slowdown"]), "while it was rehearsed"


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
        if figure is not None:
            yield section(title, caption, picture(figure, f"picture-{number}"))


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
    lines = []
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
        lines.append(f"<tr>{''.join(cells)}</tr>")
    yield section(
        "Passes",
        "≈ estimated: inferred from the samples around it, not counted by QEMU."
        if any_estimated
        else "",
        scrolled(
            f"<table><thead><tr><th>Pass</th>{heads}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table>"
        ),
    )


def _cost(outcome: Mapping[str, Any]) -> Iterator[str]:
    rows = [*_cost_rows(outcome.get("cost") or {}), *_guest_rows(outcome.get("guest") or {})]
    if rows:
        yield section("What it cost, and the proof", "", pairs(rows))


def _cost_rows(cost: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for when in ("before", "during", "after"):
        value = cost.get(f"work_{when}")
        if value is not None:
            yield f"Guest’s work {when} the move", f"{value:,.0f} page writes per second"
    if cost.get("work_loss_percent") is not None:
        yield "Work lost to the move", f"{cost['work_loss_percent']:.1f} %"
    for thread, share in (cost.get("vcpu_run_delay_percent") or {}).items():
        yield f"Run delay of {thread}", f"{share:.1f} % of the time"
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
    lines = ["<thead><tr><th>Time</th><th>After</th><th>What</th></tr></thead><tbody>"]
    before = moments[0].t
    for moment in moments:
        since = _ms((moment.t - before) * 1000)
        cells = (f"{moment.t:.3f} s", f"+ {since}", moment.text)
        lines.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
        before = moment.t
    yield section(
        "Step by step", "", scrolled(f'<table class="text">{"".join(lines)}</tbody></table>')
    )


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
        yield section("Limits and versions", "", pairs(rows))
    for number, (t, parameters) in enumerate(recording.parameters):
        title = "QEMU’s parameters" if number == 0 else f"Parameters changed at {t:.1f} s"
        rows = [(key, _parameter(key, value)) for key, value in sorted(parameters.items())]
        yield f"<details><summary>{title}</summary>{pairs(rows)}</details>"


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


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def _ms(milliseconds: float) -> str:
    return format_duration(milliseconds / 1000)
